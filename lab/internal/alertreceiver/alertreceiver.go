// Package alertreceiver simulates who is told of the platform's alerts: a server that takes Alertmanager's webhook, Slack's
// incoming webhook, PagerDuty's Events API v2, and an outside service that expects a heartbeat. Each refuses what the real one
// refuses, in its words, and all that is told is written down.
//
// Sources: Prometheus, "Alerting / Configuration", webhook_config (its JSON, version 4); Slack, "Sending messages using
// incoming webhooks" (ok, invalid_payload, no_text, no_service); PagerDuty, "Send an event" (202 and 400).
package alertreceiver

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"platform.lab/lab/internal/httpserver"
)

// Hosts of the simulated services. Those of Slack and PagerDuty are their own; the others stand for any.
const (
	Webhook   = "alerts.example.net"
	Heartbeat = "heartbeat.example.net"
	Slack     = "hooks.slack.com"
	PagerDuty = "events.pagerduty.com"
)

// largest is the size in bytes from which a message is cut off.
const largest = 1 << 20

// Secrets are what the stack's secrets hold now: the paths of the services that are known by their URL, and PagerDuty's
// integration key. "" is nobody's.
type Secrets struct{ Webhook, Heartbeat, Slack, PagerDuty string }

// Told is one message, a line of the file.
type Told struct {
	Time    time.Time       `json:"time"`
	Service string          `json:"service"` // webhook, heartbeat, slack or pagerduty
	Message json.RawMessage `json:"message"`
}

// Server answers for one of the services.
type Server struct {
	File    string // takes what is told, a line each
	Secrets func() Secrets

	mu sync.Mutex
}

// Of answers as the service of this host.
func (s *Server) Of(host string) http.Handler {
	answer := map[string]func(http.ResponseWriter, *http.Request, []byte){
		Webhook: s.webhook, Heartbeat: s.heartbeat, Slack: s.slack, PagerDuty: s.pagerDuty,
	}[host]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largest))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		answer(w, r, body)
	})
}

func (s *Server) webhook(w http.ResponseWriter, r *http.Request, body []byte) {
	var message struct{ Version, Status string }
	switch {
	case !isSecret(r.URL.Path, s.Secrets().Webhook):
		http.Error(w, "not found", http.StatusNotFound)
	case r.Method != http.MethodPost:
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case json.Unmarshal(body, &message) != nil || message.Version != "4" || !slices.Contains([]string{"firing", "resolved"}, message.Status):
		http.Error(w, "no message of Alertmanager's, version 4", http.StatusBadRequest)
	default:
		s.take(w, "webhook", body)
	}
}

// heartbeat takes any call, as such services do, with what Alertmanager says in it.
func (s *Server) heartbeat(w http.ResponseWriter, r *http.Request, body []byte) {
	if !isSecret(r.URL.Path, s.Secrets().Heartbeat) {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	if !json.Valid(body) {
		body = []byte("null")
	}
	s.take(w, "heartbeat", body)
}

func (s *Server) slack(w http.ResponseWriter, r *http.Request, body []byte) {
	var message struct {
		Text        string            `json:"text"`
		Attachments []json.RawMessage `json:"attachments"`
	}
	switch {
	case !isSecret(r.URL.Path, s.Secrets().Slack):
		http.Error(w, "no_service", http.StatusNotFound)
	case json.Unmarshal(body, &message) != nil:
		http.Error(w, "invalid_payload", http.StatusBadRequest)
	case message.Text == "" && len(message.Attachments) == 0:
		http.Error(w, "no_text", http.StatusBadRequest)
	default:
		s.take(w, "slack", body)
	}
}

func (s *Server) pagerDuty(w http.ResponseWriter, r *http.Request, body []byte) {
	var event struct {
		RoutingKey  string `json:"routing_key"`
		EventAction string `json:"event_action"`
		DedupKey    string `json:"dedup_key"`
		Payload     struct{ Summary, Source, Severity string }
	}
	refuse := func(errs ...string) {
		httpserver.JSON(w, "application/json", http.StatusBadRequest, map[string]any{"status": "invalid event", "message": "Event object is invalid", "errors": errs})
	}
	switch {
	case r.URL.Path != "/v2/enqueue" || r.Method != http.MethodPost:
		http.NotFound(w, r)
	case json.Unmarshal(body, &event) != nil:
		refuse("JSON cannot be parsed")
	case !isSecret(event.RoutingKey, s.Secrets().PagerDuty):
		refuse("Invalid routing key")
	case !slices.Contains([]string{"trigger", "acknowledge", "resolve"}, event.EventAction):
		refuse("'event_action' must be one of trigger, acknowledge, resolve")
	case event.EventAction == "trigger" && (event.Payload.Summary == "" || event.Payload.Source == "" ||
		!slices.Contains([]string{"critical", "error", "warning", "info"}, event.Payload.Severity)):
		refuse("'payload' needs summary, source and severity")
	default:
		if err := s.keep("pagerduty", hidden(body, event.RoutingKey)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		httpserver.JSON(w, "application/json", http.StatusAccepted, map[string]string{
			"status": "success", "message": "Event processed", "dedup_key": event.DedupKey,
		})
	}
}

// isSecret compares what is shown, a path or a key, with the secret; nobody knows an empty one.
func isSecret(shown, secret string) bool {
	return secret != "" && subtle.ConstantTimeCompare([]byte(shown), []byte(secret)) == 1
}

// hidden leaves a key out of what is written down.
func hidden(body []byte, key string) []byte {
	return []byte(strings.ReplaceAll(string(body), key, "..."))
}

func (s *Server) take(w http.ResponseWriter, service string, body []byte) {
	if err := s.keep(service, body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "ok")
}

func (s *Server) keep(service string, body []byte) error {
	line, err := json.Marshal(Told{Time: time.Now(), Service: service, Message: body})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	file, err := os.OpenFile(filepath.Clean(s.File), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(line, '\n'))
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}
