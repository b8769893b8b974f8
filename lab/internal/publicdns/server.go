package publicdns

import (
	"strings"

	"github.com/miekg/dns"
)

// Server is the zone's authoritative name server. With a key it takes updates (RFC 2136) that are signed with it.
type Server struct {
	Zone *Zone
	// KeyName and Algorithm (such as dns.HmacSHA256) are those of the key of updates; without a name there are none.
	KeyName, Algorithm string
}

// ServeDNS answers one question, or makes one update.
func (s Server) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(request)

	switch {
	case request.Opcode == dns.OpcodeUpdate:
		reply.Rcode = s.update(w, request)
	case request.Opcode != dns.OpcodeQuery || len(request.Question) != 1:
		reply.Rcode = dns.RcodeNotImplemented
	case !s.Zone.holds(canonical(request.Question[0].Name)):
		reply.Rcode = dns.RcodeRefused
	default:
		s.Zone.answer(reply, request.Question[0])
	}

	if signature := request.IsTsig(); signature != nil && w.TsigStatus() == nil {
		reply.SetTsig(signature.Hdr.Name, signature.Algorithm, signature.Fudge, int64(signature.TimeSigned)) //nolint:gosec // seconds
	}

	_ = w.WriteMsg(reply) // else the asker went
}

// Accept lets updates through, which the library refuses by itself.
func Accept(header dns.Header) dns.MsgAcceptAction {
	const shift, mask = 11, 0xF
	if int(header.Bits>>shift)&mask == dns.OpcodeUpdate {
		return dns.MsgAccept
	}

	return dns.DefaultMsgAcceptFunc(header)
}

// update makes what an update asks for; the answer is its code (RFC 2136, 2.2; RFC 8945, 5.2).
func (s Server) update(w dns.ResponseWriter, request *dns.Msg) int {
	signature := request.IsTsig()

	switch {
	case s.KeyName == "" || signature == nil:
		return dns.RcodeRefused
	case !strings.EqualFold(signature.Hdr.Name, dns.Fqdn(s.KeyName)) || !strings.EqualFold(signature.Algorithm, s.Algorithm) || w.TsigStatus() != nil:
		return dns.RcodeNotAuth
	case len(request.Question) != 1 || canonical(request.Question[0].Name) != s.Zone.Name:
		return dns.RcodeNotZone
	case len(request.Answer) > 0: // conditions, which cert-manager sets none of
		return dns.RcodeNotImplemented
	}

	for _, change := range request.Ns {
		if !s.Zone.holds(canonical(change.Header().Name)) {
			return dns.RcodeNotZone
		}

		if kind := change.Header().Rrtype; kind != dns.TypeTXT && kind != dns.TypeANY {
			return dns.RcodeRefused
		}
	}

	for _, change := range request.Ns {
		s.change(change)
	}

	return dns.RcodeSuccess
}

// change makes one record, or takes some away: which, its class says.
func (s Server) change(change dns.RR) {
	const by = "RFC 2136"

	name := canonical(change.Header().Name)
	text, isText := change.(*dns.TXT)

	switch {
	case change.Header().Class == dns.ClassINET && isText:
		s.Zone.add(name, strings.Join(text.Txt, ""), text.Hdr.Ttl, by)
	case change.Header().Class == dns.ClassNONE && isText:
		s.Zone.remove(by, func(one Record) bool { return one.Name == name && one.Content == strings.Join(text.Txt, "") })
	case change.Header().Class == dns.ClassANY:
		s.Zone.remove(by, func(one Record) bool { return one.Name == name })
	}
}
