package world

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"platform.lab/lab/internal/alertreceiver"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/workloads"
)

// alertServices are the simulated services that are told of alerts: the secret of the stack that each is known by, and its host.
var alertServices = []struct{ secret, host, path string }{
	{"alertWebhookUrl", alertreceiver.Webhook, "/alerts/"},
	{"alertSlackUrl", alertreceiver.Slack, "/services/"},
	{"alertPagerDutyKey", alertreceiver.PagerDuty, ""},
	{"heartbeatUrl", alertreceiver.Heartbeat, "/ping/"},
}

// alertHosts are the names of those that the settings tell.
func (s *Settings) alertHosts() []string {
	var hosts []string
	for _, one := range alertServices {
		if slices.Contains(s.secretKeys(), one.secret) {
			hosts = append(hosts, one.host)
		}
	}
	return hosts
}

// mailServer is where alerts go by e-mail; nil without.
func (s *Settings) mailServer() *url.URL {
	if s.Services.Monitoring == nil || s.Services.Monitoring.Receivers.Email == nil {
		return nil
	}
	return parsed("smtp://" + s.Services.Monitoring.Receivers.Email.Server)
}

// receiverHosts are the names of all that are told.
func (s *Settings) receiverHosts() []string {
	hosts := s.alertHosts()
	if mail := s.mailServer(); mail != nil {
		hosts = append(hosts, mail.Hostname())
	}
	return hosts
}

// madeForAlerts are the URLs that such services give to who asks for one.
func (s *Settings) madeForAlerts() map[string]string {
	made := map[string]string{}
	for _, one := range alertServices {
		if one.path != "" && slices.Contains(s.secretKeys(), one.secret) {
			made[one.secret] = "https://" + one.host + one.path + rand.Text()
		}
	}
	return made
}

// alertSecrets are what the world's stack shows now: whoever sets another one has got it from the service before.
func (l Layout) alertSecrets(made *Spec) alertreceiver.Secrets {
	spec := l.specNow(made)
	values := spec.Secrets.Values
	path := func(secret string) string {
		location, err := url.Parse(values[secret])
		if err != nil {
			return ""
		}
		return location.Path
	}
	return alertreceiver.Secrets{
		Webhook: path("alertWebhookUrl"), Heartbeat: path("heartbeatUrl"), Slack: path("alertSlackUrl"), PagerDuty: values["alertPagerDutyKey"],
	}
}

// serveAlerts serves who is told of alerts.
func serveAlerts(ctx context.Context, serving *sync.WaitGroup, answer answerer, l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) error {
	server := &alertreceiver.Server{File: l.Alerts(), Secrets: func() alertreceiver.Secrets { return l.alertSecrets(spec) }}
	for _, host := range spec.Settings.alertHosts() {
		listener, err := listenAt(&url.URL{Scheme: "https", Host: host}, host, "services.monitoring.receivers", authority, addresses[host])
		if err != nil {
			return fmt.Errorf("receiver of alerts: %w", err)
		}
		answer(listener, server.Of(host), "receiver of alerts")
		say("receiver of alerts at https://%s (simulated): %s", host, l.Alerts())
	}
	return serveMail(ctx, serving, server, l, authority, spec, addresses, say)
}

// serveMail serves the mail server that alerts go to; what it is told, the receiver writes down.
func serveMail(ctx context.Context, serving *sync.WaitGroup, receiver *alertreceiver.Server, l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) error {
	location := spec.Settings.mailServer()
	if location == nil {
		return nil
	}
	const key = "services.monitoring.receivers.email.server"
	host := location.Hostname()
	listener, err := listenAt(location, host, key, authority, addresses[host])
	if err != nil {
		return fmt.Errorf("mail server: %w", err)
	}
	certificate, err := authority.Server(host, time.Now().Add(validity))
	if err != nil {
		return err
	}
	server := &alertreceiver.MailServer{
		Host: host, Certificate: certificate, Server: receiver,
		Account: func() alertreceiver.Account {
			now := l.specNow(spec)
			return alertreceiver.Account{User: spec.Settings.Services.Monitoring.Receivers.Email.User, Password: now.Secrets.Values["alertMailPassword"]}
		},
	}
	serving.Go(func() {
		if err := server.Serve(ctx, listener); err != nil {
			slog.Error("the mail server ended", "error", err)
		}
	})
	say("mail server at %s (simulated): %s", location.Host, l.Alerts())
	return nil
}

// alertParts say what these servers are, for a run's summary.
func (s *Spec) alertParts() []workloads.Part {
	if len(s.Settings.receiverHosts()) == 0 {
		return nil
	}
	return []workloads.Part{{Name: "alert-receivers", Kind: "simulated", Says: "take alerts and heartbeats with their vendors' rules and words, and write them down; they wake nobody"}}
}
