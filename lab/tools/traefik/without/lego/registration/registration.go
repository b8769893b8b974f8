// Package registration has what Traefik keeps of an ACME account.
package registration

// Resource is an account at the server.
type Resource struct {
	URI string `json:"uri,omitempty"`
}

// RegisterOptions are those of a registration.
type RegisterOptions struct{ TermsOfServiceAgreed bool }

// RegisterEABOptions are those of a registration with an external account.
type RegisterEABOptions struct {
	TermsOfServiceAgreed bool
	Kid, HmacEncoded     string
}
