package kubernetesplugin

// Layer: what a release gives back: its inputs with what Helm recorded, its status and the names of its objects.

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// previewed are the outputs of a release that is not made yet.
func previewed(inputs property.Map) property.Map {
	return inputs.
		Set("status", property.New(property.Computed)).
		Set("resourceNames", property.New(property.Computed))
}

// outputsOfRelease lays what Helm recorded over what the state had before: values are merged (one that Helm no longer
// has stays, as in the published plugin), the chart's version and the status are taken. Secrets are where the inputs
// have them. The manifest is no output, as in the published plugin: it holds the charts' Secrets.
func outputsOfRelease(before, inputs property.Map, live *release.Release) (property.Map, error) {
	config, err := throughJSON(live.Config)
	if err != nil {
		return property.Map{}, err
	}

	names, err := resourceNames(live.Manifest)
	if err != nil {
		return property.Map{}, err
	}

	outputs := before.
		Set("values", propertyOf(mergeValues(releaseInputs{before}.values(), config))).
		Set("version", property.New(live.Chart.Metadata.Version)).
		Set("resourceNames", propertyOf(names)).
		Set("status", propertyOf(map[string]any{
			"name": live.Name, "namespace": live.Namespace, "revision": float64(live.Version), "status": live.Info.Status.String(),
			"chart": live.Chart.Metadata.Name, "version": live.Chart.Metadata.Version, "appVersion": live.Chart.Metadata.AppVersion,
		}))

	outputs = markLike(outputs, inputs)

	// A chart may make a name out of a secret.
	for _, name := range []string{"resourceNames", "status"} {
		if holdsSecret(outputs.Get(name), inputs) {
			outputs = outputs.Set(name, outputs.Get(name).WithSecret(true))
		}
	}

	return outputs, nil
}

// holdsSecret tells whether a secret of inputs stands in any text of a value.
func holdsSecret(value property.Value, inputs property.Map) bool {
	text := fmt.Sprint(plain(value))

	return slices.ContainsFunc(secretTexts(property.New(inputs), false), func(secret string) bool { return strings.Contains(text, secret) })
}

// throughJSON makes values what Helm's record gives when it is read back.
func throughJSON(values map[string]any) (map[string]any, error) {
	content, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("values of a Helm release: %w", err)
	}

	result := map[string]any{}

	return result, json.Unmarshal(content, &result)
}

// resourceNames lists a manifest's objects: Kind.group/apiVersion to names, with their namespace where the manifest
// has one.
func resourceNames(manifest string) (map[string]any, error) {
	found := map[string][]string{}

	for _, document := range documents(manifest) {
		object, err := parseDocument(document)
		if err != nil {
			return nil, err
		}

		if object == nil {
			continue
		}

		key := fmt.Sprintf("%s/%s", object.GroupVersionKind().GroupKind(), object.GetAPIVersion())
		if name := idOf(object); !slices.Contains(found[key], name) {
			found[key] = append(found[key], name)
		}
	}

	names := make(map[string]any, len(found))

	for key, of := range found {
		slices.Sort(of)

		list := make([]any, len(of))
		for i, name := range of {
			list[i] = name
		}

		names[key] = list
	}

	return names, nil
}

// documents splits a manifest, in its order.
func documents(manifest string) []string {
	split := releaseutil.SplitManifests(manifest)

	names := make([]string, 0, len(split))
	for name := range split {
		names = append(names, name)
	}

	sort.Sort(releaseutil.BySplitManifestsOrder(names))

	result := make([]string, len(names))
	for i, name := range names {
		result[i] = split[name]
	}

	return result
}

// parseDocument returns the object of one document of a manifest; nil where there is none.
func parseDocument(document string) (*unstructured.Unstructured, error) {
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(document), &content); err != nil {
		return nil, fmt.Errorf("manifest of a Helm release: %w", err)
	}

	object := &unstructured.Unstructured{Object: content}
	if object.GetKind() == "" {
		return nil, nil
	}

	return object, nil
}

// importedInputs are those of a release that another tool made. Where its chart came from, Helm does not record: the
// chart's name stands there, and the program says the rest.
func importedInputs(live *release.Release) (property.Map, error) {
	values, err := throughJSON(live.Config)
	if err != nil {
		return property.Map{}, err
	}

	inputs, _ := normalizeRelease(propertyOf(map[string]any{
		"name": live.Name, "namespace": live.Namespace, "chart": live.Chart.Metadata.Name, "version": live.Chart.Metadata.Version, "values": values,
	}).AsMap(), live.Namespace)

	return inputs, nil
}
