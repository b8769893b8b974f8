package talosplugin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// applyInputs are those of a ConfigurationApply on the machine.
func applyInputs(t *testing.T, m *fakeMachine, secrets property.Map, more map[string]any) property.Map {
	t.Helper()

	inputs := values(more).
		Set("node", property.New("127.0.0.1")).
		Set("endpoint", property.New(m.address)).
		Set("clientConfiguration", secrets.Get("clientConfiguration"))

	if inputs.Get("machineConfigurationInput").IsNull() {
		inputs = inputs.Set("machineConfigurationInput", property.New(configuration(t, secrets)).WithSecret(true))
	}

	return inputs
}

func TestApplyConfiguresAMachineInMaintenanceAndThenByMutualTLS(t *testing.T) {
	m, secrets := startMachine(t), newSecrets(t)
	inputs := applyInputs(t, m, secrets, nil)
	outputs := created(t, applyToken, inputs)

	if outputs.ID != applyID || !outputs.Properties.Get("machineConfiguration").Secret() || outputs.Properties.Get("resolvedApplyMode").AsString() != "auto" {
		t.Errorf("outputs: %s, %v", outputs.ID, outputs.Properties.Get("resolvedApplyMode"))
	}

	if got := m.called(); !slices.Equal(got, []string{"Disks", "ApplyConfiguration AUTO"}) {
		t.Errorf("in maintenance mode: %v", got)
	}

	changed := inputs.Set("configPatches", property.New([]property.Value{property.New("machine:\n  sysctls:\n    a: \"1\"\n")}))
	if diff := diffOf(t, applyToken, outputs.Properties, inputs, changed); diff.DetailedDiff["configPatches"].Kind != p.Add {
		t.Errorf("diff: %v", diff)
	}

	updated, err := New().Update(context.Background(), p.UpdateRequest{ID: applyID, Urn: urn(applyToken), State: outputs.Properties, OldInputs: inputs, Inputs: changed})
	if err != nil {
		t.Fatal(err)
	}

	// The probe without a certificate never reached the handler: the machine wants mutual TLS now.
	if got := m.called()[2:]; !slices.Equal(got, []string{"ApplyConfiguration AUTO"}) {
		t.Errorf("configured: %v", got)
	}

	if !strings.Contains(string(m.applied[1].GetData()), "sysctls") || !slices.Contains(m.nodes, "127.0.0.1") {
		t.Errorf("nodes %v", m.nodes)
	}

	if diff := diffOf(t, applyToken, updated.Properties, changed, changed); diff.HasChanges {
		t.Errorf("a second preview is not empty: %v", diff)
	}
}

func TestApplyOfAnInvalidConfigurationEndsAtOnce(t *testing.T) {
	m, secrets := startMachine(t), newSecrets(t)
	inputs := applyInputs(t, m, secrets, map[string]any{"machineConfigurationInput": "version: v1alpha1\nmachine:\n  type: worker\n  unknown: 1\n"})

	_, err := New().Create(context.Background(), p.CreateRequest{Urn: urn(applyToken), Properties: inputs})
	if err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("error: %v", err)
	}
}

func TestStagedIfNeedingRebootStagesOnlyWhatNeedsOne(t *testing.T) {
	m, secrets := startMachine(t), newSecrets(t)

	live := created(t, applyToken, applyInputs(t, m, secrets, map[string]any{"applyMode": "staged_if_needing_reboot"}))
	if mode := live.Properties.Get("resolvedApplyMode").AsString(); mode != "auto" {
		t.Errorf("live change: %s", mode)
	}

	rebooting := created(t, applyToken, applyInputs(t, m, secrets, map[string]any{
		"applyMode": "staged_if_needing_reboot", "configPatches": []any{"machine:\n  nodeLabels:\n    a: needs-reboot\n"},
	}))
	if mode := rebooting.Properties.Get("resolvedApplyMode").AsString(); mode != "staged" {
		t.Errorf("change that reboots: %s", mode)
	}

	if got := m.called(); got[len(got)-1] != "ApplyConfiguration STAGED" {
		t.Errorf("calls: %v", got)
	}
}

func TestAPreviewWithUnknownConfigurationCallsNoMachine(t *testing.T) {
	m, secrets := startMachine(t), newSecrets(t)
	inputs := applyInputs(t, m, secrets, nil).Set("machineConfigurationInput", unknown().WithSecret(true))

	response, err := New().Create(context.Background(), p.CreateRequest{Urn: urn(applyToken), Properties: inputs, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}

	v := response.Properties.Get("machineConfiguration")
	if !v.IsComputed() || !v.Secret() || len(m.called()) != 0 {
		t.Errorf("preview: %#v, calls %v", v, m.called())
	}
}

func TestAnUnreachableMachineGivesItsCauseWhenTheTimeIsUp(t *testing.T) {
	m, secrets := startMachine(t), newSecrets(t)
	inputs := applyInputs(t, m, secrets, map[string]any{"timeouts": map[string]any{"create": "5s"}}).Set("endpoint", property.New("127.0.0.1:1"))

	_, err := New().Create(context.Background(), p.CreateRequest{Urn: urn(applyToken), Properties: inputs})
	if err == nil || !strings.Contains(err.Error(), "Error applying configuration") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error: %v", err)
	}
}

func TestDestroyWithoutResetLeavesTheMachineAlone(t *testing.T) {
	m, secrets := startMachine(t), newSecrets(t)
	outputs := created(t, applyToken, applyInputs(t, m, secrets, nil))
	before := len(m.called())

	if err := New().Delete(context.Background(), p.DeleteRequest{Urn: urn(applyToken), Properties: outputs.Properties}); err != nil || len(m.called()) != before {
		t.Errorf("%v, %v", err, m.called())
	}
}

func TestDestroyWithResetWipesTheMachineAndWaitsForItsReturn(t *testing.T) {
	m, secrets := startMachine(t), newSecrets(t)
	outputs := created(t, applyToken, applyInputs(t, m, secrets, map[string]any{"onDestroy": map[string]any{"reset": true, "reboot": true}}))

	if err := New().Delete(context.Background(), p.DeleteRequest{Urn: urn(applyToken), Properties: outputs.Properties}); err != nil {
		t.Fatal(err)
	}

	if len(m.resets) != 1 || !m.resets[0].GetGraceful() || !m.resets[0].GetReboot() || len(m.resets[0].GetSystemPartitionsToWipe()) != 2 {
		t.Errorf("resets: %v", m.resets)
	}
}

// configured is a machine that has its configuration, and the inputs to reach it.
func configured(t *testing.T) (*fakeMachine, property.Map) {
	t.Helper()

	m, secrets := startMachine(t), newSecrets(t)
	created(t, applyToken, applyInputs(t, m, secrets, nil))

	return m, values(map[string]any{"node": "127.0.0.1", "endpoint": m.address}).Set("clientConfiguration", secrets.Get("clientConfiguration"))
}

func TestBootstrapWaitsForEtcdToBeReady(t *testing.T) {
	m, inputs := configured(t)
	m.bootstraps = []error{status.Error(codes.FailedPrecondition, "etcd is not ready"), nil}

	if response := created(t, bootstrapToken, inputs); response.ID != bootstrapID || m.called()[2] != "Bootstrap" || m.called()[3] != "Bootstrap" {
		t.Errorf("%s, %v", response.ID, m.called())
	}
}

func TestBootstrapOfABootstrappedClusterFailsOnlyAtTheTimeout(t *testing.T) {
	m, inputs := configured(t)
	m.bootstraps = []error{status.Error(codes.AlreadyExists, "etcd data directory is not empty")}
	inputs = inputs.Set("timeouts", property.New(map[string]property.Value{"create": property.New("5s")}))

	start := time.Now()
	_, err := New().Create(context.Background(), p.CreateRequest{Urn: urn(bootstrapToken), Properties: inputs})

	if err == nil || !strings.Contains(err.Error(), "AlreadyExists") || time.Since(start) < 5*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestKubeconfigIsASecretNamedAfterItsCluster(t *testing.T) {
	m, inputs := configured(t)
	m.kubeconfig = kubeconfigOf(t, inputs)
	response := created(t, kubeconfigToken, inputs)
	outputs := response.Properties

	access := outputs.Get("kubernetesClientConfiguration").AsMap()
	if response.ID != "prod" || !outputs.Get("kubeconfigRaw").Secret() || !access.Get("clientKey").Secret() || access.Get("host").AsString() != "https://172.16.20.250:6443" {
		t.Errorf("id %s, host %v", response.ID, access.Get("host"))
	}

	if diff := diffOf(t, kubeconfigToken, outputs, inputs, inputs); diff.HasChanges {
		t.Errorf("a second preview is not empty: %v", diff)
	}

	// A certificate that ends within the renewal time is fetched again.
	soon := inputs.Set("certificateRenewalDuration", property.New("87600h"))
	if diff := diffOf(t, kubeconfigToken, outputs, inputs, soon); !diff.HasChanges {
		t.Error("no renewal")
	}
}

// kubeconfigOf makes a kubeconfig whose certificate is the client configuration's.
func kubeconfigOf(t *testing.T, inputs property.Map) []byte {
	t.Helper()

	var d decoder

	client := objectOf(inputs, "clientConfiguration")
	config := clientcmdapi.NewConfig()
	config.Clusters["prod"] = &clientcmdapi.Cluster{Server: "https://172.16.20.250:6443", CertificateAuthorityData: d.bytes(client, "caCertificate")}
	config.AuthInfos["admin@prod"] = &clientcmdapi.AuthInfo{ClientCertificateData: d.bytes(client, "clientCertificate"), ClientKeyData: d.bytes(client, "clientKey")}
	config.Contexts["admin@prod"] = &clientcmdapi.Context{Cluster: "prod", AuthInfo: "admin@prod"}
	config.CurrentContext = "admin@prod"

	rendered, err := clientcmd.Write(*config)
	if err != nil || d.err != nil {
		t.Fatal(err, d.err)
	}

	return rendered
}

func TestSchematicIsRegisteredWithTheConfiguredFactory(t *testing.T) {
	var posted string

	factory := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posted = r.Method + " " + r.URL.Path + "\n" + string(body)
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(map[string]string{"id": "abc"}) //nolint:errcheck
	}))
	defer factory.Close()

	provider := New()
	if err := provider.Configure(context.Background(), p.ConfigureRequest{Args: values(map[string]any{"imageFactoryUrl": factory.URL})}); err != nil {
		t.Fatal(err)
	}

	inputs := values(map[string]any{"schematic": "customization:\n  systemExtensions:\n    officialExtensions: [siderolabs/vmtoolsd-guest-agent]\n"})

	response, err := provider.Create(context.Background(), p.CreateRequest{Urn: urn(schematicToken), Properties: inputs})
	if err != nil || response.ID != "abc" {
		t.Fatalf("%s, %v", response.ID, err)
	}

	if !strings.HasPrefix(posted, "POST /schematics\n") || !strings.Contains(posted, "vmtoolsd-guest-agent") {
		t.Errorf("posted: %s", posted)
	}

	checked, err := provider.Check(context.Background(), p.CheckRequest{Urn: urn(schematicToken), Inputs: values(map[string]any{"schematic": "customisation: {}\n"})})
	if err != nil || len(checked.Failures) != 1 || !strings.Contains(checked.Failures[0].Reason, "customisation") {
		t.Errorf("%v, %v", checked.Failures, err)
	}
}
