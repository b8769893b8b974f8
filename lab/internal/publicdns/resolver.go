package publicdns

import (
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Resolver is a public recursive name server. It knows no other zone than this one, and keeps what it was told as long as
// the records say: also that a name is not there (RFC 2308).
type Resolver struct {
	Zone *Zone

	mu   sync.Mutex
	kept map[dns.Question]kept
}

type kept struct {
	reply *dns.Msg
	since time.Time
}

// ServeDNS answers one question.
func (r *Resolver) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(request)
	reply.RecursionAvailable = true

	switch {
	case request.Opcode != dns.OpcodeQuery || len(request.Question) != 1:
		reply.Rcode = dns.RcodeNotImplemented
	case !r.Zone.holds(canonical(request.Question[0].Name)):
		reply.Rcode = dns.RcodeNameError
	default:
		found := r.resolve(request.Question[0])
		reply.Rcode, reply.Answer, reply.Ns = found.Rcode, found.Answer, found.Ns
	}

	_ = w.WriteMsg(reply) // else the asker went
}

// resolve answers from what it kept, with the time that is left, or asks the zone.
func (r *Resolver) resolve(question dns.Question) *dns.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()

	key := dns.Question{Name: canonical(question.Name), Qtype: question.Qtype, Qclass: question.Qclass}
	now := r.Zone.now()

	if before, has := r.kept[key]; has {
		if gone := uint32(now.Sub(before.since).Seconds()); gone < life(before.reply) {
			return aged(before.reply, gone)
		}
	}

	reply := new(dns.Msg)
	r.Zone.answer(reply, question)

	if r.kept == nil {
		r.kept = map[dns.Question]kept{}
	}

	r.kept[key] = kept{reply, now}

	return reply
}

// life is how many seconds an answer may be kept.
func life(reply *dns.Msg) uint32 {
	seconds := uint32(zoneSeconds)

	for _, one := range slices.Concat(reply.Answer, reply.Ns) {
		seconds = min(seconds, one.Header().Ttl)
	}

	return seconds
}

func aged(reply *dns.Msg, gone uint32) *dns.Msg {
	reply = reply.Copy()

	for _, one := range slices.Concat(reply.Answer, reply.Ns) {
		one.Header().Ttl -= gone
	}

	return reply
}
