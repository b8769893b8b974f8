package alertreceiver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"platform.lab/lab/internal/alertreceiver"
	"platform.lab/lab/internal/pki"
)

const mailHost = "localhost"

// As Alertmanager sends them: the same text twice, and an encoded subject.
const letter = "Subject: =?utf-8?q?=5BFIRING=5D_NodeAway?=\r\nContent-Type: multipart/alternative; boundary=b\r\nMIME-Version: 1.0\r\n\r\n" +
	"--b\r\nContent-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset=UTF-8\r\n\r\nnode03 does not an=\r\nswer.\r\n" +
	"--b\r\nContent-Transfer-Encoding: quoted-printable\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n<p>\r\n--b--\r\n"

// mailServer listens on the loopback; gives its address, who trusts it, and what it has written down.
func mailServer(t *testing.T) (string, *tls.Config, *alertreceiver.Server) {
	t.Helper()

	authority, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Server(mailHost, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	receiver := server(t)
	mails := &alertreceiver.MailServer{
		Host: mailHost, Certificate: certificate, Server: receiver,
		Account: func() alertreceiver.Account { return alertreceiver.Account{User: "alerts", Password: "known"} },
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mails.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()

		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())

	return listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: mailHost, MinVersion: tls.VersionTLS12}, receiver
}

// send hands in a letter as Alertmanager does; without TLS or a password where they are nil and "".
func send(address string, trust *tls.Config, password string) error {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	client, err := smtp.NewClient(connection, mailHost)
	if err != nil {
		return err
	}
	defer client.Close()

	if trust != nil {
		if err := client.StartTLS(trust); err != nil {
			return err
		}
	}
	if password != "" {
		if err := client.Auth(smtp.PlainAuth("", "alerts", password, mailHost)); err != nil {
			return err
		}
	}
	if err := client.Mail("alerts@example.com"); err != nil {
		return err
	}
	if err := client.Rcpt("platform@example.com"); err != nil {
		return err
	}
	body, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := body.Write([]byte(letter)); err != nil {
		return err
	}
	if err := body.Close(); err != nil {
		return err
	}

	return client.Quit()
}

func TestAMailOfWhoLogsInIsWrittenDownAsPeopleReadIt(t *testing.T) {
	address, trust, receiver := mailServer(t)
	if err := send(address, trust, "known"); err != nil {
		t.Fatal(err)
	}

	text, err := os.ReadFile(filepath.Clean(receiver.File))
	if err != nil {
		t.Fatal(err)
	}

	var told struct {
		Service string
		Message alertreceiver.Mail
	}
	if err := json.Unmarshal(text, &told); err != nil {
		t.Fatal(err)
	}

	mail := told.Message
	if told.Service != "email" || mail.Subject != "[FIRING] NodeAway" || strings.TrimSpace(mail.Text) != "node03 does not answer." ||
		mail.From != "alerts@example.com" || !slices.Equal(mail.To, []string{"platform@example.com"}) {
		t.Errorf("%s", text)
	}
}

func TestAMailOfAnybodyElseIsRefusedAndNotWrittenDown(t *testing.T) {
	address, trust, receiver := mailServer(t)
	for _, test := range []struct {
		name     string
		trust    *tls.Config
		password string
		says     string
	}{
		{"a wrong password", trust, "other", "5.7.8 Error: authentication failed"},
		{"no password", trust, "", "5.7.0 Authentication required"},
		{"no TLS and no password", nil, "", "5.7.0 Authentication required"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := send(address, test.trust, test.password); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(receiver.File); err == nil {
				t.Error("written down")
			}
		})
	}
}
