package outproxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// through asks a server by a name that only the proxy knows.
func through(t *testing.T, server *httptest.Server, name string) (answer, log string, err error) {
	t.Helper()

	var told bytes.Buffer

	proxy := httptest.NewServer(&Proxy{Log: &told, Resolve: func(asked string) (string, error) {
		if asked != "s3.corp.net" {
			return "", errors.New("lookup " + asked + ": no such host")
		}

		return "127.0.0.1", nil
	}})
	t.Cleanup(proxy.Close)

	by, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}

	client := &http.Client{Transport: &http.Transport{
		Proxy:           http.ProxyURL(by),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}

	got, err := client.Get(strings.Replace(server.URL, "127.0.0.1", name, 1) + "/a%2Fb?c=d")
	if err != nil {
		return "", told.String(), err
	}
	defer got.Body.Close()

	body, err := io.ReadAll(got.Body)

	return got.Status + " " + string(body), told.String(), err
}

func echo(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host+" "+r.RequestURI) }

func TestAServerIsReachedByANameThatTheProxyAloneKnows(t *testing.T) {
	for name, start := range map[string]func(http.Handler) *httptest.Server{"https": httptest.NewTLSServer, "http": httptest.NewServer} {
		t.Run(name, func(t *testing.T) {
			server := start(http.HandlerFunc(echo))
			defer server.Close()

			port := server.URL[strings.LastIndex(server.URL, ":"):]

			answer, log, err := through(t, server, "s3.corp.net")
			if err != nil || answer != "200 OK s3.corp.net"+port+" /a%2Fb?c=d" {
				t.Errorf("%q, %v", answer, err)
			}

			if !strings.HasSuffix(log, " s3.corp.net"+port+"\n") {
				t.Errorf("logged %q", log)
			}
		})
	}
}

func TestANameThatTheProxyDoesNotKnowIsToldByIt(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(echo))
	defer server.Close()

	if answer, _, err := through(t, server, "talos.default"); err != nil || !strings.HasPrefix(answer, "502 ") || !strings.Contains(answer, "no such host") {
		t.Errorf("%q, %v", answer, err)
	}
}
