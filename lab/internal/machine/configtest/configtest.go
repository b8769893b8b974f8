// Package configtest makes machine configurations for tests.
package configtest

import (
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
)

// Patched is a control plane's configuration with a patch.
func Patched(t *testing.T, base config.Provider, patch string) config.Provider {
	t.Helper()

	loaded, err := configpatcher.LoadPatches([]string{patch})
	if err != nil {
		t.Fatal(err)
	}

	output, err := configpatcher.Apply(configpatcher.WithConfig(base), loaded)
	if err != nil {
		t.Fatal(err)
	}

	provider, err := output.Config()
	if err != nil {
		t.Fatal(err)
	}

	return provider
}

// Base is a control plane's configuration as Talos generates it.
func Base(t *testing.T) config.Provider {
	t.Helper()

	input, err := generate.NewInput("prod", "https://172.16.20.250:6443", "1.34.1")
	if err != nil {
		t.Fatal(err)
	}

	provider, err := input.Config(machinetype.TypeControlPlane)
	if err != nil {
		t.Fatal(err)
	}

	return provider
}

// TalosAccess is the patch that lets pods of one namespace reach the machine API, with one role.
const TalosAccess = `machine:
  features:
    kubernetesTalosAPIAccess: {enabled: true, allowedRoles: ["os:etcd:backup"], allowedKubernetesNamespaces: [platform-backup]}
`
