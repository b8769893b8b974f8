package talosplugin

// Layer: machine/secrets:Secrets, a cluster's PKI and tokens. No network.

import (
	"context"
	"errors"
	"fmt"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"golang.org/x/mod/semver"

	"platform.lab/lab/internal/plugins"
)

// secretsID is the id of every Secrets resource.
const secretsID = "machine_secrets"

type secretsResource struct{}

func (secretsResource) schema() schema {
	return schema{
		"talosVersion":        {kind: text, valid: validTalosVersion},
		"machineSecrets":      machineSecretsSchema.asComputed(),
		"clientConfiguration": clientConfigurationSchema.asComputed(),
	}
}

func (secretsResource) check(property.Map) []p.CheckFailure { return nil }

// plan keeps the secrets; a changed version makes them unknown until the update has run, and a lowered one
// replaces them, as in the provider's schema.
func (secretsResource) plan(_ context.Context, inputs, state property.Map) (plan, error) {
	version := or(inputs.Get("talosVersion"), state.Get("talosVersion"), property.New(defaultTalosVersion))
	planned := plan{outputs: state.Set("talosVersion", version)}

	if state.Len() == 0 || !version.Equals(state.Get("talosVersion")) {
		planned.outputs = planned.outputs.Set("machineSecrets", unknown()).Set("clientConfiguration", unknown())

		if lowers(version, plugins.TextOf(state, "talosVersion")) {
			planned.replace = []string{"talosVersion"}
		}

		return planned, nil
	}

	expires, err := expiresBefore(plugins.TextOf(objectOf(state, "clientConfiguration"), "clientCertificate"), renewalDate())
	if err != nil {
		return plan{}, fmt.Errorf("failed to parse client certificate: %w", err)
	}

	if expires {
		planned.outputs = planned.outputs.Set("clientConfiguration", property.New(map[string]property.Value{
			"caCertificate": unknown(), "clientCertificate": unknown(), "clientKey": unknown(),
		}))
	}

	return planned, nil
}

func (secretsResource) create(_ context.Context, planned property.Map) (string, property.Map, error) {
	contract, err := talosconfig.ParseContractFromVersion(plugins.TextOf(planned, "talosVersion"))
	if err != nil {
		return "", property.Map{}, fmt.Errorf("failed to validate talos version: %w", err)
	}

	bundle, err := secrets.NewBundle(secrets.NewFixedClock(time.Now()), contract)
	if err != nil {
		return "", property.Map{}, fmt.Errorf("failed to generate secrets bundle: %w", err)
	}

	outputs, err := secretsOutputs(bundle, plugins.TextOf(planned, "talosVersion"))

	return secretsID, outputs, err
}

// update keeps the secrets and renews the client certificate only when it expires within a month.
func (secretsResource) update(_ context.Context, planned, state property.Map) (property.Map, error) {
	outputs := state.Set("talosVersion", planned.Get("talosVersion"))

	expires, err := expiresBefore(plugins.TextOf(objectOf(state, "clientConfiguration"), "clientCertificate"), renewalDate())
	if err != nil || !expires {
		return outputs, err
	}

	bundle, err := secretsBundle(objectOf(state, "machineSecrets"))
	if err != nil {
		return property.Map{}, fmt.Errorf("failed to convert machine secrets to secrets bundle: %w", err)
	}

	client, err := newClientConfiguration(bundle)

	return outputs.Set("clientConfiguration", client), err
}

func (secretsResource) delete(context.Context, property.Map) error { return nil }

// adopt reads a secrets.yaml as `talosctl gen secrets` writes it; the id is its path. The version is the
// provider's guess from the kind of encryption key.
func (secretsResource) adopt(path string) (string, property.Map, error) {
	bundle, err := secrets.LoadBundle(path)
	if err != nil {
		return "", property.Map{}, fmt.Errorf("failed to import state: %w", err)
	}

	if bundle.Certs == nil || bundle.Certs.OS == nil || bundle.Cluster == nil || bundle.Secrets == nil || bundle.TrustdInfo == nil {
		return "", property.Map{}, errors.New("failed to import state: the file holds no complete secrets bundle; write one with `talosctl gen secrets`")
	}

	version := "v1.3"
	if bundle.Secrets.AESCBCEncryptionSecret != "" {
		version = "v1.2"
	}

	outputs, err := secretsOutputs(bundle, version)

	return secretsID, outputs, err
}

func secretsOutputs(bundle *secrets.Bundle, version string) (property.Map, error) {
	client, err := newClientConfiguration(bundle)
	if err != nil {
		return property.Map{}, err
	}

	return property.NewMap(map[string]property.Value{
		"talosVersion":        property.New(version),
		"machineSecrets":      property.New(machineSecrets(bundle)),
		"clientConfiguration": client,
	}), nil
}

// newClientConfiguration issues an administrator's certificate, valid for a year.
func newClientConfiguration(bundle *secrets.Bundle) (property.Value, error) {
	if bundle.Clock == nil {
		bundle.Clock = secrets.NewFixedClock(time.Now())
	}

	issued, err := bundle.GenerateTalosAPIClientCertificateWithTTL(role.MakeSet(role.Admin), constants.TalosAPIDefaultCertificateValidityDuration)
	if err != nil {
		return property.Value{}, fmt.Errorf("failed to issue the client certificate: %w", err)
	}

	return property.New(map[string]property.Value{
		"caCertificate":     encoded(bundle.Certs.OS.Crt),
		"clientCertificate": encoded(issued.Crt),
		"clientKey":         encoded(issued.Key),
	}), nil
}

func validTalosVersion(version string) error {
	if _, err := talosconfig.ParseContractFromVersion(version); err != nil {
		return fmt.Errorf("Invalid version: %w", err) //nolint:staticcheck // the provider's own words
	}

	return nil
}

// lowers tells whether the planned version is below the state's. Versions may come with or without a v.
func lowers(planned property.Value, state string) bool {
	return planned.IsString() && state != "" && semver.Compare(withV(planned.AsString()), withV(state)) < 0
}

func withV(version string) string {
	if version != "" && version[0] != 'v' {
		return "v" + version
	}

	return version
}

// renewalDate is the date before which a client certificate that still runs must not end.
func renewalDate() time.Time { return time.Now().AddDate(0, 1, 0) }
