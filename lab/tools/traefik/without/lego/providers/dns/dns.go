// Package dns has none of the providers for DNS-01, which are most of Traefik's usual build.
package dns

import (
	"fmt"

	"github.com/go-acme/lego/v4/challenge"
)

// NewDNSChallengeProviderByName is an error.
func NewDNSChallengeProviderByName(name string) (challenge.Provider, error) {
	return nil, fmt.Errorf("the lab's Traefik has no DNS provider %q", name)
}
