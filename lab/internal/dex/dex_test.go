package dex_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"platform.lab/lab/internal/dex"
	"platform.lab/lab/internal/simulated"
)

const config = `
issuer: https://argocd.example.com/api/dex
storage: { type: memory }
web: { http: 0.0.0.0:5556 }
grpc: { addr: 0.0.0.0:5557 }
telemetry: { http: 0.0.0.0:5558 }
connectors: [{ type: github, id: github, name: GitHub, config: { clientID: an-id } }]
`

func TestAConfigurationIsRefusedAsDexRefusesItAllAtOnce(t *testing.T) {
	for text, says := range map[string][]string{
		"{}": {"no issuer specified in config file", "no storage supplied in config file", "must supply a HTTP/HTTPS  address to listen on", "no supplied connectors"},
		strings.Replace(config, "http: 0.0.0.0:5556", "https: 0.0.0.0:5556", 1): {"no cert specified for HTTPS", "no private key specified for HTTPS"},
		strings.Replace(config, "type: github", "type: gitlub", 1):              {`unknown connector type "gitlub"`},
		strings.Replace(config, "name: GitHub, ", "", 1):                        {"ID, Type and Name fields are required"},
		"issuer: [": {"error parse config file"},
	} {
		_, err := dex.Read([]byte(text))
		if err == nil {
			t.Errorf("taken: %s", text)
			continue
		}

		for _, sentence := range says {
			if !strings.Contains(err.Error(), sentence) {
				t.Errorf("%q is not said: %v", sentence, err)
			}
		}
	}
}

func TestItIsDiscoveredBelowItsIssuerAndLetsNobodyIn(t *testing.T) {
	read, err := dex.Read([]byte(config))
	if err != nil {
		t.Fatal(err)
	}

	pages, err := read.Pages(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}

	ask := func(path string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		pages.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))

		return answer
	}

	var found map[string]any

	err = json.Unmarshal(ask("/api/dex/.well-known/openid-configuration").Body.Bytes(), &found)
	if err != nil || found["issuer"] != "https://argocd.example.com/api/dex" || found["jwks_uri"] != "https://argocd.example.com/api/dex/keys" {
		t.Errorf("%v %v", err, found)
	}

	if answer := ask("/api/dex/healthz"); answer.Code != http.StatusOK {
		t.Errorf("%d", answer.Code)
	}

	if answer := ask("/api/dex/auth/github?client_id=argo-cd"); answer.Code != http.StatusNotImplemented || !strings.HasPrefix(answer.Body.String(), simulated.Mark) {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}

	if answer := ask("/keys"); answer.Code != http.StatusNotFound {
		t.Errorf("answers outside its issuer: %d", answer.Code)
	}
}

func TestItsPortForMetricsAnswersProbesToo(t *testing.T) {
	for path, says := range map[string]string{"/metrics": "go_goroutines", "/healthz/live": "ok", "/healthz/ready": "ok"} {
		answer := httptest.NewRecorder()
		dex.Telemetry().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))

		if answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), says) {
			t.Errorf("%s: %d %.200s", path, answer.Code, answer.Body)
		}
	}
}
