// Package publicdns simulates who serves the platform's domain to the world: one zone, which an authoritative name server
// answers from, which is changed by RFC 2136 or by Cloudflare's API, and which public recursive name servers repeat, with the
// caching that theirs do. It holds the records of ACME challenges only.
package publicdns

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// zoneSeconds is how long the answer lives that a name is not there, and that of the zone's own records: Cloudflare's.
	zoneSeconds = 1800
	idBytes     = 16
)

// Record is a TXT record.
type Record struct {
	ID      string
	Name    string // without a dot at its end, in small letters
	Content string
	TTL     uint32 // seconds
	Created time.Time
}

// Zone are the records below one name. Each change is a line of its log.
type Zone struct {
	ID     string
	Name   string // without a dot at its end
	server string // its name server's name

	log io.Writer
	now func() time.Time

	mu      sync.Mutex
	serial  uint32
	records []Record
}

// NewZone makes an empty zone; server is the name of its name server.
func NewZone(name, server string, log io.Writer) *Zone {
	return &Zone{ID: newID(), Name: canonical(name), server: dns.Fqdn(server), log: log, now: time.Now, serial: 1}
}

func newID() string {
	id := make([]byte, idBytes)
	_, _ = rand.Read(id) // never fails

	return hex.EncodeToString(id)
}

// canonical is a name without a dot at its end, in small letters.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// holds says whether a name is the zone's.
func (z *Zone) holds(name string) bool { return name == z.Name || strings.HasSuffix(name, "."+z.Name) }

// add makes a record; false when there is one with the same content.
func (z *Zone) add(name, content string, ttl uint32, by string) (Record, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()

	name = canonical(name)
	for _, one := range z.records {
		if one.Name == name && one.Content == content {
			return one, false
		}
	}

	made := Record{ID: newID(), Name: name, Content: content, TTL: ttl, Created: z.now()}
	z.records = append(z.records, made)
	z.changed("added", made, by)

	return made, true
}

// remove takes records away and says how many.
func (z *Zone) remove(by string, which func(Record) bool) int {
	z.mu.Lock()
	defer z.mu.Unlock()

	before := len(z.records)
	z.records = slices.DeleteFunc(z.records, func(one Record) bool {
		if !which(one) {
			return false
		}

		z.changed("removed", one, by)

		return true
	})

	return before - len(z.records)
}

func (z *Zone) changed(what string, one Record, by string) {
	z.serial++

	fmt.Fprintf(z.log, "%s %s by %s: %s %d TXT %s\n", z.now().UTC().Format(time.RFC3339), what, by, one.Name, one.TTL, one.Content)
}

// find gives the records of a name.
func (z *Zone) find(name string) []Record {
	z.mu.Lock()
	defer z.mu.Unlock()

	var found []Record

	for _, one := range z.records {
		if one.Name == canonical(name) {
			found = append(found, one)
		}
	}

	return found
}

// exists says whether there is a record at a name or below it: a name between two others is there, and has no records.
func (z *Zone) exists(name string) bool {
	z.mu.Lock()
	defer z.mu.Unlock()

	return name == z.Name || slices.ContainsFunc(z.records, func(one Record) bool {
		return one.Name == name || strings.HasSuffix(one.Name, "."+name)
	})
}

// authority is the zone's SOA record.
func (z *Zone) authority() *dns.SOA {
	z.mu.Lock()
	defer z.mu.Unlock()

	return &dns.SOA{
		Hdr: header(z.Name, dns.TypeSOA, zoneSeconds), Ns: z.server, Mbox: "hostmaster." + dns.Fqdn(z.Name),
		Serial: z.serial, Refresh: 10000, Retry: 2400, Expire: 604800, Minttl: zoneSeconds,
	}
}

func header(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: dns.Fqdn(name), Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// answer fills in what the zone says to a question about one of its names.
func (z *Zone) answer(reply *dns.Msg, question dns.Question) {
	name := canonical(question.Name)
	reply.Authoritative = true

	switch {
	case !z.exists(name):
		reply.Rcode = dns.RcodeNameError
	case question.Qtype == dns.TypeSOA && name == z.Name:
		reply.Answer = append(reply.Answer, z.authority())
	case question.Qtype == dns.TypeNS && name == z.Name:
		reply.Answer = append(reply.Answer, &dns.NS{Hdr: header(z.Name, dns.TypeNS, zoneSeconds), Ns: z.server})
	case question.Qtype == dns.TypeTXT:
		for _, one := range z.find(name) {
			// As it was asked: some resolvers mix small and large letters.
			reply.Answer = append(reply.Answer, &dns.TXT{Hdr: header(question.Name, dns.TypeTXT, one.TTL), Txt: chunks(one.Content)})
		}
	}

	if len(reply.Answer) == 0 {
		reply.Ns = append(reply.Ns, z.authority())
	}
}

// chunks are the strings of a TXT record, each of 255 bytes at most.
func chunks(content string) []string {
	const most = 255

	var all []string
	for ; len(content) > most; content = content[most:] {
		all = append(all, content[:most])
	}

	return append(all, content)
}
