// Package http01 has the option of the challenge HTTP-01. It has no effect here.
package http01

import "time"

// PathPrefix is where challenges are answered (RFC 8555, section 8.3).
const PathPrefix = "/.well-known/acme-challenge/"

// ChallengeOption is an option of the challenge.
type ChallengeOption struct{}

// SetDelay is an option.
func SetDelay(time.Duration) ChallengeOption { return ChallengeOption{} }
