// Package challenge has the two sides of an ACME challenge.
package challenge

// Provider answers challenges.
type Provider interface {
	Present(domain, token, keyAuth string) error
	CleanUp(domain, token, keyAuth string) error
}
