package world

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/publicdns"
)

// nameSeconds is how long an answer of the site's name servers is good.
const nameSeconds = 60

// siteNames answers as the site's name servers would: the lab's names, and with the wildcard of the platform's domain,
// which a hosts file cannot say.
type siteNames struct {
	known map[string]netip.Addr
	// domain is the platform's, whose names all are Traefik's; "" is none.
	domain  string
	traefik netip.Addr
	// public is asked for what is no address, where the settings say that this server sees the domain as the public does.
	public *publicdns.Resolver
}

func (s siteNames) find(name string) (netip.Addr, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if address, known := s.known[name]; known {
		return address, true
	}
	if s.domain != "" && strings.HasSuffix(name, "."+s.domain) {
		return s.traefik, true
	}
	return netip.Addr{}, false
}

// ServeDNS answers one question.
func (s siteNames) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	if s.public != nil && len(question.Question) == 1 && question.Question[0].Qtype != dns.TypeA {
		s.public.ServeDNS(w, question)
		return
	}
	answer := new(dns.Msg)
	answer.SetReply(question)
	answer.Authoritative, answer.RecursionAvailable = true, true

	for _, one := range question.Question {
		address, known := s.find(one.Name)
		if !known {
			answer.Rcode = dns.RcodeNameError
			continue
		}
		if one.Qtype == dns.TypeA && address.Is4() {
			answer.Answer = append(answer.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: one.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: nameSeconds}, A: address.AsSlice(),
			})
		}
	}
	_ = w.WriteMsg(answer) // else the asker went
}

// serveNames runs the name servers of the settings, which pods ask through CoreDNS. The commands in a world have a hosts file.
func serveNames(ctx context.Context, serving *sync.WaitGroup, spec *Spec, bridge *network.Bridge, public *publicdns.Resolver, say func(string, ...any)) error {
	s := spec.Settings
	site := siteNames{known: map[string]netip.Addr{}}
	for name, address := range spec.names() {
		site.known[strings.ToLower(name)] = address
	}
	if s.Services.Traefik != nil && s.Services.CertManager != nil {
		site.domain, site.traefik = strings.ToLower(s.Services.CertManager.Domain), s.Services.Traefik.Address
	}
	for _, address := range s.Network.NameServers {
		add := func() error { return network.AddLoopback(address) }
		if address == s.Network.Gateway {
			add = func() error { return nil }
		} else if s.Network.CIDR.Contains(address) {
			add = func() error { return bridge.AddAddress(address) }
		}
		if err := add(); err != nil {
			return err
		}
		handler := site
		if slices.Contains(s.resolvers(), address) {
			handler.public = public
		}
		if err := answerDNS(ctx, serving, netip.AddrPortFrom(address, dnsPort), handler, nil); err != nil {
			return err
		}
		say("name server %s (simulated): the lab's names", address)
	}
	return nil
}
