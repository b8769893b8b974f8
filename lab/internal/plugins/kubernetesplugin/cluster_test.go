//go:build lab

package kubernetesplugin

// The plugin against a real etcd and a real API server on loopback. LAB_BIN names the folder with etcd,
// kube-apiserver and kube-controller-manager.

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"platform.lab/lab/internal/plugins"
)

const token = "lab-test-token-of-this-run"

// api is the provider that is configured for the API server that TestMain started; kubeconfig leads there.
var (
	api        p.Provider
	kubeconfig string
)

func TestMain(m *testing.M) {
	// A test that runs itself once more, for a repository alone.
	if os.Getenv(repositoryVariable) != "" {
		os.Exit(m.Run())
	}

	code, err := withCluster(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)

		code = 1
	}

	os.Exit(code)
}

func withCluster(run func() int) (int, error) {
	bin := os.Getenv("LAB_BIN")
	if bin == "" {
		return 1, fmt.Errorf("LAB_BIN is not set: name the folder with etcd, kube-apiserver and kube-controller-manager")
	}

	folder, err := os.MkdirTemp("", "kubernetesplugin")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(folder)

	var programs processes
	defer programs.stop()

	config, err := startCluster(bin, folder, &programs)
	if err != nil {
		return 1, err
	}

	api, kubeconfig = New(), config
	if err := api.Configure(context.Background(), p.ConfigureRequest{Args: values(map[string]any{"kubeconfig": config})}); err != nil {
		return 1, err
	}

	return run(), nil
}

func startCluster(bin, folder string, programs *processes) (string, error) {
	etcd, peer, secure, err := threePorts()
	if err != nil {
		return "", err
	}

	at := func(name string) string { return filepath.Join(folder, name) }
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}

	config := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: t\ncontexts: [{name: t, context: {cluster: t, user: t}}]\n"+
		"clusters: [{name: t, cluster: {server: \"https://127.0.0.1:%d\", insecure-skip-tls-verify: true}}]\nusers: [{name: t, user: {token: %s}}]\n", secure, token)

	for name, content := range map[string]string{
		"sa.key":     string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"tokens.csv": token + `,test,test,"system:masters"` + "\n",
		"kubeconfig": config,
	} {
		if err := os.WriteFile(at(name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}

	clientURL, peerURL := fmt.Sprintf("http://127.0.0.1:%d", etcd), fmt.Sprintf("http://127.0.0.1:%d", peer)
	commands := [][]string{
		{"etcd", "--data-dir=" + at("etcd"), "--listen-client-urls=" + clientURL, "--advertise-client-urls=" + clientURL,
			"--listen-peer-urls=" + peerURL, "--initial-advertise-peer-urls=" + peerURL, "--initial-cluster=default=" + peerURL, "--unsafe-no-fsync"},
		{"kube-apiserver", "--etcd-servers=" + clientURL, fmt.Sprintf("--secure-port=%d", secure), "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1",
			"--endpoint-reconciler-type=none", "--cert-dir=" + at("certs"), "--token-auth-file=" + at("tokens.csv"), "--authorization-mode=RBAC",
			"--service-account-key-file=" + at("sa.key"), "--service-account-signing-key-file=" + at("sa.key"), "--service-account-issuer=https://kubernetes.default.svc",
			"--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount"},
		{"kube-controller-manager", "--kubeconfig=" + at("kubeconfig"), "--controllers=namespace-controller,deployment-controller,replicaset-controller,garbage-collector-controller",
			"--leader-elect=false", "--secure-port=0"},
	}

	for i, command := range commands {
		if err := programs.start(bin, folder, command); err != nil {
			return "", err
		}

		if i == 1 {
			if err := waitForAPI(config); err != nil {
				return "", fmt.Errorf("%w; the end of its log:\n%s", err, tail(at("kube-apiserver.log")))
			}
		}
	}

	return config, nil
}

func waitForAPI(config string) error {
	deadline := time.Now().Add(5 * time.Minute)

	for {
		c, err := connect(context.Background(), values(map[string]any{"kubeconfig": config}))
		if err != nil {
			return err
		}

		if c.unreachable == nil {
			return nil
		}

		if time.Now().After(deadline) {
			return c.errUnreachable()
		}

		time.Sleep(200 * time.Millisecond)
	}
}

func threePorts() (a, b, c int, err error) {
	var ports [3]int

	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, 0, err
		}
		defer listener.Close()

		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}

	return ports[0], ports[1], ports[2], nil
}

func tail(path string) string {
	content, _ := os.ReadFile(path)

	return string(content[max(0, len(content)-2000):])
}

// processes are the programs that the test started; they end with it.
type processes struct{ running []*exec.Cmd }

func (s *processes) start(bin, folder string, command []string) error {
	log, err := os.Create(filepath.Join(folder, command[0]+".log"))
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.Command(filepath.Join(bin, command[0]), command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, folder
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	if err := cmd.Start(); err != nil {
		return err
	}

	s.running = append(s.running, cmd)

	return nil
}

func (s *processes) stop() {
	for i := len(s.running) - 1; i >= 0; i-- {
		s.running[i].Process.Kill() //nolint:errcheck
		s.running[i].Wait()         //nolint:errcheck
	}
}

// made checks and creates an object through the plugin.
func made(t *testing.T, token string, inputs map[string]any) (p.CreateResponse, property.Map) {
	t.Helper()

	checked, err := api.Check(context.Background(), p.CheckRequest{Urn: urn(token), Inputs: values(inputs)})
	if err != nil || len(checked.Failures) > 0 {
		t.Fatal(err, checked.Failures)
	}

	response, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(token), Properties: checked.Inputs})
	if err != nil {
		t.Fatal(err)
	}

	return response, checked.Inputs
}

func removed(t *testing.T, token, id string, state property.Map) {
	t.Helper()

	if err := api.Delete(context.Background(), p.DeleteRequest{ID: id, Urn: urn(token), Properties: state, Timeout: 60}); err != nil {
		t.Fatal(err)
	}
}

func namespaceInputs(name string) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": map[string]any{"a": "1"}}}
}

func TestANamespaceLivesFromCreateToDelete(t *testing.T) {
	response, inputs := made(t, namespaceToken, namespaceInputs("life"))
	if response.ID != "life" || plugins.TextOf(response.Properties, fieldManagerKey) == "" {
		t.Errorf("id %q, %v", response.ID, response.Properties)
	}

	diff, err := api.Diff(context.Background(), p.DiffRequest{Urn: urn(namespaceToken), State: response.Properties, OldInputs: inputs, Inputs: inputs})
	if err != nil || diff.HasChanges {
		t.Errorf("a second preview is not empty: %v, %v", diff, err)
	}

	now := values(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "life", "labels": map[string]any{"b": "2"}}})

	updated, err := api.Update(context.Background(), p.UpdateRequest{ID: "life", Urn: urn(namespaceToken), State: response.Properties, OldInputs: inputs, Inputs: now})
	if err != nil {
		t.Fatal(err)
	}

	labels := updated.Properties.Get("metadata").AsMap().Get("labels").AsMap()
	if labels.Get("b").IsNull() || !labels.Get("a").IsNull() {
		t.Errorf("labels: %v", labels)
	}

	removed(t, namespaceToken, "life", updated.Properties)

	read, err := api.Read(context.Background(), p.ReadRequest{ID: "life", Urn: urn(namespaceToken), Properties: updated.Properties, Inputs: now})
	if err != nil || read.ID != "" {
		t.Errorf("after delete: %q, %v", read.ID, err)
	}
}

func TestCreatingWhatExistsFailsAndItsPreviewDoesNot(t *testing.T) {
	response, inputs := made(t, namespaceToken, namespaceInputs("exists"))
	defer removed(t, namespaceToken, "exists", response.Properties)

	_, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(namespaceToken), Properties: inputs})
	if err == nil || !strings.Contains(err.Error(), `namespaces "exists" already exists`) {
		t.Error(err)
	}

	if _, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(namespaceToken), Properties: inputs, DryRun: true}); err != nil {
		t.Error(err)
	}
}

func TestAPreviewShowsWhatTheServerWouldMakeAndMakesNothing(t *testing.T) {
	response, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(namespaceToken), Properties: values(namespaceInputs("dry")), DryRun: true})
	if err != nil || response.ID != "" || response.Properties.Get("spec").IsNull() {
		t.Errorf("%v, %v", response, err)
	}

	if read, err := api.Read(context.Background(), p.ReadRequest{ID: "dry", Urn: urn(namespaceToken)}); err != nil || read.ID != "" {
		t.Errorf("%v, %v", read, err)
	}
}

func TestAMisspelledFieldFailsInThePreview(t *testing.T) {
	inputs := values(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "bad", "namespace": "default"}, "dtaa": map[string]any{"a": "1"}})

	_, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(configMapToken), Properties: inputs, DryRun: true})
	if err == nil || !strings.Contains(err.Error(), "dtaa") {
		t.Error(err)
	}
}

func TestImportByIdAndDriftOfDeclaredFields(t *testing.T) {
	response, inputs := made(t, secretToken, map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s", "namespace": "default"}, "stringData": map[string]any{"k": "v"}})
	defer removed(t, secretToken, "default/s", response.Properties)

	imported, err := api.Read(context.Background(), p.ReadRequest{ID: "default/s", Urn: urn(secretToken)})
	if err != nil || imported.ID != "default/s" || !imported.Properties.Get("data").Secret() {
		t.Errorf("%v, %v", imported, err)
	}

	// Somebody else changes the object.
	patch := values(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{
		"name": "s", "namespace": "default", "annotations": map[string]any{patchForceAnnotation: "true"},
	}, "data": map[string]any{"k": "b3RoZXI="}})
	if _, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(secretToken + "Patch"), Properties: patch}); err != nil {
		t.Fatal(err)
	}

	read, err := api.Read(context.Background(), p.ReadRequest{ID: "default/s", Urn: urn(secretToken), Properties: response.Properties, Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}

	diff, err := api.Diff(context.Background(), p.DiffRequest{Urn: urn(secretToken), State: read.Properties, OldInputs: read.Inputs, Inputs: inputs})
	if err != nil || !diff.HasChanges {
		t.Errorf("drift is not seen: %v, %v", diff, err)
	}
}

func TestAFieldThatSomebodyElseTookOverIsAConflictThatSaysItsMend(t *testing.T) {
	response, inputs := made(t, namespaceToken, namespaceInputs("conflict"))
	defer removed(t, namespaceToken, "conflict", response.Properties)

	label := func(value string, force bool) map[string]any {
		metadata := map[string]any{"name": "conflict", "labels": map[string]any{"a": value}}
		if force {
			metadata["annotations"] = map[string]any{patchForceAnnotation: "true"}
		}

		return map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
	}

	made(t, namespaceToken+"Patch", label("theirs", true))

	update := func(inputs property.Map) error {
		_, err := api.Update(context.Background(), p.UpdateRequest{ID: "conflict", Urn: urn(namespaceToken), State: response.Properties, Inputs: inputs})

		return err
	}

	if err := update(inputs); err == nil || !strings.Contains(err.Error(), "conflict") || !strings.Contains(err.Error(), patchForceAnnotation) {
		t.Error(err)
	}

	if err := update(values(label("ours", true))); err != nil {
		t.Error(err)
	}
}

func TestAPatchGivesItsFieldsUpWhenDeleted(t *testing.T) {
	response, _ := made(t, namespaceToken, namespaceInputs("patched"))
	defer removed(t, namespaceToken, "patched", response.Properties)

	patch, _ := made(t, namespaceToken+"Patch", map[string]any{"metadata": map[string]any{"name": "patched", "labels": map[string]any{"added": "x"}}})
	if patch.Properties.Get("metadata").AsMap().Get("labels").AsMap().Get("added").IsNull() {
		t.Fatal("not patched")
	}

	removed(t, namespaceToken+"Patch", "patched", patch.Properties)

	read, err := api.Read(context.Background(), p.ReadRequest{ID: "patched", Urn: urn(namespaceToken)})
	if err != nil || read.ID == "" || !read.Properties.Get("metadata").AsMap().Get("labels").AsMap().Get("added").IsNull() {
		t.Errorf("%v, %v", read.Properties.Get("metadata"), err)
	}
}

func deployment(annotations map[string]any) map[string]any {
	labels := map[string]any{"app": "d"}

	return map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "d", "namespace": "default", "annotations": annotations},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "pause"}}}},
		},
	}
}

func TestADeploymentThatNeverGetsReadyIsLeftPartialAtItsTimeout(t *testing.T) {
	response, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(deploymentToken), Properties: values(deployment(nil)), Timeout: 2})
	if err == nil || response.PartialState == nil || response.ID != "default/d" || !strings.Contains(err.Error(), "0 available") {
		t.Errorf("%q, %v", response.ID, err)
	}

	removed(t, deploymentToken, "default/d", response.Properties)

	skipped, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(deploymentToken), Properties: values(deployment(map[string]any{skipAwaitAnnotation: "true"}))})
	if err != nil {
		t.Fatal(err)
	}

	removed(t, deploymentToken, "default/d", skipped.Properties)
}

func TestADeletionThatAFinalizerHoldsNamesIt(t *testing.T) {
	inputs := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "held", "namespace": "default", "finalizers": []any{"example.com/hold"}}}
	response, _ := made(t, configMapToken, inputs)

	err := api.Delete(context.Background(), p.DeleteRequest{ID: response.ID, Urn: urn(configMapToken), Properties: response.Properties, Timeout: 5})
	if err == nil || !strings.Contains(err.Error(), "finalizers: example.com/hold") {
		t.Error(err)
	}
}

func TestACustomResourceCanFollowItsDefinition(t *testing.T) {
	custom := values(map[string]any{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "one", "namespace": "default"}, "spec": map[string]any{"size": 1}})
	thing := "kubernetes:example.com/v1:Thing"

	preview, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(thing), Properties: custom, DryRun: true})
	if err != nil || preview.Properties.Get("spec").IsNull() {
		t.Errorf("preview without a definition: %v", err)
	}

	patient := creationRetries
	creationRetries.Duration = time.Millisecond

	if _, err = api.Create(context.Background(), p.CreateRequest{Urn: urn(thing), Properties: custom}); err == nil || !strings.Contains(err.Error(), "Verify that any required CRDs have been created") {
		t.Error(err)
	}

	creationRetries = patient
	early := make(chan error, 1)

	go func() {
		_, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(thing), Properties: values(map[string]any{
			"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "early", "namespace": "default"},
		})})
		early <- err
	}()

	schema := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	definition, _ := made(t, "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition", map[string]any{
		"metadata": map[string]any{"name": "things.example.com"},
		"spec": map[string]any{
			"group": "example.com", "scope": "Namespaced", "names": map[string]any{"kind": "Thing", "plural": "things"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": schema}}},
		},
	})
	if definition.ID != "things.example.com" {
		t.Errorf("id %q", definition.ID)
	}

	if made, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(thing), Properties: custom}); err != nil || made.ID != "default/one" {
		t.Errorf("%q, %v", made.ID, err)
	}

	if err := <-early; err != nil {
		t.Errorf("an object that came before its definition is tried again: %v", err)
	}
}
