package talosplugin

import (
	"context"
	"strings"
	"testing"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

const (
	secretsToken    = "talos:machine/secrets:Secrets"
	applyToken      = "talos:machine/configurationApply:ConfigurationApply"
	bootstrapToken  = "talos:machine/bootstrap:Bootstrap"
	kubeconfigToken = "talos:cluster/kubeconfig:Kubeconfig"
	schematicToken  = "talos:imageFactory/schematic:Schematic"
	configFunction  = "talos:machine/getConfiguration:getConfiguration"
	clientFunction  = "talos:client/getConfiguration:getConfiguration"
)

func urn(token string) presource.URN {
	return presource.NewURN("test", "platform", "", tokens.Type(token), "subject")
}

// values builds a property map from plain strings, booleans, lists and maps.
func values(m map[string]any) property.Map {
	return presource.FromResourcePropertyMap(presource.NewPropertyMapFromMap(m))
}

// created checks and creates a resource, and returns its id and outputs.
func created(t *testing.T, token string, inputs property.Map) p.CreateResponse {
	t.Helper()

	provider := New()
	mustPassCheck(t, provider, token, inputs)

	response, err := provider.Create(context.Background(), p.CreateRequest{Urn: urn(token), Properties: inputs})
	if err != nil {
		t.Fatal(err)
	}

	return response
}

func mustPassCheck(t *testing.T, provider p.Provider, token string, inputs property.Map) {
	t.Helper()

	checked, err := provider.Check(context.Background(), p.CheckRequest{Urn: urn(token), Inputs: inputs})
	if err != nil || len(checked.Failures) > 0 {
		t.Fatalf("check of %s: %v, %v", token, checked.Failures, err)
	}
}

func diffOf(t *testing.T, token string, state, oldInputs, inputs property.Map) p.DiffResponse {
	t.Helper()

	response, err := New().Diff(context.Background(), p.DiffRequest{Urn: urn(token), State: state, OldInputs: oldInputs, Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}

	return response
}

// sharedSecrets are made once for all tests, for their RSA key takes a second or two. Property maps never change.
var sharedSecrets property.Map

func newSecrets(t *testing.T) property.Map {
	t.Helper()

	if sharedSecrets.Len() == 0 {
		sharedSecrets = created(t, secretsToken, values(map[string]any{"talosVersion": "v1.13.9"})).Properties
	}

	return sharedSecrets
}

func configurationArguments(t *testing.T, secrets property.Map, patches ...string) property.Map {
	t.Helper()

	list := make([]property.Value, len(patches))
	for i, patch := range patches {
		list[i] = property.New(patch)
	}

	return property.NewMap(map[string]property.Value{
		"clusterName":       property.New("prod"),
		"clusterEndpoint":   property.New("https://172.16.20.250:6443"),
		"machineType":       property.New("controlplane"),
		"machineSecrets":    secrets.Get("machineSecrets"),
		"talosVersion":      property.New("v1.13.9"),
		"kubernetesVersion": property.New("1.34.1"),
		"configPatches":     property.New(list),
	})
}

func invoke(t *testing.T, token string, arguments property.Map) p.InvokeResponse {
	t.Helper()

	response, err := New().Invoke(context.Background(), p.InvokeRequest{Token: tokens.Type(token), Args: arguments})
	if err != nil {
		t.Fatal(err)
	}

	return response
}

func configuration(t *testing.T, secrets property.Map, patches ...string) string {
	t.Helper()

	response := invoke(t, configFunction, configurationArguments(t, secrets, patches...))
	if len(response.Failures) > 0 {
		t.Fatal(response.Failures)
	}

	return response.Return.Get("machineConfiguration").AsString()
}

func TestSecretsMarkOnlyWhatTheProvidersSchemaMarks(t *testing.T) {
	outputs := newSecrets(t)
	at := func(path ...string) property.Value {
		value := property.New(outputs)
		for _, name := range path {
			value = value.AsMap().Get(name)
		}

		return value
	}

	for _, path := range [][]string{
		{"machineSecrets", "cluster", "secret"}, {"machineSecrets", "secrets", "bootstrapToken"},
		{"machineSecrets", "trustdinfo", "token"}, {"machineSecrets", "certs", "os", "key"},
		{"machineSecrets", "certs", "k8sServiceaccount", "key"}, {"clientConfiguration", "clientKey"},
	} {
		if v := at(path...); !v.Secret() || v.AsString() == "" {
			t.Errorf("%v is not a secret with a value", path)
		}
	}

	for _, path := range [][]string{{"talosVersion"}, {"machineSecrets", "cluster", "id"}, {"machineSecrets", "certs", "os", "cert"}, {"clientConfiguration", "caCertificate"}} {
		if v := at(path...); v.HasSecrets() || v.AsString() == "" {
			t.Errorf("%v should be a plain value", path)
		}
	}
}

func TestSecretsAreUnknownInAPreview(t *testing.T) {
	response, err := New().Create(context.Background(), p.CreateRequest{Urn: urn(secretsToken), DryRun: true})
	if err != nil {
		t.Fatal(err)
	}

	if !response.Properties.Get("machineSecrets").IsComputed() || response.Properties.Get("talosVersion").AsString() != "v1.13" {
		t.Errorf("preview: %#v", response.Properties)
	}
}

func TestSecretsOfAnUnchangedVersionHaveNoDiff(t *testing.T) {
	outputs := newSecrets(t)
	inputs := values(map[string]any{"talosVersion": "v1.13.9"})

	if diff := diffOf(t, secretsToken, outputs, inputs, inputs); diff.HasChanges {
		t.Errorf("diff: %v", diff)
	}

	if diff := diffOf(t, secretsToken, outputs, inputs, property.Map{}); diff.HasChanges {
		t.Errorf("a version taken out of the program keeps the state's: %v", diff)
	}
}

func TestALowerVersionReplacesTheSecretsAndAHigherOneKeepsThem(t *testing.T) {
	outputs := newSecrets(t)
	old := values(map[string]any{"talosVersion": "v1.13.9"})

	lower := diffOf(t, secretsToken, outputs, old, values(map[string]any{"talosVersion": "v1.12.0"}))
	if lower.DetailedDiff["talosVersion"].Kind != p.UpdateReplace {
		t.Errorf("lower: %v", lower)
	}

	raised := values(map[string]any{"talosVersion": "1.14.0"})
	if higher := diffOf(t, secretsToken, outputs, old, raised); higher.DetailedDiff["talosVersion"].Kind != p.Update {
		t.Errorf("higher: %v", higher)
	}

	updated, err := New().Update(context.Background(), p.UpdateRequest{ID: secretsID, Urn: urn(secretsToken), State: outputs, Inputs: raised})
	if err != nil {
		t.Fatal(err)
	}

	if !updated.Properties.Get("machineSecrets").Equals(outputs.Get("machineSecrets")) {
		t.Error("the update made new secrets")
	}
}

func TestConfigurationCarriesSecretsVersionsAndPatches(t *testing.T) {
	secrets := newSecrets(t)
	rendered := configuration(t, secrets, "machine:\n  network:\n    hostname: node01\n")

	token := unmarked(secrets).Get("machineSecrets").AsMap().Get("trustdinfo").AsMap().Get("token").AsString()
	for _, want := range []string{token, "hostname: node01", "kube-apiserver:v1.34.1", "https://172.16.20.250:6443", "installer:v1.13.0"} {
		if !strings.Contains(rendered, want) {
			t.Errorf("the configuration lacks %q", want)
		}
	}

	if again := configuration(t, secrets, "machine:\n  network:\n    hostname: node01\n"); again != rendered {
		t.Error("the same arguments gave another configuration")
	}
}

func TestContractDecidesWhetherAHostnameDocumentIsAppended(t *testing.T) {
	secrets := newSecrets(t)
	arguments := configurationArguments(t, secrets)

	if rendered := invoke(t, configFunction, arguments).Return.Get("machineConfiguration").AsString(); !strings.Contains(rendered, "kind: HostnameConfig") {
		t.Error("contract 1.13 has no HostnameConfig")
	}

	old := invoke(t, configFunction, arguments.Set("talosVersion", property.New("v1.11"))).Return
	if strings.Contains(old.Get("machineConfiguration").AsString(), "kind: HostnameConfig") {
		t.Error("contract 1.11 has a HostnameConfig")
	}
}

func TestFunctionResultsCarryNoSecretMarks(t *testing.T) {
	if result := invoke(t, configFunction, configurationArguments(t, newSecrets(t))).Return; property.New(result).HasSecrets() {
		t.Error("the published plugin takes the marks off an invoke's result")
	}
}

func TestSnakeCaseArgumentsAreMissingOnes(t *testing.T) {
	arguments := configurationArguments(t, newSecrets(t))
	certs := objectOf(objectOf(arguments, "machineSecrets"), "certs")
	renamed := certs.Set("k8s_aggregator", certs.Get("k8sAggregator")).Delete("k8sAggregator")
	secrets := objectOf(arguments, "machineSecrets").Set("certs", property.New(renamed))

	response := invoke(t, configFunction, arguments.Set("machineSecrets", property.New(secrets)))
	if len(response.Failures) == 0 {
		t.Fatal("no failure")
	}

	first := response.Failures[0]
	if first.Property != "machineSecrets.certs.k8sAggregator" ||
		!strings.HasPrefix(first.Reason, "Missing Configuration for Required Attribute: Must set a configuration value for the machine_secrets.certs.k8s_aggregator attribute") {
		t.Errorf("failure: %v", first)
	}
}

func TestBadPatchesFailWithTalosOwnMessage(t *testing.T) {
	secrets := newSecrets(t)

	for name, test := range map[string]struct{ patch, want string }{
		"unknown key":      {"machine:\n  netwrok: {}\n", "unknown keys found during decoding:\nmachine:\n    netwrok: {}"},
		"no YAML":          {"machine: [", "config_patches are invalid"},
		"unknown document": {"apiVersion: v1alpha1\nkind: HostnamConfig\n", `"HostnamConfig" "v1alpha1": not registered`},
	} {
		_, err := New().Invoke(context.Background(), p.InvokeRequest{Token: configFunction, Args: configurationArguments(t, secrets, test.patch)})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadArgumentsAreNamed(t *testing.T) {
	arguments := configurationArguments(t, newSecrets(t))

	if failures := invoke(t, configFunction, arguments.Set("machineType", property.New("master"))).Failures; len(failures) != 1 || failures[0].Property != "machineType" {
		t.Errorf("machineType: %v", failures)
	}

	_, err := New().Invoke(context.Background(), p.InvokeRequest{Token: configFunction, Args: arguments.Set("clusterEndpoint", property.New("172.16.20.250"))})
	if err == nil || !strings.Contains(err.Error(), `try: "https://172.16.20.250:6443"`) {
		t.Errorf("endpoint: %v", err)
	}
}

func TestTalosconfigNamesEndpointsAndNodes(t *testing.T) {
	result := invoke(t, clientFunction, values(map[string]any{"clusterName": "prod", "endpoints": []any{"172.16.20.51"}, "nodes": []any{"172.16.20.52"}}).
		Set("clientConfiguration", newSecrets(t).Get("clientConfiguration"))).Return

	for _, want := range []string{"context: prod", "172.16.20.51", "172.16.20.52"} {
		if !strings.Contains(result.Get("talosConfig").AsString(), want) {
			t.Errorf("talosConfig lacks %q", want)
		}
	}
}

func TestUnservedTokensAreRefusedByName(t *testing.T) {
	_, err := New().Check(context.Background(), p.CheckRequest{Urn: urn("talos:machine/getThis:This")})
	if err == nil || !strings.Contains(err.Error(), `"talos:machine/getThis:This" is not served`) {
		t.Error(err)
	}

	_, err = New().Invoke(context.Background(), p.InvokeRequest{Token: "talos:cluster/getHealth:getHealth"})
	if err == nil || !strings.Contains(err.Error(), "getHealth") {
		t.Error(err)
	}
}
