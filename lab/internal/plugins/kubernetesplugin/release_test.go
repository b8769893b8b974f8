package kubernetesplugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"

	"platform.lab/lab/internal/plugins"
)

// alone serves releases without a cluster.
func alone() releases {
	return releases{cluster: &cluster{unreachable: errors.New("connection refused")}, charts: newCharts()}
}

func checkedWith(t *testing.T, h releases, inputs, state property.Map) p.CheckResponse {
	t.Helper()

	response, err := h.check(context.Background(), p.CheckRequest{Urn: urn(releaseToken), Inputs: inputs, State: state})
	if err != nil {
		t.Fatal(err)
	}

	return response
}

func good(t *testing.T, h releases, inputs map[string]any) property.Map {
	t.Helper()

	response := checkedWith(t, h, values(inputs), property.Map{})
	if len(response.Failures) > 0 {
		t.Fatal(response.Failures)
	}

	return response.Inputs
}

func TestAReleaseGetsThePublishedDefaults(t *testing.T) {
	server, h := serveCharts(t, tinyChart("0.1.0")), alone()
	h.cluster.namespace = "apps"

	inputs := good(t, h, server.inputs(map[string]any{"name": "", "compat": "true", "values": map[string]any{"size": 2}}))
	in := releaseInputs{inputs}

	if in.text("namespace") != "apps" || in.text("version") != "0.1.0" || in.number("timeout") != 300 {
		t.Errorf("%v", inputs)
	}

	if !regexp.MustCompile(`^subject-[0-9a-f]{8}$`).MatchString(in.text("name")) {
		t.Errorf("name %q", in.text("name"))
	}

	if again := checkedWith(t, h, values(server.inputs(map[string]any{"name": ""})), inputs); plugins.TextOf(again.Inputs, "name") != in.text("name") {
		t.Errorf("the name changed to %q", plugins.TextOf(again.Inputs, "name"))
	}

	for name, kind := range releaseInputKinds {
		if v, ok := inputs.GetOk(name); !ok && !slices.Contains(optionalInputs, name) || ok && !kind.is(v) {
			t.Errorf("%s: %v", name, v)
		}
	}

	if _, ok := inputs.GetOk("compat"); ok {
		t.Error("compat is kept")
	}
}

func TestTheNamespaceIsDefaultWithoutAnother(t *testing.T) {
	inputs := good(t, alone(), map[string]any{"chart": packed(t, tinyChart("0.1.0"))})
	if plugins.TextOf(inputs, "namespace") != "default" {
		t.Errorf("%v", inputs)
	}
}

func TestWhatIsNotHonouredIsRefusedByName(t *testing.T) {
	for name, value := range map[string]any{
		"verify": true, "keyring": "k", "postrender": "sed", "manifest": map[string]any{}, "resourceNames": map[string]any{},
		"waitForJob": true, "atomic": "yes", "timeout": "5m", "values": "size: 1", "repositoryOpts": map[string]any{"url": "u"}, "chart": 1,
	} {
		inputs := map[string]any{"chart": "tiny", name: value}
		failures := checkedWith(t, alone(), values(inputs), property.Map{}).Failures

		if len(failures) == 0 || failures[0].Property != name {
			t.Errorf("%s: %v", name, failures)
		}
	}
}

func TestAChartThatCannotBeHadFailsTheCheck(t *testing.T) {
	server := serveCharts(t, tinyChart("0.1.0"))

	for _, more := range []map[string]any{{"version": "7.0.0"}, {"chart": ""}} {
		failures := checkedWith(t, alone(), values(server.inputs(more)), property.Map{}).Failures
		if len(failures) != 1 || failures[0].Property != "chart" {
			t.Errorf("%v: %v", more, failures)
		}
	}
}

func TestValuesThatBreakTheChartsSchemaFailTheCheckAndSecretOnesAreNotQuoted(t *testing.T) {
	server := serveCharts(t, tinyChart("0.1.0"))

	for key, value := range map[string]any{"sise": 1, "size": "large", "password": "S3CRET-VALUE"} {
		inputs := values(server.inputs(map[string]any{"values": map[string]any{key: value}}))
		inputs = inputs.Set("values", inputs.Get("values").WithSecret(true))

		failures := checkedWith(t, alone(), inputs, property.Map{}).Failures
		if len(failures) != 1 || failures[0].Property != "values" || strings.Contains(failures[0].Reason, "S3CRET") {
			t.Errorf("%s: %v", key, failures)
		}
	}
}

func TestValuesThatAreNotKnownYetPassWithoutTheChart(t *testing.T) {
	h := alone()
	inputs := values(map[string]any{"chart": "tiny", "name": "tiny", "repositoryOpts": map[string]any{"repo": "https://127.0.0.1:1"}}).
		Set("values", property.New(map[string]property.Value{"password": property.New(property.Computed)}))

	checked := checkedWith(t, h, inputs, property.Map{})
	if len(checked.Failures) > 0 || !checked.Inputs.Get("values").AsMap().Get("password").IsComputed() {
		t.Errorf("%v, %v", checked.Failures, checked.Inputs)
	}

	h.cluster = &cluster{}

	response, err := h.create(context.Background(), p.CreateRequest{Urn: urn(releaseToken), Properties: checked.Inputs, DryRun: true})
	if err != nil || !response.Properties.Get("status").IsComputed() || response.ID != "" {
		t.Errorf("%v, %v", response, err)
	}
}

func TestFilesOfValuesLieUnderTheValues(t *testing.T) {
	file := func(text string) property.Value {
		asset, err := presource.NewTextAsset(text)
		if err != nil {
			t.Fatal(err)
		}

		return property.New(asset)
	}

	inputs := values(map[string]any{"chart": packed(t, tinyChart("0.1.0")), "values": map[string]any{"size": 3}}).
		Set(valueFilesInput, property.New([]property.Value{file("size: 1\nsuffix: a"), file("suffix: b").WithSecret(true)}))

	checked := checkedWith(t, alone(), inputs, property.Map{})
	got := releaseInputs{checked.Inputs}.values()

	if len(checked.Failures) > 0 || !maps.Equal(got, map[string]any{"size": 3.0, "suffix": "b"}) || !checked.Inputs.Get("values").Secret() {
		t.Errorf("%v, %v", checked.Failures, checked.Inputs.Get("values"))
	}

	wrong := values(map[string]any{"chart": "tiny", valueFilesInput: []any{"values.yaml"}})
	if failures := checkedWith(t, alone(), wrong, property.Map{}).Failures; len(failures) != 1 || failures[0].Property != valueFilesInput {
		t.Errorf("%v", failures)
	}
}

func TestWithoutAClusterOnlyThePreviewWorks(t *testing.T) {
	h := alone()
	h.cluster.deleteUnreachable = true
	inputs := good(t, h, map[string]any{"chart": packed(t, tinyChart("0.1.0")), "name": "tiny"})
	ctx := context.Background()

	if response, err := h.create(ctx, p.CreateRequest{Properties: inputs, DryRun: true}); err != nil || !response.Properties.Get("status").IsComputed() {
		t.Errorf("%v, %v", response, err)
	}

	if response, err := h.update(ctx, p.UpdateRequest{Inputs: inputs, State: inputs, DryRun: true}); err != nil || !response.Properties.Get("status").IsComputed() {
		t.Errorf("%v, %v", response, err)
	}

	_, create := h.create(ctx, p.CreateRequest{Properties: inputs})
	_, update := h.update(ctx, p.UpdateRequest{Inputs: inputs, State: inputs})

	for _, err := range []error{create, update, h.delete(ctx, p.DeleteRequest{Properties: inputs})} {
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Error(err)
		}
	}

	if read, err := h.read(ctx, p.ReadRequest{ID: "default/tiny", Properties: inputs, Inputs: inputs}); err != nil || read.ID != "" {
		t.Errorf("deleteUnreachable does not take the release out of the state: %v, %v", read, err)
	}
}

func releaseDiff(t *testing.T, old, state, inputs property.Map, ignored ...string) map[string]p.PropertyDiff {
	t.Helper()

	response, err := alone().diff(context.Background(), p.DiffRequest{OldInputs: old, State: state, Inputs: inputs, IgnoreChanges: ignored})
	if err != nil || response.HasChanges != (len(response.DetailedDiff) > 0) {
		t.Fatal(response, err)
	}

	return response.DetailedDiff
}

func withValues(of map[string]any, more map[string]any) property.Map {
	inputs := map[string]any{"name": "tiny", "namespace": "apps", "chart": "tiny", "version": "0.1.0", "timeout": 300, "values": of}
	maps.Copy(inputs, more)

	return values(inputs)
}

func limits(memory string) map[string]any {
	return map[string]any{"resources": map[string]any{"limits": map[string]any{"memory": memory}}, "list": []any{map[string]any{"a": 1}}}
}

func TestAChangedValueShowsAtItsPathAndNothingElseDoes(t *testing.T) {
	old := withValues(limits("1Gi"), nil)

	if diff := releaseDiff(t, old, old, withValues(limits("1Gi"), nil)); len(diff) > 0 {
		t.Errorf("%v", diff)
	}

	diff := releaseDiff(t, old, old, withValues(limits("2Gi"), nil))
	if len(diff) != 1 || diff["values.resources.limits.memory"].Kind != p.Update {
		t.Errorf("%v", diff)
	}

	longer := limits("1Gi")
	longer["list"] = []any{map[string]any{"a": 1}, map[string]any{"a": 2}}

	if diff := releaseDiff(t, old, old, withValues(longer, nil)); len(diff) != 1 || diff["values.list[1]"].Kind != p.Add {
		t.Errorf("%v", diff)
	}

	if diff := releaseDiff(t, old, old, withValues(nil, nil)); diff["values.resources"].Kind != p.Delete || diff["values.list"].Kind != p.Delete {
		t.Errorf("%v", diff)
	}
}

func TestAnotherNameOrNamespaceReplacesAndAnotherVersionDoesNot(t *testing.T) {
	old := withValues(nil, nil)

	for name, want := range map[string]p.DiffKind{"name": p.UpdateReplace, "namespace": p.UpdateReplace, "version": p.Update, "chart": p.Update} {
		if diff := releaseDiff(t, old, old, withValues(nil, map[string]any{name: "other"})); len(diff) != 1 || diff[name].Kind != want {
			t.Errorf("%s: %v", name, diff)
		}
	}
}

func TestDriftInTheStateIsADifferenceAndWhatOthersAddedIsNot(t *testing.T) {
	inputs := withValues(map[string]any{"size": 1}, nil)
	drifted := withValues(map[string]any{"size": 2, "suffix": "theirs"}, map[string]any{"version": "0.2.0"})

	diff := releaseDiff(t, inputs, drifted, inputs)
	if len(diff) != 2 || diff["values.size"].Kind != p.Update || diff["version"].Kind != p.Update {
		t.Errorf("%v", diff)
	}

	if diff := releaseDiff(t, inputs, drifted, inputs, "version", "values"); len(diff) != 1 || diff["values.size"].Kind != p.Update {
		t.Errorf("as published, only the version's drift is ignored: %v", diff)
	}
}

func TestAValueThatIsNotKnownYetIsADifference(t *testing.T) {
	old := withValues(map[string]any{"password": "a"}, nil)
	now := old.Set("values", property.New(map[string]property.Value{"password": property.New(property.Computed).WithSecret(true)}))

	if diff := releaseDiff(t, old, old, now); len(diff) != 1 || diff["values.password"].Kind != p.Update {
		t.Errorf("%v", diff)
	}
}

func recordOf(config map[string]any) *release.Release {
	return &release.Release{
		Name: "tiny", Namespace: "apps", Version: 3, Config: config, Info: &release.Info{Status: release.StatusDeployed},
		Chart: &chart.Chart{Metadata: &chart.Metadata{Name: "tiny", Version: "0.2.0", AppVersion: "9.9"}},
		Manifest: "---\n# Source: a\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: apps}\n" +
			"---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n---\n# nothing\n",
	}
}

func TestOutputsAreWhatHelmRecordedAndSecretsStaySecret(t *testing.T) {
	inputs := withValues(map[string]any{"size": 1}, nil)
	inputs = inputs.Set("values", property.New(inputs.Get("values").AsMap().
		Set("password", property.New("old").WithSecret(true)).
		Set("list", property.New([]property.Value{property.New("x").WithSecret(true)}))))

	outputs, err := outputsOfRelease(inputs, inputs, recordOf(map[string]any{"size": 2, "password": "new", "list": []any{"y"}}))
	if err != nil {
		t.Fatal(err)
	}

	got := outputs.Get("values").AsMap()
	if got.Get("size").AsNumber() != 2 || !got.Get("password").Secret() || got.Get("password").AsString() != "new" || !got.Get("list").HasSecrets() {
		t.Errorf("%v", got)
	}

	status := plainMap(outputs.Get("status").AsMap())
	want := map[string]any{"name": "tiny", "namespace": "apps", "revision": int64(3), "status": "deployed", "chart": "tiny", "version": "0.2.0", "appVersion": "9.9"}

	if !maps.Equal(status, want) || plugins.TextOf(outputs, "version") != "0.2.0" {
		t.Errorf("%v", outputs)
	}

	names := fmt.Sprint(plainMap(outputs.Get("resourceNames").AsMap()))
	if names != "map[ConfigMap/v1:[apps/a b] Deployment.apps/apps/v1:[d]]" {
		t.Error(names)
	}

	if _, ok := outputs.GetOk("manifest"); ok {
		t.Error("the manifest, with the chart's Secrets, is in the state")
	}
}

func TestNamesThatAChartMakesOfASecretAreSecret(t *testing.T) {
	for password, secret := range map[string]bool{"apps/a": true, "elsewhere": false} {
		inputs := withValues(map[string]any{}, nil).Set("values", property.New(map[string]property.Value{"password": property.New(password).WithSecret(true)}))

		outputs, err := outputsOfRelease(inputs, inputs, recordOf(nil))
		if err != nil || outputs.Get("resourceNames").Secret() != secret || outputs.Get("status").Secret() {
			t.Errorf("%s: %v, %v", password, outputs, err)
		}
	}
}

func TestTemplatesGetNumbersAsThePublishedPluginGivesThem(t *testing.T) {
	in := releaseInputs{withValues(map[string]any{"bytes": 1000000}, nil)}
	if text := fmt.Sprint(in.values()["bytes"]); text != "1e+06" {
		t.Errorf("a template would print %s", text)
	}
}

func TestTheResourcesOwnTimeoutGoesBeforeTheReleases(t *testing.T) {
	in := releaseInputs{withValues(nil, nil)}
	if in.timeout(7).Seconds() != 7 || in.timeout(0).Seconds() != 300 || (releaseInputs{}).timeout(0).Seconds() != 300 {
		t.Errorf("%v, %v", in.timeout(7), in.timeout(0))
	}
}

func TestSettingsOfHelmThatAreNotServedAreRefused(t *testing.T) {
	for setting, wrong := range map[string]bool{
		`{"driver": "configmap"}`: false, `{"suppressBetaWarning": true}`: false, `{"driver": "sql"}`: true, `{"pluginsPath": "/p"}`: true,
	} {
		response, err := checkConfig(context.Background(), p.CheckRequest{Inputs: values(map[string]any{"helmReleaseSettings": setting})})
		if err != nil || (len(response.Failures) > 0) != wrong {
			t.Errorf("%s: %v, %v", setting, response.Failures, err)
		}
	}
}

func TestTheOtherTypesOfHelmStayRefused(t *testing.T) {
	s := &server{cluster: &cluster{}, charts: newCharts()}

	if h, err := s.handler(releaseToken); err != nil {
		t.Errorf("%v, %v", h, err)
	}

	for _, token := range []string{"kubernetes:helm.sh/v3:Chart", "kubernetes:helm.sh/v4:Chart", "kubernetes:helm.sh/v2:Chart"} {
		if _, err := s.handler(urn(token).Type()); err == nil || !strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", token, err)
		}
	}
}
