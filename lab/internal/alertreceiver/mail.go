package alertreceiver

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Account is who may send: the user of the settings, with the password that the stack's secrets have now.
type Account struct{ User, Password string }

// Mail is what is written down of an e-mail.
type Mail struct {
	From    string   `json:"from"`
	To      []string `json:"to"`
	Subject string   `json:"subject"`
	Text    string   `json:"text"`
}

// Refusals, with the codes of RFC 4954 (AUTH) and the words of Postfix.
var (
	errNotKnown    = &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "Error: authentication failed"}
	errNotLoggedIn = &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
)

// silence is how long a client may say nothing (RFC 5321, 4.5.3.2).
const silence = 5 * time.Minute

// MailServer is a server where users hand in e-mail (RFC 6409): by STARTTLS, after they have logged in.
type MailServer struct {
	Host        string
	Certificate tls.Certificate
	Account     func() Account
	Server      *Server
}

// Serve takes e-mail until the context ends.
func (m *MailServer) Serve(ctx context.Context, listener net.Listener) error {
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{server: m}, nil }))
	server.Domain = m.Host
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{m.Certificate}, MinVersion: tls.VersionTLS12}
	server.MaxMessageBytes = largest
	server.ReadTimeout, server.WriteTimeout = silence, silence
	server.ErrorLog = slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)

	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()

	if err := server.Serve(listener); !errors.Is(err, smtp.ErrServerClosed) {
		return err
	}
	return nil
}

// session is one client's.
type session struct {
	server *MailServer
	known  bool
	mail   Mail
}

// AuthMechanisms are offered within TLS alone.
func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		account := s.server.Account()
		if user != account.User || !isSecret(password, account.Password) {
			return errNotKnown
		}
		s.known = true
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if !s.known {
		return errNotLoggedIn
	}
	s.mail.From = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	message, err := mail.ReadMessage(r)
	if err != nil {
		return err
	}
	s.mail.Subject, err = new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil {
		return err
	}
	if s.mail.Text, err = plainText(message); err != nil {
		return err
	}
	line, err := json.Marshal(s.mail)
	if err != nil {
		return err
	}
	return s.server.Server.keep("email", line)
}

func (s *session) Reset() { s.mail = Mail{} }

func (*session) Logout() error { return nil }

// plainText is the part that is for people without HTML; the whole body of a mail that has no parts.
func plainText(message *mail.Message) (string, error) {
	kind, parameters, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		text, err := io.ReadAll(message.Body)
		return string(text), err
	}
	parts := multipart.NewReader(message.Body, parameters["boundary"])
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return "", errors.New("a mail without a part of text/plain")
		}
		if err != nil {
			return "", err
		}
		if !strings.HasPrefix(part.Header.Get("Content-Type"), "text/plain") {
			continue
		}
		body := io.Reader(part)
		if strings.EqualFold(part.Header.Get("Content-Transfer-Encoding"), "quoted-printable") {
			body = quotedprintable.NewReader(part)
		}
		text, err := io.ReadAll(body)
		return string(text), err
	}
}
