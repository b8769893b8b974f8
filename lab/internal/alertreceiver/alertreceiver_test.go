package alertreceiver_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"platform.lab/lab/internal/alertreceiver"
)

const (
	firing  = `{"version":"4","status":"firing","alerts":[]}`
	trigger = `{"routing_key":"key","event_action":"trigger","dedup_key":"d","payload":{"summary":"s","source":"prod","severity":"critical"}}`
)

func server(t *testing.T) *alertreceiver.Server {
	t.Helper()
	return &alertreceiver.Server{
		File: filepath.Join(t.TempDir(), "alerts.jsonl"),
		Secrets: func() alertreceiver.Secrets {
			return alertreceiver.Secrets{Webhook: "/hook", Heartbeat: "/beat", Slack: "/services/slack", PagerDuty: "key"}
		},
	}
}

func TestEachServiceTakesWhatItsVendorTakesAndRefusesTheRestInItsWords(t *testing.T) {
	for _, test := range []struct {
		name, host, path, body string
		status                 int
		says                   string
	}{
		{"a message of Alertmanager's", alertreceiver.Webhook, "/hook", firing, http.StatusOK, "ok"},
		{"another URL", alertreceiver.Webhook, "/other", firing, http.StatusNotFound, "not found"},
		{"another version", alertreceiver.Webhook, "/hook", `{"version":"3","status":"firing"}`, http.StatusBadRequest, "version 4"},
		{"a call without a text", alertreceiver.Heartbeat, "/beat", "", http.StatusOK, "ok"},
		{"a heartbeat of another platform", alertreceiver.Heartbeat, "/b", "", http.StatusNotFound, "not found"},
		{"a message for Slack", alertreceiver.Slack, "/services/slack", `{"attachments":[{}]}`, http.StatusOK, "ok"},
		{"nothing for Slack", alertreceiver.Slack, "/services/slack", `{}`, http.StatusBadRequest, "no_text"},
		{"no JSON for Slack", alertreceiver.Slack, "/services/slack", `text`, http.StatusBadRequest, "invalid_payload"},
		{"a webhook that Slack does not know", alertreceiver.Slack, "/services/x", `{"text":"t"}`, http.StatusNotFound, "no_service"},
		{"an event for PagerDuty", alertreceiver.PagerDuty, "/v2/enqueue", trigger, http.StatusAccepted, "Event processed"},
		{"a wrong key of PagerDuty's", alertreceiver.PagerDuty, "/v2/enqueue", strings.Replace(trigger, "key\"", "no\"", 2), http.StatusBadRequest, "Invalid routing key"},
		{"an event without its payload", alertreceiver.PagerDuty, "/v2/enqueue", `{"routing_key":"key","event_action":"trigger"}`, http.StatusBadRequest, "'payload' needs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := server(t)
			answer := httptest.NewRecorder()
			s.Of(test.host).ServeHTTP(answer, httptest.NewRequest(http.MethodPost, test.path, strings.NewReader(test.body)))
			if answer.Code != test.status || !strings.Contains(answer.Body.String(), test.says) {
				t.Errorf("%d %s", answer.Code, answer.Body)
			}
			text, err := os.ReadFile(s.File)
			if told := err == nil; told != (answer.Code < http.StatusMultipleChoices) {
				t.Errorf("written down: %v %s", told, text)
			}
		})
	}
}

func TestWhatIsToldIsALineWithItsServiceAndNoKey(t *testing.T) {
	s := server(t)
	for _, one := range [][3]string{{alertreceiver.Webhook, "/hook", firing}, {alertreceiver.PagerDuty, "/v2/enqueue", trigger}} {
		s.Of(one[0]).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, one[1], strings.NewReader(one[2])))
	}
	text, err := os.ReadFile(s.File)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	var services []string
	for _, line := range lines {
		var told alertreceiver.Told
		if err := json.Unmarshal(line, &told); err != nil {
			t.Fatal(err)
		}
		services = append(services, told.Service)
	}
	if strings.Join(services, " ") != "webhook pagerduty" || bytes.Contains(lines[1], []byte(`"routing_key":"key"`)) {
		t.Errorf("%s", text)
	}
}
