package kubernetesplugin

// Layer: two spellings of the same field made one, so that neither shows as a difference.

import (
	"encoding/base64"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// readOnly are the fields of metadata that only the server sets.
var readOnly = []string{
	"creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "managedFields", "resourceVersion", "uid",
}

// normalized passes an object of a built-in kind through its Go type (quantities, for one, get their canonical form),
// and keeps only the fields that it had. Custom resources and objects with unknown values stay as they are.
func normalized(object *unstructured.Unstructured) *unstructured.Unstructured {
	result := object.DeepCopy()

	if typed, err := scheme.Scheme.New(object.GroupVersionKind()); err == nil && !hasUnknown(object.Object) {
		mergeStringData(result)
		throughType(result, typed)
	}

	for _, name := range readOnly {
		unstructured.RemoveNestedField(result.Object, "metadata", name)
	}

	return result
}

// throughType leaves an object that does not fit its type alone: the server will say what is wrong with it.
func throughType(object *unstructured.Unstructured, typed runtime.Object) {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, typed); err != nil {
		return
	}

	if converted, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed); err == nil {
		object.Object, _ = overlay(object.Object, converted).(map[string]any)
	}
}

// overlay takes the converted value of every field that the original has.
func overlay(original, converted any) any {
	switch o := original.(type) {
	case map[string]any:
		c, ok := converted.(map[string]any)
		if !ok {
			return original
		}

		for name, value := range o {
			if replacement, ok := c[name]; ok {
				o[name] = overlay(value, replacement)
			}
		}

		return o
	case []any:
		c, ok := converted.([]any)
		if !ok || len(c) != len(o) {
			return original
		}

		for i := range o {
			o[i] = overlay(o[i], c[i])
		}

		return o
	}

	return converted
}

// mergeStringData does to a Secret what the server does: stringData becomes part of data.
func mergeStringData(object *unstructured.Unstructured) {
	texts, found, _ := unstructured.NestedMap(object.Object, "stringData")
	if object.GetKind() != "Secret" || object.GetAPIVersion() != "v1" || !found {
		return
	}

	data, _, _ := unstructured.NestedMap(object.Object, "data")
	if data == nil {
		data = map[string]any{}
	}

	for name, value := range texts {
		if text, ok := value.(string); ok {
			data[name] = base64.StdEncoding.EncodeToString([]byte(text))
		}
	}

	object.Object["data"] = data
	unstructured.RemoveNestedField(object.Object, "stringData")
}
