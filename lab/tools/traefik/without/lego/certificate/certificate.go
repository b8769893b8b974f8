// Package certificate has what Traefik asks an ACME client for.
package certificate

// Resource is a certificate with its key.
type Resource struct {
	Domain                  string
	PrivateKey, Certificate []byte
}

// ObtainRequest asks for a certificate.
type ObtainRequest struct {
	Domains, EmailAddresses []string
	Bundle                  bool
	Profile, PreferredChain string
}

// RenewOptions are those of a renewal.
type RenewOptions struct {
	EmailAddresses          []string
	Bundle                  bool
	Profile, PreferredChain string
}
