// Package lego is the ACME client that the lab's Traefik has not: who makes one gets an error.
package lego

import (
	"crypto/x509"
	"errors"
	"net/http"

	"github.com/go-acme/lego/v4/certcrypto"
	"github.com/go-acme/lego/v4/certificate"
	"github.com/go-acme/lego/v4/challenge"
	"github.com/go-acme/lego/v4/challenge/dns01"
	"github.com/go-acme/lego/v4/challenge/http01"
	"github.com/go-acme/lego/v4/challenge/tlsalpn01"
	"github.com/go-acme/lego/v4/registration"
)

// LEDirectoryProduction is Let's Encrypt's, the default of Traefik's settings.
const LEDirectoryProduction = "https://acme-v02.api.letsencrypt.org/directory"

var errNoClient = errors.New("the lab's Traefik has no ACME client")

// Config is a client's.
type Config struct {
	CADirURL, UserAgent string
	Certificate         CertificateConfig
	HTTPClient          *http.Client
}

// CertificateConfig says what certificates are made like.
type CertificateConfig struct {
	KeyType           certcrypto.KeyType
	DisableCommonName bool
}

// NewConfig makes an empty one.
func NewConfig(any) *Config { return &Config{} }

// Client is never made.
type Client struct {
	Certificate  Certifier
	Challenge    Challenges
	Registration Registrar
}

// NewClient is an error.
func NewClient(*Config) (*Client, error) { return nil, errNoClient }

// CreateCertPool is an error.
func CreateCertPool([]string, bool) (*x509.CertPool, error) { return nil, errNoClient }

// Certifier is never made.
type Certifier struct{}

// Obtain is an error.
func (Certifier) Obtain(certificate.ObtainRequest) (*certificate.Resource, error) {
	return nil, errNoClient
}

// RenewWithOptions is an error.
func (Certifier) RenewWithOptions(certificate.Resource, *certificate.RenewOptions) (*certificate.Resource, error) {
	return nil, errNoClient
}

// Challenges are never made.
type Challenges struct{}

// SetDNS01Provider is an error.
func (Challenges) SetDNS01Provider(challenge.Provider, ...dns01.ChallengeOption) error {
	return errNoClient
}

// SetHTTP01Provider is an error.
func (Challenges) SetHTTP01Provider(challenge.Provider, ...http01.ChallengeOption) error {
	return errNoClient
}

// SetTLSALPN01Provider is an error.
func (Challenges) SetTLSALPN01Provider(challenge.Provider, ...tlsalpn01.ChallengeOption) error {
	return errNoClient
}

// Registrar is never made.
type Registrar struct{}

// Register is an error.
func (Registrar) Register(registration.RegisterOptions) (*registration.Resource, error) {
	return nil, errNoClient
}

// RegisterWithExternalAccountBinding is an error.
func (Registrar) RegisterWithExternalAccountBinding(registration.RegisterEABOptions) (*registration.Resource, error) {
	return nil, errNoClient
}
