// Package dns01 has the options of the challenge DNS-01. None has an effect here.
package dns01

import (
	"strings"
	"time"
)

// ChallengeOption is an option of the challenge.
type ChallengeOption struct{}

// AddRecursiveNameservers is an option.
func AddRecursiveNameservers([]string) ChallengeOption { return ChallengeOption{} }

// DisableAuthoritativeNssPropagationRequirement is an option.
func DisableAuthoritativeNssPropagationRequirement() ChallengeOption { return ChallengeOption{} }

// RecursiveNSsPropagationRequirement is an option.
func RecursiveNSsPropagationRequirement() ChallengeOption { return ChallengeOption{} }

// PropagationWait is an option.
func PropagationWait(time.Duration, bool) ChallengeOption { return ChallengeOption{} }

// UnFqdn is a name without the dot at its end. Traefik compares the names of certificates with it.
func UnFqdn(name string) string { return strings.TrimSuffix(name, ".") }
