//go:build lab

package kubernetesplugin

// The life of releases against the real API server of cluster_test.go. No kubelet runs there: a Deployment never gets
// ready.

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"platform.lab/lab/internal/plugins"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// connected is a connection of the test's own.
func connected(t *testing.T) *cluster {
	t.Helper()

	c, err := connect(context.Background(), values(map[string]any{"kubeconfig": kubeconfig}))
	if err != nil || c.unreachable != nil {
		t.Fatal(err, c.unreachable)
	}

	return c
}

func liveConfigMap(t *testing.T, namespace, name string) *unstructured.Unstructured {
	t.Helper()

	live, err := connected(t).client.Resource(configMaps).Namespace(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}

	if err != nil {
		t.Fatal(err)
	}

	return live
}

// records are Helm's of a release in default.
func records(t *testing.T, name string) (*action.Configuration, []*release.Release) {
	t.Helper()

	configuration, err := connected(t).helm("default")
	if err != nil {
		t.Fatal(err)
	}

	history, err := configuration.Releases.History(name)
	if err != nil {
		return configuration, nil
	}

	return configuration, history
}

func lastStatus(t *testing.T, name string) (status release.Status, revision int) {
	t.Helper()

	configuration, _ := records(t, name)

	last, err := configuration.Releases.Last(name)
	if err != nil {
		t.Fatal(err)
	}

	return last.Info.Status, last.Version
}

// releaseOf are checked inputs of a chart.
func releaseOf(t *testing.T, chartPath, name string, of, more map[string]any) property.Map {
	t.Helper()

	inputs := map[string]any{"chart": chartPath, "name": name, "values": of}
	maps.Copy(inputs, more)

	checked, err := api.Check(context.Background(), p.CheckRequest{Urn: urn(releaseToken), Inputs: values(inputs)})
	if err != nil || len(checked.Failures) > 0 {
		t.Fatal(err, checked.Failures)
	}

	return checked.Inputs
}

func createRelease(inputs property.Map, dryRun bool) (p.CreateResponse, error) {
	return api.Create(context.Background(), p.CreateRequest{Urn: urn(releaseToken), Properties: inputs, DryRun: dryRun})
}

func updateRelease(state, old, inputs property.Map, dryRun bool) (p.UpdateResponse, error) {
	return api.Update(context.Background(), p.UpdateRequest{
		ID: releaseInputs{inputs}.id(), Urn: urn(releaseToken), State: state, OldInputs: old, Inputs: inputs, DryRun: dryRun,
	})
}

func readRelease(t *testing.T, id string, state, inputs property.Map) p.ReadResponse {
	t.Helper()

	read, err := api.Read(context.Background(), p.ReadRequest{ID: id, Urn: urn(releaseToken), Properties: state, Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}

	return read
}

func statusOf(properties property.Map) string {
	return plugins.TextOf(mapOf(properties, "status"), "status")
}

func differs(t *testing.T, state, old, inputs property.Map) map[string]p.PropertyDiff {
	t.Helper()

	diff, err := api.Diff(context.Background(), p.DiffRequest{Urn: urn(releaseToken), State: state, OldInputs: old, Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}

	return diff.DetailedDiff
}

func mustFail(t *testing.T, err error, words ...string) {
	t.Helper()

	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
}

func TestAReleaseLivesFromInstallToUninstall(t *testing.T) {
	path := packed(t, tinyChart("0.1.0"))
	inputs := releaseOf(t, path, "life", map[string]any{"size": 1}, map[string]any{"maxHistory": 2})

	if preview, err := createRelease(inputs, true); err != nil || !preview.Properties.Get("status").IsComputed() {
		t.Fatal(err)
	}

	if liveConfigMap(t, "default", "life-settings") != nil {
		t.Fatal("a preview makes objects")
	}

	created, err := createRelease(inputs, false)
	if err != nil || created.ID != "default/life" || statusOf(created.Properties) != "deployed" {
		t.Fatal(created.ID, err)
	}

	if liveConfigMap(t, "default", "life-settings") == nil || liveConfigMap(t, "default", "life-hook") == nil {
		t.Error("the chart's object or its hook is missing")
	}

	if diff := differs(t, created.Properties, inputs, releaseOf(t, path, "life", map[string]any{"size": 1}, map[string]any{"maxHistory": 2})); len(diff) > 0 {
		t.Errorf("a second preview is not empty: %v", diff)
	}

	state, old := created.Properties, inputs

	for _, size := range []int{2, 3, 4} {
		now := releaseOf(t, path, "life", map[string]any{"size": size}, map[string]any{"maxHistory": 2})

		if diff := differs(t, state, old, now); len(diff) != 1 || diff["values.size"].Kind != p.Update {
			t.Errorf("%v", diff)
		}

		if _, err := updateRelease(state, old, now, true); err != nil {
			t.Error(err)
		}

		updated, err := updateRelease(state, old, now, false)
		if err != nil {
			t.Fatal(err)
		}

		state, old = updated.Properties, now
	}

	if text, _, _ := unstructured.NestedString(liveConfigMap(t, "default", "life-settings").Object, "data", "size"); text != "4" {
		t.Errorf("size is %q", text)
	}

	if _, history := records(t, "life"); len(history) != 2 || mapOf(state, "status").Get("revision").AsNumber() != 4 {
		t.Errorf("%d revisions kept, %v", len(history), state.Get("status"))
	}

	imported := readRelease(t, "default/life", property.Map{}, property.Map{})
	if imported.ID != "default/life" || plugins.TextOf(imported.Inputs, "chart") != "tiny" || (releaseInputs{imported.Inputs}).values()["size"] != 4.0 {
		t.Errorf("%v", imported)
	}

	removed(t, releaseToken, "default/life", state)

	if liveConfigMap(t, "default", "life-settings") != nil {
		t.Error("uninstalling leaves the object")
	}

	if read := readRelease(t, "default/life", state, old); read.ID != "" {
		t.Errorf("%v", read)
	}

	// Gone already is fine.
	removed(t, releaseToken, "default/life", state)
}

func TestAFailedAtomicInstallLeavesNothing(t *testing.T) {
	inputs := releaseOf(t, packed(t, tinyChart("0.1.0")), "atomic", map[string]any{"neverReady": true}, map[string]any{"atomic": true})

	// The resource's own timeout counts, not the release's five minutes.
	response, err := api.Create(context.Background(), p.CreateRequest{Urn: urn(releaseToken), Properties: inputs, Timeout: 1})
	mustFail(t, err, "release atomic failed, and has been uninstalled due to atomic being set", "deadline exceeded")

	if _, history := records(t, "atomic"); response.PartialState != nil || len(history) > 0 || liveConfigMap(t, "default", "atomic-settings") != nil {
		t.Errorf("%v, %d revisions", response, len(history))
	}
}

func TestAFailedInstallIsKeptAndTheNextRunMendsIt(t *testing.T) {
	path := packed(t, tinyChart("0.1.0"))
	inputs := releaseOf(t, path, "partial", map[string]any{"neverReady": true}, map[string]any{"timeout": 1})

	response, err := createRelease(inputs, false)
	mustFail(t, err, `Helm release "default/partial" was created, but failed to initialize completely`, "deadline exceeded")

	if response.PartialState == nil || response.ID != "default/partial" || statusOf(response.Properties) != "failed" {
		t.Fatalf("%v", response)
	}

	now := releaseOf(t, path, "partial", map[string]any{"size": 2}, nil)
	if _, err := updateRelease(response.Properties, inputs, now, true); err != nil {
		t.Error(err)
	}

	updated, err := updateRelease(response.Properties, inputs, now, false)
	if err != nil || statusOf(updated.Properties) != "deployed" {
		t.Fatal(err)
	}

	removed(t, releaseToken, "default/partial", updated.Properties)
}

func TestAFailedAtomicUpgradeIsRolledBack(t *testing.T) {
	path := packed(t, tinyChart("0.1.0"))
	inputs := releaseOf(t, path, "back", map[string]any{"size": 1}, nil)

	created, err := createRelease(inputs, false)
	if err != nil {
		t.Fatal(err)
	}

	now := releaseOf(t, path, "back", map[string]any{"size": 2, "neverReady": true}, map[string]any{"atomic": true, "cleanupOnFail": true, "timeout": 1})

	response, err := updateRelease(created.Properties, inputs, now, false)
	mustFail(t, err, "release back failed, and has been rolled back due to atomic being set", "deadline exceeded")

	if response.PartialState == nil {
		t.Error("the failure is not in the state")
	}

	text, _, _ := unstructured.NestedString(liveConfigMap(t, "default", "back-settings").Object, "data", "size")
	if status, revision := lastStatus(t, "back"); status != release.StatusDeployed || revision != 3 || text != "1" {
		t.Errorf("revision %d is %s, size %s", revision, status, text)
	}

	removed(t, releaseToken, "default/back", created.Properties)
}

func TestAPendingRevisionLocksTheReleaseAndARefreshTakesItsValues(t *testing.T) {
	path := packed(t, tinyChart("0.1.0"))
	inputs := releaseOf(t, path, "pending", map[string]any{"size": 1}, nil)

	created, err := createRelease(inputs, false)
	if err != nil {
		t.Fatal(err)
	}

	// What a plugin that was killed in the middle of an upgrade leaves.
	configuration, history := records(t, "pending")
	killed := *history[0]
	killed.Version, killed.Config = 2, map[string]any{"size": 2}
	killed.Info = &release.Info{Status: release.StatusPendingUpgrade}

	if err := configuration.Releases.Create(&killed); err != nil {
		t.Fatal(err)
	}

	now := releaseOf(t, path, "pending", map[string]any{"size": 2}, nil)

	if _, err := updateRelease(created.Properties, inputs, now, true); err != nil {
		t.Errorf("what fixes the release runs after the preview, so that must pass: %v", err)
	}

	response, err := updateRelease(created.Properties, inputs, now, false)
	mustFail(t, err, "another operation (install/upgrade/rollback) is in progress")

	if response.PartialState != nil {
		t.Error("a refused upgrade is taken into the state")
	}

	_, err = createRelease(inputs, false)
	mustFail(t, err, "cannot re-use a name that is still in use")

	// The published trap: after a refresh the change is never applied.
	read := readRelease(t, "default/pending", created.Properties, inputs)
	if diff := differs(t, read.Properties, read.Inputs, now); statusOf(read.Properties) != "pending-upgrade" || len(diff) > 0 {
		t.Errorf("%s, %v", statusOf(read.Properties), diff)
	}

	if diff := differs(t, read.Properties, read.Inputs, inputs); diff["values.size"].Kind != p.Update {
		t.Errorf("drift is not seen: %v", diff)
	}

	removed(t, releaseToken, "default/pending", created.Properties)
}

func TestCancellingLeavesAFailedRevisionAndNoLock(t *testing.T) {
	path := packed(t, tinyChart("0.1.0"))
	inputs := releaseOf(t, path, "cancelled", map[string]any{"neverReady": true}, nil)

	provider := New()
	if err := provider.Configure(context.Background(), p.ConfigureRequest{Args: values(map[string]any{"kubeconfig": kubeconfig})}); err != nil {
		t.Fatal(err)
	}

	type answer struct {
		p.CreateResponse
		err error
	}

	answered := make(chan answer, 1)

	go func() {
		response, err := provider.Create(context.Background(), p.CreateRequest{Urn: urn(releaseToken), Properties: inputs})
		answered <- answer{response, err}
	}()

	for liveConfigMap(t, "default", "cancelled-settings") == nil {
		time.Sleep(50 * time.Millisecond)
	}

	if err := provider.Cancel(context.Background()); err != nil {
		t.Fatal(err)
	}

	got := <-answered
	mustFail(t, got.err, "context canceled")

	if status, _ := lastStatus(t, "cancelled"); status != release.StatusFailed || got.PartialState == nil {
		t.Errorf("%s, %v", status, got.PartialState)
	}

	now := releaseOf(t, path, "cancelled", map[string]any{"size": 2}, nil)

	updated, err := updateRelease(got.Properties, inputs, now, false)
	if err != nil {
		t.Fatal(err)
	}

	removed(t, releaseToken, "default/cancelled", updated.Properties)
}

func TestAPreviewRefusesWhatTheServerWould(t *testing.T) {
	path := packed(t, tinyChart("0.1.0"))
	incompatible := tinyChart("0.1.0")
	incompatible.Metadata.KubeVersion = "<1.20.0"
	broken := tinyChart("0.1.0")
	broken.Templates = append(broken.Templates, &chart.File{Name: "templates/fail.yaml", Data: []byte(`{{ fail "not like this" }}`)})

	for words, inputs := range map[string]property.Map{
		"metadata.name":                     releaseOf(t, path, "refused", map[string]any{"suffix": "UPPER"}, nil),
		"which is incompatible with":        releaseOf(t, packed(t, incompatible), "refused", nil, nil),
		"not like this":                     releaseOf(t, packed(t, broken), "refused", nil, nil),
		"release name \"Refused\": invalid": releaseOf(t, path, "Refused", nil, nil),
	} {
		_, err := createRelease(inputs, true)
		mustFail(t, err, words)
	}

	inputs := releaseOf(t, path, "refused", map[string]any{"suffix": "ok"}, nil)

	created, err := createRelease(inputs, false)
	if err != nil {
		t.Fatal(err)
	}

	_, err = updateRelease(created.Properties, inputs, releaseOf(t, path, "refused", map[string]any{"suffix": "UPPER"}, nil), true)
	mustFail(t, err, "metadata.name")

	object := map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "wrong"}, "spec": map[string]any{"replicas": -1}}
	_, err = updateRelease(created.Properties, inputs, releaseOf(t, path, "refused", map[string]any{"suffix": "ok", "extra": object}, nil), true)
	mustFail(t, err, `Deployment "wrong" in namespace "default"`, "spec.replicas", "spec.selector")

	removed(t, releaseToken, "default/refused", created.Properties)
}

func TestAPreviewPassesWhatTheSameRunMayStillBring(t *testing.T) {
	path := packed(t, tinyChart("0.1.0"))
	absentKind := map[string]any{"apiVersion": "absent.example.com/v1", "kind": "Absent", "metadata": map[string]any{"name": "a"}}

	for name, inputs := range map[string]property.Map{
		"namespace": releaseOf(t, path, "early", nil, map[string]any{"namespace": "not-made-yet"}),
		"kind":      releaseOf(t, path, "early", map[string]any{"extra": absentKind}, nil),
	} {
		if _, err := createRelease(inputs, true); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	_, err := createRelease(releaseOf(t, path, "early", map[string]any{"extra": absentKind}, nil), false)
	mustFail(t, err, `no matches for kind "Absent"`)
}

func TestAnObjectThatIsNotTheReleasesIsRefusedUnlessItTakesOwnership(t *testing.T) {
	response, _ := made(t, configMapToken, configMapIn("owned-settings"))
	path := packed(t, tinyChart("0.1.0"))
	inputs := releaseOf(t, path, "owned", nil, nil)

	_, err := createRelease(inputs, true)
	mustFail(t, err, "exists and cannot be imported into the current release: invalid ownership metadata", "set takeOwnership")

	_, err = createRelease(inputs, false)
	mustFail(t, err, "exists and cannot be imported into the current release: invalid ownership metadata")

	inputs = releaseOf(t, path, "owned", nil, map[string]any{"takeOwnership": true})
	if _, err := createRelease(inputs, true); err != nil {
		t.Error(err)
	}

	created, err := createRelease(inputs, false)
	if err != nil {
		t.Fatal(err)
	}

	removed(t, releaseToken, "default/owned", created.Properties)
	removed(t, configMapToken, response.ID, response.Properties)
}

func configMapIn(name string) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": "default"}}
}

const widgets = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.release.example.com}
spec:
  group: release.example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions:
    - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

func TestAChartsDefinitionsComeBeforeItsObjectsAndInItsOwnNamespace(t *testing.T) {
	withDefinitions := tinyChart("0.1.0")
	withDefinitions.Files = append(withDefinitions.Files, &chart.File{Name: "crds/widgets.yaml", Data: []byte(widgets)})
	withDefinitions.Templates = append(withDefinitions.Templates, &chart.File{Name: "templates/widget.yaml", Data: []byte(
		"{{ if .Capabilities.APIVersions.Has \"release.example.com/v1/Widget\" }}\napiVersion: release.example.com/v1\nkind: Widget\nmetadata: {name: one}\n{{ else }}{{ fail \"no widgets\" }}{{ end }}")})

	inputs := releaseOf(t, packed(t, withDefinitions), "defined", nil, map[string]any{"namespace": "defined", "createNamespace": true})
	if _, err := createRelease(inputs, true); err != nil {
		t.Error(err)
	}

	created, err := createRelease(inputs, false)
	if err != nil {
		t.Fatal(err)
	}

	names, _ := plain(created.Properties.Get("resourceNames")).(map[string]any)
	if _, ok := names["Widget.release.example.com/release.example.com/v1"]; !ok || created.ID != "defined/defined" {
		t.Errorf("%v", names)
	}

	// The plugin's other resources know the kind as well.
	widget, _ := made(t, "kubernetes:release.example.com/v1:Widget", map[string]any{"metadata": map[string]any{
		"name": "two", "namespace": "defined",
		// The garbage collector learns of new kinds only twice a minute.
		"annotations": map[string]any{propagationAnnotation: "Background"},
	}})
	removed(t, "kubernetes:release.example.com/v1:Widget", widget.ID, widget.Properties)
	removed(t, releaseToken, created.ID, created.Properties)
}

func TestSecretsOfAReleaseAreMarkedInItsStateAlsoAfterARefresh(t *testing.T) {
	inputs := releaseOf(t, packed(t, tinyChart("0.1.0")), "secretive", map[string]any{"password": "a-pass-word"}, nil)
	inputs = inputs.Set("values", property.New(inputs.Get("values").AsMap().Set("password", property.New("a-pass-word").WithSecret(true))))

	created, err := createRelease(inputs, false)
	if err != nil {
		t.Fatal(err)
	}

	read := readRelease(t, created.ID, created.Properties, inputs)

	for _, properties := range []property.Map{created.Properties, read.Properties, read.Inputs} {
		if clear := withoutSecrets(property.New(properties)); strings.Contains(clear, "a-pass-word") {
			t.Errorf("in plain text: %s", clear)
		}
	}

	removed(t, releaseToken, created.ID, created.Properties)
}

// withoutSecrets joins all texts that are not marked.
func withoutSecrets(value property.Value) string {
	var text strings.Builder

	switch {
	case value.Secret():
	case value.IsMap():
		for _, element := range value.AsMap().All {
			text.WriteString(withoutSecrets(element) + " ")
		}
	case value.IsArray():
		for _, element := range value.AsArray().All {
			text.WriteString(withoutSecrets(element) + " ")
		}
	case value.IsString():
		text.WriteString(value.AsString())
	}

	return text.String()
}

func TestReusedValuesCountInThePreviewAndInTheUpgrade(t *testing.T) {
	path := packed(t, tinyChart("0.1.0"))
	inputs := releaseOf(t, path, "reuse", map[string]any{"size": 5, "suffix": "kept"}, nil)

	created, err := createRelease(inputs, false)
	if err != nil {
		t.Fatal(err)
	}

	now := releaseOf(t, path, "reuse", map[string]any{"size": 6}, map[string]any{"reuseValues": true})
	if _, err := updateRelease(created.Properties, inputs, now, true); err != nil {
		t.Error(err)
	}

	updated, err := updateRelease(created.Properties, inputs, now, false)
	if err != nil || (releaseInputs{updated.Properties}).values()["suffix"] != "kept" || liveConfigMap(t, "default", "reuse-kept") == nil {
		t.Errorf("%v, %v", updated, err)
	}

	removed(t, releaseToken, created.ID, updated.Properties)
}

func TestHelmsRecordsLieWhereTheProviderSays(t *testing.T) {
	provider := New()

	config := values(map[string]any{"kubeconfig": kubeconfig, "helmReleaseSettings": map[string]any{"driver": "configmap"}})
	if err := provider.Configure(context.Background(), p.ConfigureRequest{Args: config}); err != nil {
		t.Fatal(err)
	}

	inputs := releaseOf(t, packed(t, tinyChart("0.1.0")), "driven", nil, nil)

	created, err := provider.Create(context.Background(), p.CreateRequest{Urn: urn(releaseToken), Properties: inputs})
	if err != nil {
		t.Fatal(err)
	}

	if _, history := records(t, "driven"); len(history) > 0 || liveConfigMap(t, "default", "sh.helm.release.v1.driven.v1") == nil {
		t.Errorf("the record is no ConfigMap")
	}

	if err := provider.Delete(context.Background(), p.DeleteRequest{ID: created.ID, Urn: urn(releaseToken), Properties: created.Properties}); err != nil {
		t.Error(err)
	}
}
