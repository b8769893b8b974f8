package talosplugin

// Layer: the shape of a resource's properties, as the provider's schema declares it.

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"platform.lab/lab/internal/plugins"
)

type kind string

const (
	text   kind = "a string"
	flag   kind = "a boolean"
	texts  kind = "a list of strings"
	object kind = "an object"
)

// attribute is one property: what it holds and how it is marked.
type attribute struct {
	kind     kind
	required bool
	secret   bool
	// computed: the program cannot set it.
	computed bool
	// oneOf lists the only values of a string, when it has such a list.
	oneOf []string
	// valid checks a known string; its error becomes the failure's reason.
	valid  func(string) error
	fields schema
}

// asComputed is the same shape as an output.
func (a attribute) asComputed() attribute {
	a.required, a.computed = false, true

	return a
}

// asOptional is the same shape where it may be left out.
func (a attribute) asOptional() attribute {
	a.required = false

	return a
}

// schema maps property names, in the case that the engine speaks (camelCase), to their attributes.
type schema map[string]attribute

// check reports what is missing, unknown or of the wrong type in values. Unknown values pass.
func (s schema) check(values property.Map) []p.CheckFailure {
	return s.checkAt("", values)
}

func (s schema) checkAt(path string, values property.Map) []p.CheckFailure {
	var failures []p.CheckFailure

	for _, name := range plugins.SortedKeys(s) {
		at := join(path, name)
		failures = append(failures, s[name].checkAt(at, values.Get(name))...)
	}

	for name := range values.AllStable {
		if _, ok := s[name]; !ok && !strings.HasPrefix(name, "__") {
			failures = append(failures, p.CheckFailure{
				Property: join(path, name),
				Reason:   fmt.Sprintf("Unsupported argument: an argument named %q is not expected here; expected are %s", name, strings.Join(plugins.SortedKeys(s), ", ")),
			})
		}
	}

	return failures
}

func (a attribute) checkAt(path string, value property.Value) []p.CheckFailure {
	fail := func(reason string, args ...any) []p.CheckFailure {
		return []p.CheckFailure{{Property: path, Reason: fmt.Sprintf(reason, args...)}}
	}

	switch {
	case value.IsComputed():
		return nil
	case value.IsNull() && a.required:
		return fail("Missing Configuration for Required Attribute: Must set a configuration value for the %s attribute "+
			"as the provider has marked it as required.\n\nRefer to the provider documentation or contact the provider "+
			"developers for additional information about configurable attributes that are required.", terraformPath(path))
	case value.IsNull():
		return nil
	case a.computed:
		return fail("Invalid Configuration for Read-Only Attribute: Cannot set value for this attribute as the provider has marked it as read-only.")
	case !a.holds(value):
		return fail("Incorrect attribute value type: %s must be %s", terraformPath(path), a.kind)
	case a.kind == object:
		return a.fields.checkAt(path, value.AsMap())
	case len(a.oneOf) > 0 && !slices.Contains(a.oneOf, value.AsString()):
		return fail("Invalid Attribute Value Match: Attribute %s value must be one of: %q, got: %q",
			terraformPath(path), a.oneOf, value.AsString())
	case a.valid != nil:
		if err := a.valid(value.AsString()); err != nil {
			return fail("%s", err)
		}
	}

	return nil
}

func (a attribute) holds(value property.Value) bool {
	switch a.kind {
	case text:
		return value.IsString()
	case flag:
		return value.IsBool()
	case object:
		return value.IsMap()
	case texts:
		return value.IsArray() && !slices.ContainsFunc(value.AsArray().AsSlice(), func(element property.Value) bool {
			return !element.IsString() && !element.IsComputed() && !element.IsNull()
		})
	}

	return false
}

// mark puts secret marks where the schema has them, and nowhere else: the published plugin decodes its outputs
// from Terraform's state, in which an input's own mark is lost.
func (s schema) mark(values property.Map) property.Map {
	marked := map[string]property.Value{}

	for name, value := range unmarked(values).All {
		a := s[name]
		if a.kind == object && value.IsMap() {
			value = property.New(a.fields.mark(value.AsMap()))
		}

		marked[name] = value.WithSecret(a.secret)
	}

	return property.NewMap(marked)
}

// settable is the part of the schema that a program may set.
func (s schema) settable() schema {
	inputs := schema{}

	for name, a := range s {
		if !a.computed {
			inputs[name] = a
		}
	}

	return inputs
}

func join(path, name string) string {
	if path == "" {
		return name
	}

	return path + "." + name
}

// terraformPath turns machineSecrets.certs into machine_secrets.certs, as the provider's own messages name it.
func terraformPath(path string) string {
	var b strings.Builder

	for _, r := range path {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}

		b.WriteRune(unicode.ToLower(r))
	}

	return b.String()
}
