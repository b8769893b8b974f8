package talosplugin

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"gopkg.in/yaml.v3"

	"platform.lab/lab/internal/plugins"
)

const urlsFunction = "talos:imageFactory/getUrls:getUrls"

// bundleMadeAt is a cluster's secrets whose certificates count from a date.
func bundleMadeAt(t *testing.T, date time.Time) *secrets.Bundle {
	t.Helper()

	bundle, err := secrets.NewBundle(secrets.NewFixedClock(date), talosconfig.TalosVersion1_13)
	if err != nil {
		t.Fatal(err)
	}

	return bundle
}

func TestSecretsAreImportedFromTheFileOfTalosctl(t *testing.T) {
	bundle := bundleMadeAt(t, time.Now())

	content, err := yaml.Marshal(bundle)
	if err != nil {
		t.Fatal(err)
	}

	path := filepath.Join(t.TempDir(), "secrets.yaml")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}

	read, err := New().Read(context.Background(), p.ReadRequest{ID: path, Urn: urn(secretsToken)})
	if err != nil {
		t.Fatal(err)
	}

	token := read.Properties.Get("machineSecrets").AsMap().Get("trustdinfo").AsMap().Get("token")
	if read.ID != secretsID || !token.Secret() || token.AsString() != bundle.TrustdInfo.Token || read.Inputs.Get("talosVersion").AsString() != "v1.3" {
		t.Errorf("id %q, inputs %v", read.ID, read.Inputs)
	}
}

func TestAClientCertificateNearItsEndIsRenewedAndTheSecretsStay(t *testing.T) {
	// Made eleven and a half months ago: the certificate, valid for a year, ends within the next month.
	outputs, err := secretsOutputs(bundleMadeAt(t, time.Now().AddDate(0, -11, -15)), "v1.13")
	if err != nil {
		t.Fatal(err)
	}

	state := secretsResource{}.schema().mark(outputs)
	if diff := diffOf(t, secretsToken, state, property.Map{}, property.Map{}); !diff.HasChanges {
		t.Fatal("no renewal is planned")
	}

	updated, err := New().Update(context.Background(), p.UpdateRequest{ID: secretsID, Urn: urn(secretsToken), State: state})
	if err != nil {
		t.Fatal(err)
	}

	if !updated.Properties.Get("machineSecrets").Equals(state.Get("machineSecrets")) ||
		updated.Properties.Get("clientConfiguration").Equals(state.Get("clientConfiguration")) {
		t.Error("the secrets changed, or the certificate did not")
	}

	if diff := diffOf(t, secretsToken, updated.Properties, property.Map{}, property.Map{}); diff.HasChanges {
		t.Errorf("after the renewal: %v", diff)
	}
}

func TestURLsOfAVMwareImage(t *testing.T) {
	urls := invoke(t, urlsFunction, values(map[string]any{"talosVersion": "1.13.9", "schematicId": "abc", "platform": "vmware"})).Return.Get("urls").AsMap()

	for name, want := range map[string]string{
		"installer": "factory.talos.dev/vmware-installer/abc:v1.13.9",
		"diskImage": "https://factory.talos.dev/image/abc/v1.13.9/vmware-amd64.ova",
	} {
		if got := plugins.TextOf(urls, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
