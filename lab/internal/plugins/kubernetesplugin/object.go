package kubernetesplugin

// Layer: between the engine's property values and Kubernetes objects; names and ids.

import (
	"fmt"
	"math"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Keys that the plugin adds to an object's outputs, as the published one does.
const (
	fieldManagerKey      = "__fieldManager"
	initialAPIVersionKey = "__initialApiVersion"
)

// Annotations that steer the plugin.
const (
	autonamedAnnotation    = "pulumi.com/autonamed"
	skipAwaitAnnotation    = "pulumi.com/skipAwait"
	waitForAnnotation      = "pulumi.com/waitFor"
	timeoutAnnotation      = "pulumi.com/timeoutSeconds"
	patchForceAnnotation   = "pulumi.com/patchForce"
	fieldManagerAnnotation = "pulumi.com/patchFieldManager"
	propagationAnnotation  = "pulumi.com/deletionPropagationPolicy"
)

// lastAppliedAnnotation is where `kubectl apply` keeps the whole object that it was given.
const lastAppliedAnnotation = "kubectl.kubernetes.io/last-applied-configuration"

const maxNameLength = 253

// objectKind is what a token says about the objects of its type.
type objectKind struct {
	schema.GroupVersionKind
	// patch: the resource changes fields of an object that somebody else owns.
	patch bool
}

// parseToken reads kubernetes:<group>/<version>:<Kind>. <Kind>Patch patches a <Kind>.
func parseToken(token tokens.Type) (objectKind, error) {
	parts := strings.Split(string(token), ":")
	if len(parts) != 3 || notServed(parts[1]) {
		return objectKind{}, fmt.Errorf("resource type %q is not served by the lab's stand-in of the kubernetes plugin; "+
			"it serves single objects, kubernetes:<group>/<version>:<Kind>, and %s", token, releaseToken)
	}

	group, version, found := strings.Cut(parts[1], "/")
	if !found {
		return objectKind{}, fmt.Errorf("resource type %q: %q has not both a group and a version", token, parts[1])
	}

	if group == "core" {
		group = ""
	}

	kind, patch := strings.CutSuffix(parts[2], "Patch")

	return objectKind{GroupVersionKind: schema.GroupVersionKind{Group: group, Version: version, Kind: kind}, patch: patch}, nil
}

// unknown stands in an object for a value that only the real run will know. It is the engine's own mark.
const unknown = plugin.UnknownStringValue

// plain turns a property value into what encoding/json would give, without secret marks. Whole numbers become int64,
// as Kubernetes' own decoder makes them.
func plain(value property.Value) any {
	switch {
	case value.IsComputed():
		return unknown
	case value.IsMap():
		return plainMap(value.AsMap())
	case value.IsArray():
		list := make([]any, 0, value.AsArray().Len())
		for _, element := range value.AsArray().All {
			list = append(list, plain(element))
		}

		return list
	case value.IsNumber():
		if n := value.AsNumber(); n == math.Trunc(n) && math.Abs(n) < 1<<53 {
			return int64(n)
		}

		return value.AsNumber()
	case value.IsString():
		return value.AsString()
	case value.IsBool():
		return value.AsBool()
	}

	return nil
}

// plainMap leaves out nulls and the plugin's own keys.
func plainMap(values property.Map) map[string]any {
	result := map[string]any{}

	for name, value := range values.All {
		if !value.IsNull() && !strings.HasPrefix(name, "__") {
			result[name] = plain(value)
		}
	}

	return result
}

// propertyOf is the reverse of plain.
func propertyOf(value any) property.Value {
	switch v := value.(type) {
	case map[string]any:
		m := make(map[string]property.Value, len(v))
		for name, element := range v {
			m[name] = propertyOf(element)
		}

		return property.New(m)
	case []any:
		list := make([]property.Value, len(v))
		for i, element := range v {
			list[i] = propertyOf(element)
		}

		return property.New(list)
	case string:
		if v == unknown {
			return property.New(property.Computed)
		}

		return property.New(v)
	case bool:
		return property.New(v)
	case int64:
		return property.New(float64(v))
	case float64:
		return property.New(v)
	}

	return property.Value{}
}

// objectOf builds the object that inputs describe. Kind and version come from the token when the inputs lack them.
func (k objectKind) objectOf(inputs property.Map) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: plainMap(inputs)}
	if object.GetKind() == "" {
		object.SetKind(k.Kind)
	}

	if object.GetAPIVersion() == "" {
		object.SetAPIVersion(k.GroupVersion().String())
	}

	// The SDKs may write the core group by its name.
	object.SetAPIVersion(strings.TrimPrefix(object.GetAPIVersion(), "core/"))

	return object
}

// outputsOf gives a live object as outputs, with secret marks where the inputs have them and on a Secret's data.
func outputsOf(live *unstructured.Unstructured, inputs property.Map, manager, apiVersion string) property.Map {
	return markLike(propertyOf(live.Object).AsMap(), inputs).
		Set(fieldManagerKey, property.New(manager)).
		Set(initialAPIVersionKey, property.New(apiVersion))
}

// secretFields are secret in every Secret, whoever wrote it: declared as stringData, read as data, imported.
var secretFields = []string{"data", "stringData"}

// markLike copies the secret marks of inputs to the same places in values, and marks what a Secret holds. Of a Secret
// it marks nothing else, as the published plugin: a secret in its annotations would be in the state in clear.
func markLike(values, inputs property.Map) property.Map {
	if values.Get("kind").IsString() && values.Get("kind").AsString() == "Secret" {
		for _, name := range secretFields {
			if value, ok := values.GetOk(name); ok {
				values = values.Set(name, value.WithSecret(true))
			}
		}

		return values
	}

	for name, input := range inputs.All {
		value, ok := values.GetOk(name)
		if !ok {
			continue
		}

		// Elements of a list may have moved: a secret in one makes the list secret.
		if value.IsMap() && input.IsMap() {
			value = property.New(markLike(value.AsMap(), input.AsMap())).WithSecret(value.Secret() || input.Secret())
		} else if input.HasSecrets() {
			value = value.WithSecret(true)
		}

		values = values.Set(name, value)
	}

	return values
}

// hasUnknown tells whether an object cannot be sent yet.
func hasUnknown(value any) bool {
	switch v := value.(type) {
	case string:
		return v == unknown
	case map[string]any:
		for _, element := range v {
			if hasUnknown(element) {
				return true
			}
		}
	case []any:
		for _, element := range v {
			if hasUnknown(element) {
				return true
			}
		}
	}

	return false
}

// idOf is namespace/name, or the name of an object that is in no namespace.
func idOf(object *unstructured.Unstructured) string {
	if object.GetNamespace() == "" {
		return object.GetName()
	}

	return object.GetNamespace() + "/" + object.GetName()
}

// parseID is the reverse of idOf. A name without a namespace is in default, when its kind has namespaces.
func parseID(id string) (namespace, name string) {
	if namespace, name, found := strings.Cut(id, "/"); found {
		return namespace, name
	}

	return "", id
}

func canonicalNamespace(namespace string) string {
	if namespace == "" {
		return "default"
	}

	return namespace
}

// autoname gives a nameless object the resource's name and eight random hex digits, or keeps those it was given before.
func autoname(object, old *unstructured.Unstructured, urn resource.URN) error {
	metadata, _ := object.Object["metadata"].(map[string]any)
	if metadata["name"] != nil || metadata["generateName"] != nil {
		return nil
	}

	name := old.GetName()
	if name == "" || !annotated(old, autonamedAnnotation) {
		var err error
		if name, err = resource.NewUniqueName(nil, urn.Name()+"-", 0, maxNameLength, nil); err != nil {
			return err
		}
	}

	object.SetName(name)
	annotate(object, autonamedAnnotation, "true")

	return nil
}

func annotation(object *unstructured.Unstructured, name string) string {
	return object.GetAnnotations()[name]
}

func annotated(object *unstructured.Unstructured, name string) bool {
	return annotation(object, name) == "true"
}

func annotate(object *unstructured.Unstructured, name, value string) {
	annotations := object.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}

	annotations[name] = value
	object.SetAnnotations(annotations)
}
