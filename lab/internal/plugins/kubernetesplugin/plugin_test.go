package kubernetesplugin

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	namespaceToken  = "kubernetes:core/v1:Namespace"
	configMapToken  = "kubernetes:core/v1:ConfigMap"
	secretToken     = "kubernetes:core/v1:Secret"
	deploymentToken = "kubernetes:apps/v1:Deployment"
	serviceToken    = "kubernetes:core/v1:Service"
)

func urn(token string) presource.URN {
	return presource.NewURN("test", "platform", "", tokens.Type(token), "subject")
}

func values(m map[string]any) property.Map {
	return presource.FromResourcePropertyMap(presource.NewPropertyMapFromMap(m))
}

// offline serves a kind without a cluster.
func offline(t *testing.T, token string) objects {
	t.Helper()

	kind, err := parseToken(tokens.Type(token))
	if err != nil {
		t.Fatal(err)
	}

	return objects{cluster: &cluster{unreachable: errors.New("connection refused")}, kind: kind}
}

func configMap(name string, data map[string]any) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": "apps"}, "data": data}
}

func diffOf(t *testing.T, o objects, live, oldInputs, inputs property.Map) p.DiffResponse {
	t.Helper()

	response, err := o.diff(context.Background(), p.DiffRequest{State: live, OldInputs: oldInputs, Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}

	return response
}

func TestTokensNameGroupVersionAndKind(t *testing.T) {
	for token, want := range map[string]string{
		namespaceToken:                     "/v1, Kind=Namespace",
		"kubernetes:metallb.io/v1beta1:L2": "metallb.io/v1beta1, Kind=L2",
		"kubernetes:core/v1:NodePatch":     "/v1, Kind=Node",
	} {
		kind, err := parseToken(tokens.Type(token))
		if err != nil || kind.GroupVersionKind.String() != want || kind.patch != strings.HasSuffix(token, "Patch") {
			t.Errorf("%s: %v, %v", token, kind, err)
		}
	}
}

func TestTypesThatAreNoSingleObjectAreRefusedByName(t *testing.T) {
	for _, token := range []string{"kubernetes:helm.sh/v3:Release", "kubernetes:helm.sh/v4:Chart", "kubernetes:yaml/v2:ConfigGroup", "kubernetes:yaml:ConfigFile", "kubernetes:kustomize/v2:Directory"} {
		if _, err := parseToken(tokens.Type(token)); err == nil || !strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", token, err)
		}
	}
}

func TestANamelessObjectIsNamedAfterItsResourceAndKeepsThatName(t *testing.T) {
	o := offline(t, configMapToken)
	inputs := values(map[string]any{"data": map[string]any{"a": "1"}})

	first, err := o.check(context.Background(), p.CheckRequest{Urn: urn(configMapToken), Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}

	name := o.kind.objectOf(first.Inputs).GetName()
	if !regexp.MustCompile(`^subject-[0-9a-f]{8}$`).MatchString(name) {
		t.Errorf("name %q", name)
	}

	again, err := o.check(context.Background(), p.CheckRequest{Urn: urn(configMapToken), Inputs: inputs, State: first.Inputs})
	if err != nil || o.kind.objectOf(again.Inputs).GetName() != name {
		t.Errorf("%v: %v", err, again.Inputs)
	}
}

func TestInputsOfAnotherKindThanTheTypeAreRefused(t *testing.T) {
	response, err := offline(t, namespaceToken).check(context.Background(), p.CheckRequest{Urn: urn(namespaceToken), Inputs: values(configMap("a", nil))})
	if err != nil || len(response.Failures) != 1 || !strings.Contains(response.Failures[0].Reason, `kind "ConfigMap" do not fit`) {
		t.Errorf("%v, %v", response.Failures, err)
	}
}

func TestFieldsThatTheServerFillsInAreNoDifference(t *testing.T) {
	inputs := values(configMap("a", map[string]any{"a": "1"}))
	live := values(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"a": "1", "added": "elsewhere"}, "__fieldManager": "x",
		"metadata": map[string]any{"name": "a", "namespace": "apps", "uid": "u", "resourceVersion": "1", "labels": map[string]any{"x": "y"}},
	})

	if diff := diffOf(t, offline(t, configMapToken), live, inputs, inputs); diff.HasChanges {
		t.Errorf("diff: %v", diff)
	}
}

// Seen with the published plugin: the server drops what is empty, and every preview wants to put it back.
func TestAnEmptyMapThatTheServerDroppedIsADifference(t *testing.T) {
	inputs := values(map[string]any{"metadata": map[string]any{"name": "a", "labels": map[string]any{}}})
	live := values(map[string]any{"metadata": map[string]any{"name": "a"}})

	if diff := diffOf(t, offline(t, namespaceToken), live, inputs, inputs); diff.DetailedDiff["metadata.labels"].Kind != p.Add {
		t.Errorf("diff: %v", diff)
	}
}

func TestDriftOfADeclaredFieldIsADifference(t *testing.T) {
	inputs := values(map[string]any{"metadata": map[string]any{"name": "a", "labels": map[string]any{"pod-security.kubernetes.io/enforce": "privileged"}}})
	live := values(map[string]any{"metadata": map[string]any{"name": "a", "labels": map[string]any{"pod-security.kubernetes.io/enforce": "baseline"}}})

	diff := diffOf(t, offline(t, namespaceToken), live, inputs, inputs)
	if diff.DetailedDiff[`metadata.labels["pod-security.kubernetes.io/enforce"]`].Kind != p.Update || diff.DeleteBeforeReplace {
		t.Errorf("diff: %v", diff)
	}
}

func TestAListThatGrewAndAValueThatIsNoLongerDeclaredAreDifferences(t *testing.T) {
	ports := func(ports ...any) property.Map {
		return values(map[string]any{"metadata": map[string]any{"name": "a"}, "spec": map[string]any{"ports": ports}})
	}
	one, other := map[string]any{"port": 80.0}, map[string]any{"port": 443.0}
	o := offline(t, serviceToken)

	if diff := diffOf(t, o, ports(one), ports(one), ports(one)); diff.HasChanges {
		t.Errorf("the same: %v", diff)
	}

	if diff := diffOf(t, o, ports(one, other), ports(one), ports(one)); !diff.HasChanges {
		t.Error("the list has grown")
	}

	if diff := diffOf(t, o, ports(one, other), ports(one, other), ports(one)); !diff.HasChanges {
		t.Error("a port is no longer declared")
	}
}

func TestASecretThatIsAsDeclaredIsNoDifference(t *testing.T) {
	live := values(map[string]any{"metadata": map[string]any{"name": "a"}, "data": map[string]any{"key": "c2VjcmV0"}})
	inputs := live.Set("data", live.Get("data").WithSecret(true))

	if diff := diffOf(t, offline(t, secretToken), live, inputs, inputs); diff.HasChanges {
		t.Errorf("diff: %v", diff)
	}
}

func TestImmutableFieldsReplaceBeforeTheNewObjectTakesTheName(t *testing.T) {
	old, now := values(configMap("a", map[string]any{"a": "1"})), values(configMap("a", map[string]any{"a": "2"}))

	diff := diffOf(t, offline(t, configMapToken), old, old, now)
	if diff.DetailedDiff["data.a"].Kind != p.UpdateReplace || !diff.DeleteBeforeReplace {
		t.Errorf("diff: %v", diff)
	}

	mutable := offline(t, configMapToken)
	mutable.cluster.mutableConfigMaps = true

	if diff := diffOf(t, mutable, old, old, now); diff.DetailedDiff["data.a"].Kind != p.Update {
		t.Errorf("mutable: %v", diff)
	}

	renamed := diffOf(t, offline(t, configMapToken), old, old, values(configMap("b", map[string]any{"a": "1"})))
	if renamed.DetailedDiff["metadata.name"].Kind != p.UpdateReplace || renamed.DeleteBeforeReplace {
		t.Errorf("renamed: %v", renamed)
	}
}

func TestTwoSpellingsOfAQuantityAreTheSame(t *testing.T) {
	limits := func(cpu string) property.Map {
		return values(map[string]any{
			"metadata": map[string]any{"name": "a"},
			"spec":     map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "resources": map[string]any{"limits": map[string]any{"cpu": cpu}}}}}}},
		})
	}

	o := offline(t, deploymentToken)
	if diff := diffOf(t, o, limits("1"), limits("1000m"), limits("1000m")); diff.HasChanges {
		t.Errorf("diff: %v", diff)
	}

	if diff := diffOf(t, o, limits("1"), limits("1000m"), limits("1500m")); !diff.HasChanges {
		t.Error("1 and 1500m are different")
	}
}

func TestStringDataOfASecretIsComparedWithItsData(t *testing.T) {
	secret := func(value string) property.Map {
		return values(map[string]any{"metadata": map[string]any{"name": "a"}, "stringData": map[string]any{"key": value}})
	}
	live := values(map[string]any{"metadata": map[string]any{"name": "a"}, "data": map[string]any{"key": "c2VjcmV0"}})

	if diff := diffOf(t, offline(t, secretToken), live, secret("secret"), secret("secret")); diff.HasChanges {
		t.Errorf("diff: %v", diff)
	}

	if diff := diffOf(t, offline(t, secretToken), live, secret("secret"), secret("other")); !diff.HasChanges {
		t.Error("no diff")
	}
}

func TestAnUnknownInputIsADifference(t *testing.T) {
	old := values(configMap("a", map[string]any{"a": "1"}))
	now := old.Set("data", property.New(map[string]property.Value{"a": property.New(property.Computed)}))

	if diff := diffOf(t, offline(t, configMapToken), old, old, now); !diff.HasChanges {
		t.Error("no diff")
	}
}

func TestIgnoredPathsAreNoDifference(t *testing.T) {
	old, now := values(configMap("a", map[string]any{"a": "1"})), values(configMap("a", map[string]any{"a": "2"}))

	response, err := offline(t, configMapToken).diff(context.Background(), p.DiffRequest{State: old, OldInputs: old, Inputs: now, IgnoreChanges: []string{"data"}})
	if err != nil || response.HasChanges {
		t.Errorf("%v, %v", response, err)
	}
}

func TestSecretInputsAreSecretOutputs(t *testing.T) {
	live := &unstructured.Unstructured{Object: map[string]any{"kind": "ConfigMap", "metadata": map[string]any{"labels": map[string]any{"l": "s"}}, "list": []any{"s", "t"}}}
	inputs := property.NewMap(map[string]property.Value{
		"metadata": property.New(map[string]property.Value{"labels": property.New(map[string]property.Value{"l": property.New("s").WithSecret(true)})}),
		"list":     property.New([]property.Value{property.New("s").WithSecret(true)}),
	})

	outputs := outputsOf(live, inputs, "manager", "v1")
	if !outputs.Get("list").Secret() || !outputs.Get("metadata").AsMap().Get("labels").AsMap().Get("l").Secret() || outputs.Get("kind").Secret() {
		t.Errorf("outputs: %#v", outputs)
	}
}

// The program declares stringData; the server answers with data.
func TestWhatASecretHoldsIsSecretHoweverItIsRead(t *testing.T) {
	o := offline(t, secretToken)
	declared := values(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "a"}, "stringData": map[string]any{"key": "secret"}})
	live := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "a"}, "data": map[string]any{"key": "c2VjcmV0"},
	}}

	checked, err := o.check(context.Background(), p.CheckRequest{Urn: urn(secretToken), Inputs: declared})
	if err != nil {
		t.Fatal(err)
	}

	for name, found := range map[string]property.Map{
		"the inputs, checked": checked.Inputs, "the inputs of a refresh": o.liveInputs(live, declared),
		"those of an import": o.liveInputs(live, property.Map{}), "the outputs": outputsOf(live, declared, "manager", "v1"),
	} {
		for _, field := range []string{"data", "stringData"} {
			if value, ok := found.GetOk(field); ok && !value.Secret() {
				t.Errorf("%s: %s is in clear: %#v", name, field, found)
			}
		}

		if !property.New(found).HasSecrets() || found.Get("metadata").HasSecrets() {
			t.Errorf("%s: not as the published plugin marks them: %#v", name, found)
		}
	}
}

func TestAnImportLeavesOutWhatKubectlKeepsOfTheObject(t *testing.T) {
	live := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{
		"name": "a", "annotations": map[string]any{"kept": "yes", lastAppliedAnnotation: "{}"},
	}}}

	annotations := offline(t, configMapToken).liveInputs(live, property.Map{}).Get("metadata").AsMap().Get("annotations").AsMap()
	if annotations.Len() != 1 || annotations.Get("kept").AsString() != "yes" {
		t.Errorf("annotations: %#v", annotations)
	}
}

func TestAPreviewWithoutAClusterAnswersWithItsInputsAndARealRunFails(t *testing.T) {
	o, inputs := offline(t, configMapToken), values(configMap("a", nil))

	preview, err := o.create(context.Background(), p.CreateRequest{Urn: urn(configMapToken), Properties: inputs, DryRun: true})
	if err != nil || !property.New(preview.Properties).Equals(property.New(inputs)) {
		t.Errorf("%v, %v", preview, err)
	}

	if _, err = o.create(context.Background(), p.CreateRequest{Urn: urn(configMapToken), Properties: inputs}); err == nil || !strings.Contains(err.Error(), "cluster is unreachable: connection refused") {
		t.Error(err)
	}

	if err = o.delete(context.Background(), p.DeleteRequest{ID: "apps/a", Properties: inputs}); err == nil || !strings.Contains(err.Error(), "PULUMI_K8S_DELETE_UNREACHABLE") {
		t.Error(err)
	}
}

const kubeconfigText = `apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: "https://ADDRESS:6443"}}]
users: [{name: a, user: {token: "TOKEN"}}]
`

func provider(address, token, identifier string) property.Map {
	config := map[string]any{"kubeconfig": strings.NewReplacer("ADDRESS", address, "TOKEN", token).Replace(kubeconfigText)}
	if identifier != "" {
		config["clusterIdentifier"] = identifier
	}

	return values(config)
}

func TestProviderIsReplacedOnlyForAnotherCluster(t *testing.T) {
	unknownConfig := property.New(property.Computed)

	for name, test := range map[string]struct {
		old, now property.Map
		key      string
		kind     p.DiffKind
	}{
		"same":                                     {provider("a", "1", "id"), provider("a", "1", "id"), "", ""},
		"other text, same identifier":              {provider("a", "1", "id"), provider("b", "1", "id"), "kubeconfig", p.Update},
		"unknown text, same identifier":            {provider("a", "1", "id"), provider("a", "1", "id").Set("kubeconfig", unknownConfig), "kubeconfig", p.Update},
		"other identifier":                         {provider("a", "1", "id"), provider("a", "1", "other"), "clusterIdentifier", p.UpdateReplace},
		"identifier added":                         {provider("a", "1", ""), provider("a", "1", "id"), "clusterIdentifier", p.Add},
		"other credentials, no identifier":         {provider("a", "1", ""), provider("a", "2", ""), "kubeconfig", p.Update},
		"other server, no identifier":              {provider("a", "1", ""), provider("b", "1", ""), "kubeconfig", p.UpdateReplace},
		"unknown text, no identifier":              {provider("a", "1", ""), provider("a", "1", "").Set("kubeconfig", unknownConfig), "kubeconfig", p.UpdateReplace},
		"secret marks are no change of kubeconfig": {provider("a", "1", "id"), provider("a", "1", "id").Set("kubeconfig", provider("a", "1", "").Get("kubeconfig").WithSecret(true)), "", ""},
	} {
		response, err := New().DiffConfig(context.Background(), p.DiffRequest{State: test.old, Inputs: test.now})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}

		if response.HasChanges != (test.key != "") || test.key != "" && response.DetailedDiff[test.key].Kind != test.kind {
			t.Errorf("%s: %v", name, response)
		}
	}
}

func TestProviderSettingsThatAreNotServedAreRefusedByName(t *testing.T) {
	for name, value := range map[string]any{"renderYamlToDirectory": "out", "enableServerSideApply": "false", "kubeConfig": "x"} {
		response, err := New().CheckConfig(context.Background(), p.CheckRequest{Inputs: values(map[string]any{name: value})})
		if err != nil || len(response.Failures) != 1 || response.Failures[0].Property != name {
			t.Errorf("%s: %v, %v", name, response.Failures, err)
		}
	}

	response, err := New().CheckConfig(context.Background(), p.CheckRequest{Inputs: values(map[string]any{"enableServerSideApply": "true", "version": "4.34.2", "__internal": map[string]any{}})})
	if err != nil || len(response.Failures) != 0 {
		t.Errorf("%v, %v", response.Failures, err)
	}
}

func TestABrokenKubeconfigIsNotQuoted(t *testing.T) {
	_, err := loadKubeconfig("token: [very-secret\n")
	if err == nil || strings.Contains(err.Error(), "very-secret") {
		t.Error(err)
	}
}

func TestReadinessSaysWhatIsMissing(t *testing.T) {
	status := func(generation, observed, updated, available int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"generation": generation},
			"spec":     map[string]any{"replicas": int64(2)},
			"status":   map[string]any{"observedGeneration": observed, "replicas": updated, "updatedReplicas": updated, "availableReplicas": available},
		}}
	}

	for want, live := range map[string]*unstructured.Unstructured{
		"": status(1, 1, 2, 2),
		"the controller has not seen the change yet": status(2, 1, 2, 2),
		"2 of 2 replicas are updated, 1 available":   status(1, 1, 2, 1),
	} {
		if got := deploymentReady(live); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}

	service := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"type": "LoadBalancer"}}}
	if serviceReady(service) == "" {
		t.Error("a load balancer without an address is ready")
	}

	service.Object["status"] = map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": "172.16.20.100"}}}}
	if lacks := serviceReady(service); lacks != "" {
		t.Error(lacks)
	}
}

func TestWaitForReadsJSONPathsAndConditions(t *testing.T) {
	live := &unstructured.Unstructured{Object: map[string]any{
		"webhooks": []any{map[string]any{"clientConfig": map[string]any{"caBundle": "abc"}}},
		"status":   map[string]any{"phase": "Running", "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
	}}

	for text, want := range map[string]bool{
		"jsonpath={.webhooks[0].clientConfig.caBundle}": true, "jsonpath={.webhooks[0].missing}": false,
		"jsonpath={.status.phase}=Running": true, "jsonpath={.status.phase}=Pending": false,
		"condition=Ready": true, "condition=Ready=False": false, `["condition=Ready", "jsonpath={.missing}"]`: false,
	} {
		ready, err := parseWaitFor(text)
		if err != nil || (ready(live) == "") != want {
			t.Errorf("%s: %v", text, err)
		}
	}

	if _, err := parseWaitFor("ready"); err == nil {
		t.Error("accepted")
	}
}
