package kubernetesplugin

// Layer: what differs between the live object, as the state has it, and the new inputs, and what of it replaces.

import (
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"platform.lab/lab/internal/plugins"
)

// diff compares the state, pruned to the fields that the program declared, with the new inputs. So it sees drift
// that a refresh brought into the state, but no field that the server filled in.
func (o objects) diff(_ context.Context, r p.DiffRequest) (p.DiffResponse, error) {
	// In most previews all objects but a few; of definitions, what follows would take half of a preview's second.
	if property.New(r.OldInputs).Equals(property.New(r.Inputs)) && has(property.New(r.State), property.New(r.Inputs)) {
		return p.DiffResponse{}, nil
	}

	live := o.kind.objectOf(r.State)
	oldInputs := normalized(o.kind.objectOf(r.OldInputs))
	inputs := normalized(o.kind.objectOf(r.Inputs))
	old := &unstructured.Unstructured{Object: prune(normalized(live).Object, oldInputs.Object)}

	// A name that the server made of generateName does not differ from one that the program then sets.
	if inputs.GetName() != "" {
		old.SetName(live.GetName())
	}

	o.alignNamespaces(old, inputs)

	changes := map[string]p.PropertyDiff{}
	compare("", old.Object, inputs.Object, changes)
	ignore(changes, r.IgnoreChanges)

	replace := o.markReplacing(changes, inputs)

	return p.DiffResponse{
		HasChanges:   len(changes) > 0,
		DetailedDiff: changes,
		// The new object has the old one's name and place: the old one must go first.
		DeleteBeforeReplace: replace && inputs.GetName() == live.GetName() && !annotated(inputs, autonamedAnnotation) &&
			canonicalNamespace(inputs.GetNamespace()) == canonicalNamespace(live.GetNamespace()),
	}, nil
}

// has says whether live has all that is declared, word for word; secret or not.
func has(live, declared property.Value) bool {
	switch {
	case declared.IsMap():
		if !live.IsMap() {
			return false
		}

		for name, value := range declared.AsMap().All {
			if !has(live.AsMap().Get(name), value) {
				return false
			}
		}

		return true
	case declared.IsArray():
		if !live.IsArray() || live.AsArray().Len() != declared.AsArray().Len() {
			return false
		}

		for i, value := range declared.AsArray().All {
			if !has(live.AsArray().Get(i), value) {
				return false
			}
		}

		return true
	}

	return !declared.IsComputed() && live.WithSecret(false).Equals(declared.WithSecret(false))
}

// alignNamespaces makes "no namespace" and "default" the same, and forgets one that the kind cannot have.
func (o objects) alignNamespaces(both ...*unstructured.Unstructured) {
	namespaced := o.cluster.namespaced(o.kind.GroupVersionKind)

	for _, object := range both {
		namespace := ""
		if namespaced {
			namespace = canonicalNamespace(object.GetNamespace())
		}

		object.SetNamespace(namespace)
	}
}

// prune keeps of live only what shape has.
func prune(live, shape map[string]any) map[string]any {
	pruned := map[string]any{}

	for name, wanted := range shape {
		if value, ok := live[name]; ok {
			pruned[name] = pruneValue(value, wanted)
		}
	}

	return pruned
}

func pruneValue(live, shape any) any {
	switch wanted := shape.(type) {
	case map[string]any:
		if m, ok := live.(map[string]any); ok {
			return prune(m, wanted)
		}
	case []any:
		list, ok := live.([]any)
		if !ok {
			return live
		}

		pruned := slices.Clone(list)
		for i := range min(len(list), len(wanted)) {
			pruned[i] = pruneValue(list[i], wanted[i])
		}

		return pruned
	}

	return live
}

// compare writes to changes every path at which the new value differs from the old. An empty map that the server
// dropped differs, as with the published plugin: who declares one never sees an empty preview.
func compare(path string, old, now any, changes map[string]p.PropertyDiff) {
	oldMap, isOldMap := old.(map[string]any)
	newMap, isNewMap := now.(map[string]any)
	oldList, isOldList := old.([]any)
	newList, isNewList := now.([]any)

	switch {
	case reflect.DeepEqual(number(old), number(now)):
	case isOldMap && isNewMap:
		for name := range union(oldMap, newMap) {
			compare(joinKey(path, name), oldMap[name], newMap[name], changes)
		}
	case isOldList && isNewList:
		for i := range max(len(oldList), len(newList)) {
			compare(path+"["+strconv.Itoa(i)+"]", at(oldList, i), at(newList, i), changes)
		}
	case old == nil:
		changes[path] = p.PropertyDiff{Kind: p.Add, InputDiff: true}
	case now == nil:
		changes[path] = p.PropertyDiff{Kind: p.Delete, InputDiff: true}
	default:
		changes[path] = p.PropertyDiff{Kind: p.Update, InputDiff: true}
	}
}

// number makes whole and broken numbers comparable.
func number(value any) any {
	if n, ok := value.(int64); ok {
		return float64(n)
	}

	return value
}

func at(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}

	return nil
}

func union(a, b map[string]any) map[string]struct{} {
	names := map[string]struct{}{}
	for name := range a {
		names[name] = struct{}{}
	}

	for name := range b {
		names[name] = struct{}{}
	}

	return names
}

var identifier = regexp.MustCompile(`^[a-zA-Z_$][a-zA-Z0-9_$]*$`)

func joinKey(path, name string) string {
	switch {
	case !identifier.MatchString(name):
		return fmt.Sprintf("%s[%q]", path, name)
	case path == "":
		return name
	default:
		return path + "." + name
	}
}

// ignore takes out the changes under the paths of ignoreChanges.
func ignore(changes map[string]p.PropertyDiff, paths []string) {
	for _, ignored := range paths {
		for path := range changes {
			if within(path, ignored) {
				delete(changes, path)
			}
		}
	}
}

// within tells whether a path is a field or lies under it. In a field [*] stands for any index.
func within(path, field string) bool {
	if strings.Contains(field, "[*]") {
		path = indexes.ReplaceAllString(path, "[*]")
	}

	rest, found := strings.CutPrefix(path, field)

	return found && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// markReplacing turns the changes of immutable fields into replacements and tells whether there are any.
func (o objects) markReplacing(changes map[string]p.PropertyDiff, inputs *unstructured.Unstructured) bool {
	fields := slices.Clone(identity)
	if !o.kind.patch {
		fields = append(fields, o.immutable(inputs)...)
	}

	replace := false

	for path, change := range changes {
		if slices.ContainsFunc(fields, func(field string) bool { return within(path, field) }) {
			changes[path] = p.PropertyDiff{Kind: plugins.Replacing(change.Kind), InputDiff: true}
			replace = true
		}
	}

	return replace
}

// identity are the fields that say which object it is.
var identity = []string{"metadata.name", "metadata.namespace", "kind", "apiVersion"}

// immutable lists the fields of a kind that the published plugin replaces for. The API version is left out when only
// the version changes, for the objects stay the same ones.
func (o objects) immutable(inputs *unstructured.Unstructured) []string {
	fields := immutableFields[o.kind.GroupKind().String()]
	mutable := o.kind.Kind == "ConfigMap" && o.cluster.mutableConfigMaps || o.kind.Kind == "Secret" && o.cluster.mutableSecrets

	if fixed, _, _ := unstructured.NestedBool(inputs.Object, "immutable"); o.kind.Group == "" && mutable && !fixed {
		return nil
	}

	return fields
}

var immutableFields = map[string][]string{
	"ConfigMap":             {"data", "binaryData"},
	"Secret":                {"data", "stringData", "type"},
	"PersistentVolumeClaim": {"spec"},
	"Service":               {"spec.clusterIP"},
	"ResourceQuota":         {"spec.scopes"},
	"Pod": {
		"spec.nodeName", "spec.nodeSelector", "spec.hostNetwork", "spec.restartPolicy", "spec.securityContext",
		"spec.serviceAccountName", "spec.volumes", "spec.containers[*]", "spec.initContainers[*]",
	},
	"Deployment.apps":                       {"spec.selector"},
	"DaemonSet.apps":                        {"spec.selector"},
	"StatefulSet.apps":                      {"spec.podManagementPolicy", "spec.revisionHistoryLimit", "spec.selector", "spec.serviceName", "spec.volumeClaimTemplates"},
	"Job.batch":                             {"spec.completions", "spec.parallelism", "spec.selector", "spec.template"},
	"RoleBinding.rbac.authorization.k8s.io": {"roleRef"},
	"ClusterRoleBinding.rbac.authorization.k8s.io": {"roleRef"},
	"StorageClass.storage.k8s.io":                  {"parameters", "provisioner"},
}
