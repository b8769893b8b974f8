// Package configuration is the machine configuration that a machine runs with, and the rules by which another
// one takes its place.
package configuration

import (
	"strings"
	"sync"

	"github.com/siderolabs/talos/pkg/machinery/config"
)

// Active is the machine configuration in use.
type Active struct {
	mu       sync.Mutex
	provider config.Provider
}

// Provider is the active configuration, nil in maintenance mode.
func (a *Active) Provider() config.Provider {
	a.mu.Lock()
	defer a.mu.Unlock()

	return a.provider
}

// Set makes a configuration the active one.
func (a *Active) Set(provider config.Provider) {
	a.mu.Lock()
	defer a.mu.Unlock()

	a.provider = provider
}

// InMaintenance says whether the machine still waits for a complete configuration.
func (a *Active) InMaintenance() bool {
	provider := a.Provider()

	return provider == nil || !provider.CompleteForBoot()
}

// IsControlPlane says whether the machine is to be a control plane.
func (a *Active) IsControlPlane() bool {
	provider := a.Provider()

	return provider != nil && provider.Machine() != nil && provider.Machine().Type().IsControlPlane()
}

// ImageTag is the version of an image reference "registry/name:tag[@digest]".
func ImageTag(image string) string {
	image, _, _ = strings.Cut(image, "@")

	return image[strings.LastIndex(image, ":")+1:]
}
