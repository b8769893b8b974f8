package publicdns

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	domain    = "example.com"
	challenge = "_acme-challenge.platform.example.com"
	token     = "dG9rZW4="
)

func newTestZone(t *testing.T) (*Zone, *bytes.Buffer, *time.Time) {
	t.Helper()

	log, now := &bytes.Buffer{}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	zone := NewZone(domain, "ns.example.net", log)
	zone.now = func() time.Time { return now }

	return zone, log, &now
}

// serve runs a handler on the loopback and gives its address.
func serve(t *testing.T, handler dns.Handler, key dns.TsigProvider) string {
	t.Helper()

	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	server := &dns.Server{PacketConn: packets, Handler: handler, TsigProvider: key, MsgAcceptFunc: Accept}
	ended := make(chan error, 1)

	go func() { ended <- server.ActivateAndServe() }()

	t.Cleanup(func() {
		_ = server.Shutdown()

		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	return packets.LocalAddr().String()
}

func ask(t *testing.T, server, name string, kind uint16) *dns.Msg {
	t.Helper()

	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(name), kind)

	reply, err := dns.Exchange(question, server)
	if err != nil {
		t.Fatal(err)
	}

	return reply
}

func texts(reply *dns.Msg) string {
	var all []string

	for _, one := range reply.Answer {
		if text, is := one.(*dns.TXT); is {
			all = append(all, strings.Join(text.Txt, ""))
		}
	}

	return strings.Join(all, " ")
}

func update(t *testing.T, server, secret string, change func(*dns.Msg)) int {
	t.Helper()

	message := new(dns.Msg)
	message.SetUpdate(dns.Fqdn(domain))
	change(message)

	client := &dns.Client{}
	if secret != "" {
		message.SetTsig("key.", dns.HmacSHA256, 300, time.Now().Unix())
		client.TsigSecret = map[string]string{"key.": secret}
	}

	reply, _, err := client.Exchange(message, server)
	if reply == nil {
		t.Fatal(err)
	}

	return reply.Rcode
}

func text(content string) []dns.RR {
	return []dns.RR{&dns.TXT{Hdr: header(challenge, dns.TypeTXT, 60), Txt: []string{content}}}
}

func TestAnUpdateNeedsTheKeyThatHoldsNow(t *testing.T) {
	zone, log, _ := newTestZone(t)
	secret := token
	server := serve(t, Server{Zone: zone, KeyName: "key", Algorithm: dns.HmacSHA256}, Key(func() string { return secret }))
	insert := func(m *dns.Msg) { m.Insert(text("proof")) }

	if code := update(t, server, "", insert); code != dns.RcodeRefused {
		t.Errorf("unsigned: %s", dns.RcodeToString[code])
	}

	wrong := base64.StdEncoding.EncodeToString([]byte("another"))
	if code := update(t, server, wrong, insert); code != dns.RcodeNotAuth {
		t.Errorf("another key: %s", dns.RcodeToString[code])
	}

	if code := update(t, server, token, insert); code != dns.RcodeSuccess {
		t.Errorf("the key: %s", dns.RcodeToString[code])
	}

	if got := texts(ask(t, server, challenge, dns.TypeTXT)); got != "proof" {
		t.Errorf("the record: %q", got)
	}

	secret = wrong
	if code := update(t, server, token, func(m *dns.Msg) { m.Remove(text("proof")) }); code != dns.RcodeNotAuth {
		t.Errorf("the old key: %s", dns.RcodeToString[code])
	}

	if code := update(t, server, wrong, func(m *dns.Msg) { m.Remove(text("proof")) }); code != dns.RcodeSuccess {
		t.Errorf("the new key: %s", dns.RcodeToString[code])
	}

	if reply := ask(t, server, challenge, dns.TypeTXT); reply.Rcode != dns.RcodeNameError {
		t.Errorf("after it is gone: %s", dns.RcodeToString[reply.Rcode])
	}

	if got := log.String(); !strings.Contains(got, "added by RFC 2136: "+challenge) || !strings.Contains(got, "removed by RFC 2136: "+challenge) {
		t.Errorf("log: %s", got)
	}
}

func TestAnUpdateOfAnotherZoneOrKindIsRefused(t *testing.T) {
	zone, _, _ := newTestZone(t)
	server := serve(t, Server{Zone: zone, KeyName: "key", Algorithm: dns.HmacSHA256}, Key(func() string { return token }))

	other := &dns.TXT{Hdr: header("example.org", dns.TypeTXT, 60), Txt: []string{"proof"}}
	if code := update(t, server, token, func(m *dns.Msg) { m.Insert([]dns.RR{other}) }); code != dns.RcodeNotZone {
		t.Errorf("another zone: %s", dns.RcodeToString[code])
	}

	address := &dns.A{Hdr: header("www.example.com", dns.TypeA, 60), A: net.IPv4(192, 0, 2, 1)}
	if code := update(t, server, token, func(m *dns.Msg) { m.Insert([]dns.RR{address}) }); code != dns.RcodeRefused {
		t.Errorf("an address: %s", dns.RcodeToString[code])
	}
}

func TestTheZoneIsFoundByClimbingToItsSOA(t *testing.T) {
	zone, _, _ := newTestZone(t)
	server := serve(t, Server{Zone: zone}, nil)

	if reply := ask(t, server, "platform.example.com", dns.TypeSOA); reply.Rcode != dns.RcodeNameError || len(reply.Ns) != 1 {
		t.Errorf("a name that is not there: %v", reply)
	}

	zone.add(challenge, "proof", 60, "test")

	if reply := ask(t, server, "platform.example.com", dns.TypeSOA); reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 0 {
		t.Errorf("a name above one that is there: %v", reply)
	}

	if reply := ask(t, server, domain, dns.TypeSOA); len(reply.Answer) != 1 {
		t.Errorf("the zone: %v", reply)
	}

	if reply := ask(t, server, "example.org", dns.TypeTXT); reply.Rcode != dns.RcodeRefused {
		t.Errorf("another zone: %v", reply)
	}
}

func TestAResolverKeepsWhatItWasToldAlsoThatANameIsNotThere(t *testing.T) {
	zone, _, now := newTestZone(t)
	server := serve(t, &Resolver{Zone: zone}, nil)

	if reply := ask(t, server, challenge, dns.TypeTXT); reply.Rcode != dns.RcodeNameError {
		t.Errorf("before: %v", reply)
	}

	zone.add(challenge, "first", 120, "test")

	if reply := ask(t, server, challenge, dns.TypeTXT); reply.Rcode != dns.RcodeNameError {
		t.Errorf("while it is kept that the name is not there: %v", reply)
	}

	*now = now.Add(zoneSeconds * time.Second)

	if got := texts(ask(t, server, challenge, dns.TypeTXT)); got != "first" {
		t.Errorf("after that: %q", got)
	}

	zone.add(challenge, "second", 120, "test")
	*now = now.Add(119 * time.Second)

	reply := ask(t, server, challenge, dns.TypeTXT)
	if texts(reply) != "first" || reply.Answer[0].Header().Ttl != 1 {
		t.Errorf("while the first is kept: %v", reply)
	}

	*now = now.Add(time.Second)

	if got := texts(ask(t, server, challenge, dns.TypeTXT)); got != "first second" {
		t.Errorf("after the first's time: %q", got)
	}

	if reply := ask(t, server, "example.org", dns.TypeTXT); reply.Rcode != dns.RcodeNameError {
		t.Errorf("another zone: %v", reply)
	}
}

// call asks Cloudflare's API and gives the status, the codes of its errors, and the result.
func call(t *testing.T, server *httptest.Server, method, path, authorization, body string) (int, []int, json.RawMessage) {
	t.Helper()

	request, err := http.NewRequest(method, server.URL+"/client/v4"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}

	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}

	reply, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()

	content, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}

	var answer struct {
		Success bool
		Errors  []struct {
			Code  int
			Chain []struct{ Code int } `json:"error_chain"`
		}
		Result json.RawMessage
	}

	if err := json.Unmarshal(content, &answer); err != nil {
		t.Fatalf("%s: %v", content, err)
	}

	var codes []int
	for _, one := range answer.Errors {
		codes = append(codes, one.Code)
		for _, cause := range one.Chain {
			codes = append(codes, cause.Code)
		}
	}

	if answer.Success != (reply.StatusCode == http.StatusOK) || answer.Success != (len(codes) == 0) {
		t.Errorf("%s %s: %s: %s", method, path, reply.Status, content)
	}

	return reply.StatusCode, codes, answer.Result
}

func TestCloudflareRefusesAnotherTokenInItsOwnWords(t *testing.T) {
	zone, _, _ := newTestZone(t)
	now := "right"

	server := httptest.NewServer(Cloudflare{Zone: zone, Token: func() string { return now }})
	defer server.Close()

	for authorization, wanted := range map[string]string{"": "6003 6111", "Bearer ": "6003 6111", "Basic right": "6003 6111", "Bearer wrong": "9109", "Bearer right": ""} {
		_, codes, _ := call(t, server, http.MethodGet, "/zones", authorization, "")
		if got := words(codes); got != wanted {
			t.Errorf("%q: %s", authorization, got)
		}
	}

	now = "newer"

	if status, codes, _ := call(t, server, http.MethodGet, "/zones", "Bearer right", ""); status != http.StatusForbidden || words(codes) != "9109" {
		t.Errorf("the old token: %d %v", status, codes)
	}
}

func words(codes []int) string {
	return strings.Trim(strings.Join(strings.Fields(jsonOf(codes)), " "), "[]")
}

func jsonOf(codes []int) string {
	text, _ := json.Marshal(codes)

	return strings.ReplaceAll(strings.ReplaceAll(string(text), ",", " "), "null", "")
}

func TestCloudflaresRecordsAreMadeFoundAndDeleted(t *testing.T) {
	zone, log, _ := newTestZone(t)

	server := httptest.NewServer(Cloudflare{Zone: zone, Token: func() string { return token }})
	defer server.Close()

	do := func(method, path, body string) ([]int, json.RawMessage) {
		_, codes, result := call(t, server, method, path, "Bearer "+token, body)

		return codes, result
	}

	for name, wanted := range map[string]int{challenge: 0, "platform.example.com": 0, domain: 1} {
		if _, result := do(http.MethodGet, "/zones?name="+name, ""); strings.Count(string(result), zone.ID) != wanted {
			t.Errorf("zones of %s: %s", name, result)
		}
	}

	records := "/zones/" + zone.ID + "/dns_records"
	body := `{"type": "TXT", "name": "` + challenge + `", "content": "proof", "ttl": 120}`

	_, result := do(http.MethodPost, records, body)

	var made record
	if err := json.Unmarshal(result, &made); err != nil || made.ID == "" || made.Name != challenge {
		t.Fatalf("made: %s, %v", result, err)
	}

	for path, wanted := range map[string]string{records: "81058", "/zones/other/dns_records": "7003"} {
		if codes, _ := do(http.MethodPost, path, body); words(codes) != wanted {
			t.Errorf("%s: %v", path, codes)
		}
	}

	if codes, _ := do(http.MethodPost, records, strings.Replace(body, "120", "30", 1)); words(codes) != "9021" {
		t.Errorf("a short life: %v", codes)
	}

	if _, result := do(http.MethodGet, records+"?per_page=100&type=TXT&name="+challenge, ""); !strings.Contains(string(result), made.ID) {
		t.Errorf("found: %s", result)
	}

	if codes, _ := do(http.MethodDelete, records+"/"+made.ID, ""); len(codes) != 0 {
		t.Errorf("deleted: %v", codes)
	}

	if codes, _ := do(http.MethodDelete, records+"/"+made.ID, ""); words(codes) != "81044" {
		t.Errorf("deleted again: %v", codes)
	}

	if got := log.String(); strings.Count(got, "by Cloudflare's API: "+challenge+" 120 TXT proof") != 2 {
		t.Errorf("log: %s", got)
	}
}
