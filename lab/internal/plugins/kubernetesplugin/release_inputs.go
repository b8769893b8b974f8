package kubernetesplugin

// Layer: the inputs of a Helm release: what is accepted, what is filled in, and how they read.

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"sigs.k8s.io/yaml"

	"platform.lab/lab/internal/plugins"
)

// defaultReleaseTimeout is how long Helm waits, in seconds, for any one operation.
const defaultReleaseTimeout = 300

// inputKind is the type of a release's input, and so the value that stands for "not given".
type inputKind struct {
	name string
	is   func(property.Value) bool
	zero property.Value
}

var (
	booleanInput = inputKind{"true or false", property.Value.IsBool, property.New(false)}
	textInput    = inputKind{"a text", property.Value.IsString, property.New("")}
	numberInput  = inputKind{"a number", property.Value.IsNumber, property.New(0.0)}
	mapInput     = inputKind{"a map", property.Value.IsMap, property.New(property.Map{})}
)

// releaseInputKinds are the inputs that are honoured. The published plugin writes every one of them into its state,
// given or not, so that is done here too; maxHistory and repositoryOpts only when they are given.
var releaseInputKinds = map[string]inputKind{
	"allowNullValues": booleanInput, "atomic": booleanInput, "cleanupOnFail": booleanInput, "createNamespace": booleanInput,
	"dependencyUpdate": booleanInput, "devel": booleanInput, "disableCRDHooks": booleanInput, "disableOpenapiValidation": booleanInput,
	"disableWebhooks": booleanInput, "forceUpdate": booleanInput, "lint": booleanInput, "recreatePods": booleanInput,
	"renderSubchartNotes": booleanInput, "replace": booleanInput, "resetValues": booleanInput, "reuseValues": booleanInput,
	"skipAwait": booleanInput, "skipCrds": booleanInput, "takeOwnership": booleanInput, "waitForJobs": booleanInput, "verify": booleanInput,
	"chart": textInput, "description": textInput, "keyring": textInput, "name": textInput, "namespace": textInput,
	"postrender": textInput, "version": textInput,
	"timeout": numberInput, "maxHistory": numberInput,
	"values": mapInput, "repositoryOpts": mapInput,
}

// optionalInputs stay away when they are not given.
var optionalInputs = []string{"maxHistory", "repositoryOpts"}

// repositoryInputs are the fields of repositoryOpts.
var repositoryInputs = []string{"repo", "caFile", "certFile", "keyFile", "username", "password"}

// refusedInputs are inputs of the published plugin that this one does not honour, with the fix.
var refusedInputs = map[string]string{
	"verify":        "the lab has no signing keys of charts; leave it out",
	"keyring":       "the lab has no signing keys of charts; leave it out",
	"postrender":    "the lab runs no commands of the operator's machine; leave it out",
	"manifest":      "it is not supported by the published plugin either; leave it out",
	"resourceNames": "it is an output; leave it out",
}

// ignoredInputs are sent by the SDKs themselves.
var ignoredInputs = []string{"compat"}

// releaseInputs reads the checked inputs, or the state, of a release.
type releaseInputs struct{ property.Map }

func (i releaseInputs) flag(name string) bool {
	v := i.Get(name)

	return v.IsBool() && v.AsBool()
}

func (i releaseInputs) text(name string) string { return plugins.TextOf(i.Map, name) }

func (i releaseInputs) number(name string) float64 {
	if v := i.Get(name); v.IsNumber() {
		return v.AsNumber()
	}

	return 0
}

// wait tells whether Helm waits until all is ready. An atomic release always does.
func (i releaseInputs) wait() bool { return i.flag("atomic") || !i.flag("skipAwait") }

// timeout is the resource's custom timeout, in seconds, or the release's own.
func (i releaseInputs) timeout(custom float64) time.Duration {
	for _, seconds := range []float64{custom, i.number("timeout")} {
		if seconds > 0 {
			return time.Duration(seconds * float64(time.Second))
		}
	}

	return defaultReleaseTimeout * time.Second
}

// id is namespace/name.
func (i releaseInputs) id() string { return i.text("namespace") + "/" + i.text("name") }

// values are what Helm gets: a fresh copy, for Helm changes it.
func (i releaseInputs) values() map[string]any {
	values, _ := helmValue(i.Get("values")).(map[string]any)
	if values == nil {
		values = map[string]any{}
	}

	return values
}

// source says where the chart is.
func (i releaseInputs) source() chartSource {
	options := releaseInputs{mapOf(i.Map, "repositoryOpts")}
	source := chartSource{
		chart: strings.TrimSpace(i.text("chart")), version: strings.TrimSpace(i.text("version")), update: i.flag("dependencyUpdate"),
		repository: repository{
			url: options.text("repo"), caFile: options.text("caFile"), certFile: options.text("certFile"), keyFile: options.text("keyFile"),
			username: options.text("username"), password: options.text("password"),
		},
	}

	if source.version == "" && i.flag("devel") {
		source.version = ">0.0.0-0"
	}

	return source
}

// helmValue turns a property value into what the published plugin gives Helm: numbers are floating point ones, so a
// template that prints a million prints 1e+06, and nulls stay.
func helmValue(value property.Value) any {
	switch {
	case value.IsMap():
		m := make(map[string]any, value.AsMap().Len())
		for name, element := range value.AsMap().All {
			m[name] = helmValue(element)
		}

		return m
	case value.IsArray():
		list := make([]any, 0, value.AsArray().Len())
		for _, element := range value.AsArray().All {
			list = append(list, helmValue(element))
		}

		return list
	case value.IsNumber():
		return value.AsNumber()
	default:
		return plain(value)
	}
}

// mergeValues lays b over a; maps are merged, all else is replaced. Neither is changed.
func mergeValues(a, b map[string]any) map[string]any {
	merged := make(map[string]any, len(a)+len(b))
	for name, value := range a {
		merged[name] = value
	}

	for name, value := range b {
		under, isUnder := merged[name].(map[string]any)
		over, isOver := value.(map[string]any)

		if isUnder && isOver {
			merged[name] = mergeValues(under, over)
		} else {
			merged[name] = value
		}
	}

	return merged
}

// normalizeRelease refuses what is not honoured and fills in the published defaults. The name and the chart's exact
// version are check's.
func normalizeRelease(inputs property.Map, namespace string) (property.Map, []p.CheckFailure) {
	var failures []p.CheckFailure

	fail := func(name, reason string) { failures = append(failures, p.CheckFailure{Property: name, Reason: reason}) }
	accepted := property.Map{}

	for name, value := range inputs.AllStable {
		kind, known := releaseInputKinds[name]

		switch {
		case value.IsNull() || slices.Contains(ignoredInputs, name) || name == valueFilesInput || strings.HasPrefix(name, "__"):
		case refusedInputs[name] != "" && given(value):
			fail(name, fmt.Sprintf("%q is not honoured by the lab's stand-in of the kubernetes plugin: %s", name, refusedInputs[name]))
		case !known && refusedInputs[name] == "":
			fail(name, fmt.Sprintf("a Helm release has no input %q", name))
		case known && !value.IsComputed() && !kind.is(value):
			fail(name, fmt.Sprintf("%q must be %s", name, kind.name))
		case known:
			accepted = accepted.Set(name, value)
		}
	}

	accepted, reason := withRepository(accepted)
	if reason != "" {
		fail("repositoryOpts", reason)
	}

	accepted, err := withValueFiles(accepted, inputs.Get(valueFilesInput))
	if err != nil {
		fail(valueFilesInput, err.Error())
	}

	if v := accepted.Get("namespace"); v.IsNull() || v.IsString() && v.AsString() == "" {
		accepted = accepted.Set("namespace", property.New(canonicalNamespace(namespace)).WithSecret(v.Secret()))
	}

	if _, timed := accepted.GetOk("timeout"); !timed && !(releaseInputs{accepted}).flag("skipAwait") {
		accepted = accepted.Set("timeout", property.New(float64(defaultReleaseTimeout)))
	}

	for name, kind := range releaseInputKinds {
		if _, ok := accepted.GetOk(name); !ok && !slices.Contains(optionalInputs, name) {
			accepted = accepted.Set(name, kind.zero)
		}
	}

	return accepted, failures
}

// given tells whether an input asks for something.
func given(value property.Value) bool {
	return !(value.IsBool() && !value.AsBool() || value.IsString() && value.AsString() == "")
}

// withRepository fills in and checks the fields of repositoryOpts.
func withRepository(inputs property.Map) (property.Map, string) {
	options := inputs.Get("repositoryOpts")
	if !options.IsMap() {
		return inputs, ""
	}

	filled := options.AsMap()

	for name, value := range filled.AllStable {
		switch {
		case !slices.Contains(repositoryInputs, name):
			return inputs, fmt.Sprintf("it has no field %q; it has %s", name, strings.Join(repositoryInputs, ", "))
		case !value.IsNull() && !value.IsComputed() && !value.IsString():
			return inputs, fmt.Sprintf("%q must be a text", name)
		}
	}

	for _, name := range repositoryInputs {
		if filled.Get(name).IsNull() {
			filled = filled.Set(name, property.New(""))
		}
	}

	return inputs.Set("repositoryOpts", property.New(filled).WithSecret(options.Secret())), ""
}

// valueFilesInput lists YAML files whose content lies under values. As in the published plugin, only the merged
// values are kept.
const valueFilesInput = "valueYamlFiles"

var errValueFiles = errors.New("it must be a list of assets, each a file of YAML")

func withValueFiles(inputs property.Map, files property.Value) (property.Map, error) {
	given := inputs.Get("values")

	switch {
	case files.IsNull():
		return inputs, nil
	case files.HasComputed() || given.IsComputed():
		return inputs.Set("values", property.New(property.Computed).WithSecret(files.HasSecrets() || given.HasSecrets())), nil
	case !files.IsArray():
		return inputs, errValueFiles
	}

	under := map[string]any{}

	for _, file := range files.AsArray().All {
		if !file.IsAsset() {
			return inputs, errValueFiles
		}

		asset := file.AsAsset()

		content, err := asset.Bytes()
		if err != nil {
			return inputs, err
		}

		values := map[string]any{}
		if err := yaml.Unmarshal(content, &values); err != nil {
			return inputs, fmt.Errorf("%w: %w", errValueFiles, err)
		}

		under = mergeValues(under, values)
	}

	// A value that only the real run will know has its mark here, and gets it back from propertyOf.
	over, _ := helmValue(given).(map[string]any)
	merged := markLike(property.NewMap(map[string]property.Value{"values": propertyOf(mergeValues(under, over))}), inputs)

	if files.HasSecrets() {
		merged = merged.Set("values", merged.Get("values").WithSecret(true))
	}

	return inputs.Set("values", merged.Get("values")), nil
}

// nameRelease keeps the name that the state has, or gives a nameless release the resource's name and random hex digits.
func nameRelease(inputs, state property.Map, urn resource.URN) (property.Map, error) {
	if v := inputs.Get("name"); v.IsComputed() || v.IsString() && v.AsString() != "" {
		return inputs, nil
	}

	name := plugins.TextOf(state, "name")
	if name == "" {
		var err error
		if name, err = resource.NewUniqueHex(urn.Name()+"-", 0, 0); err != nil {
			return inputs, err
		}
	}

	return inputs.Set("name", property.New(name)), nil
}

// redacted takes the secrets of inputs out of an error: a chart's schema or template may quote the values it refuses.
func redacted(err error, inputs property.Map) error {
	if err == nil {
		return nil
	}

	var pairs []string
	for _, secret := range secretTexts(property.New(inputs), false) {
		pairs = append(pairs, secret, "[secret]")
	}

	if text := strings.NewReplacer(pairs...).Replace(err.Error()); text != err.Error() {
		return errors.New(text)
	}

	return err
}

// secretTexts lists the texts in secret values. Very short ones say nothing, and are parts of other words.
func secretTexts(value property.Value, secret bool) []string {
	secret = secret || value.Secret()

	var texts []string

	switch {
	case value.IsMap():
		for _, element := range value.AsMap().AllStable {
			texts = append(texts, secretTexts(element, secret)...)
		}
	case value.IsArray():
		for _, element := range value.AsArray().All {
			texts = append(texts, secretTexts(element, secret)...)
		}
	case secret && value.IsString() && len(value.AsString()) > 3:
		texts = append(texts, value.AsString(), base64.StdEncoding.EncodeToString([]byte(value.AsString())))
	}

	return texts
}
