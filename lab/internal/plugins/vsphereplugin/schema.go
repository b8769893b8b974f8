package vsphereplugin

// The types of the plugin's properties and what follows from them alone, without a vCenter: which inputs are
// accepted, which defaults they get, what differs from the state, and what a preview can say. The rules are those of
// the Terraform plugin SDK, which the published plugin wraps: a property that the program leaves out keeps the
// server's value when it is computed, and is otherwise expected to hold its default or its type's zero value.

import (
	"fmt"
	"slices"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"platform.lab/lab/internal/plugins"
)

type kind int

const (
	text kind = iota
	integer
	boolean
	texts   // a list of text
	textSet // a list of text whose order means nothing
	textMap
	block  // one nested object
	blocks // a list of nested objects
)

// field is one property of a resource, a function or a nested object.
type field struct {
	name     string
	kind     kind
	required bool
	computed bool // the server chooses when the program does not
	output   bool // only the server sets it
	replaces bool // a change needs a new resource
	unserved bool // the published plugin has it, this one only accepts its default
	fallback any  // the default of an input that the program leaves out
	oneOf    []string
	least    *int                // the smallest number accepted
	same     func(string) string // brings texts that mean the same to one form
	key      string              // blocks: the nested property that identifies an element; its index when empty
	fields   []field             // block, blocks
}

func atLeast(n int) *int { return &n }

// checker collects what is wrong with a resource's inputs.
type checker struct {
	resource string // the name that failures point into
	failures []p.CheckFailure
}

func (c *checker) fail(path presource.PropertyPath, format string, args ...any) {
	c.failures = append(c.failures, p.CheckFailure{
		Property: path.String(),
		Reason:   fmt.Sprintf(format, args...) + fmt.Sprintf(". Examine values at '%s.%s'.", c.resource, path),
	})
}

// defaultsKey is where an object says which of its properties were filled in.
const defaultsKey = "__defaults"

// object returns the given inputs with defaults filled in; secrets and unknown values stay what they are.
func (c *checker) object(path presource.PropertyPath, fields []field, given property.Map) property.Map {
	checked := map[string]property.Value{}
	defaults := []string{}
	for name := range given.All {
		known := slices.IndexFunc(fields, func(f field) bool { return f.name == name }) >= 0
		if !known && name != defaultsKey {
			c.fail(at(path, name), "Invalid or unknown key")
		}
	}
	for _, f := range fields {
		value, here := given.Get(f.name), at(path, f.name)
		switch {
		case value.IsNull() && f.required:
			c.fail(here, "Missing required property '%s'", f.name)
		case value.IsNull() && f.fallback != nil:
			checked[f.name] = encode(f.fallback)
			defaults = append(defaults, f.name)
		case value.IsNull():
		case f.output:
			c.fail(here, "'%s' is set by vCenter and cannot be given", f.name)
		case f.unserved && (f.fallback == nil || decode(value) != f.fallback):
			c.fail(here, "'%s' is served by the published vsphere plugin but not by the lab's stand-in; "+
				"remove it or run with the published plugin", f.name)
		default:
			checked[f.name] = c.value(here, f, value)
		}
	}
	checked[defaultsKey] = encode(defaults)
	return property.NewMap(checked)
}

func (c *checker) value(path presource.PropertyPath, f field, v property.Value) property.Value {
	switch {
	case v.IsComputed():
		return v
	case f.kind == block && v.IsMap():
		return property.WithGoValue(v, c.object(path, f.fields, v.AsMap()))
	case f.kind == blocks && v.IsArray():
		var elements []property.Value
		for i, e := range v.AsArray().All {
			if !e.IsComputed() && !e.IsMap() {
				c.fail(at(path, i), "expected an object, got %s", describe(e))
				continue
			}
			elements = append(elements, c.value(at(path, i), field{name: f.name, kind: block, fields: f.fields}, e))
		}
		return property.WithGoValue(v, property.NewArray(elements))
	case (f.kind == texts || f.kind == textSet) && v.IsArray():
		for i, e := range v.AsArray().All {
			c.scalar(at(path, i), field{name: f.name, kind: text}, e)
		}
	case f.kind == textMap && v.IsMap():
		for key, e := range v.AsMap().All {
			c.scalar(at(path, key), field{name: key, kind: text}, e)
		}
	default:
		c.scalar(path, f, v)
	}
	return v
}

func (c *checker) scalar(path presource.PropertyPath, f field, v property.Value) {
	if v.IsComputed() {
		return
	}
	want := map[kind]string{text: "a string", integer: "a whole number", boolean: "a boolean", texts: "a list",
		textSet: "a list", textMap: "an object", block: "an object", blocks: "a list"}[f.kind]
	switch {
	case f.kind == text && v.IsString():
		if len(f.oneOf) > 0 && !slices.Contains(f.oneOf, v.AsString()) {
			c.fail(path, "expected %s to be one of %q, got %s", f.name, f.oneOf, v.AsString())
		}
		if f.required && v.AsString() == "" {
			c.fail(path, "expected %q to not be an empty string", f.name)
		}
	case f.kind == integer && v.IsNumber() && v.AsNumber() == float64(int(v.AsNumber())):
		if f.least != nil && int(v.AsNumber()) < *f.least {
			c.fail(path, "expected %s to be at least (%d), got %d", f.name, *f.least, int(v.AsNumber()))
		}
	case f.kind == boolean && v.IsBool():
	default:
		c.fail(path, "expected %s, got %s", want, describe(v))
	}
}

// describe names a value's type, never its content: it may be a secret.
func describe(v property.Value) string {
	switch {
	case v.IsString():
		return "a string"
	case v.IsNumber():
		return "a number"
	case v.IsBool():
		return "a boolean"
	case v.IsArray():
		return "a list"
	case v.IsMap():
		return "an object"
	default:
		return "something else"
	}
}

// differ compares a state with the inputs that should replace it.
type differ map[string]p.PropertyDiff

func (d differ) object(path presource.PropertyPath, fields []field, state, inputs property.Map, replaces bool) {
	for _, f := range fields {
		if f.output {
			continue
		}
		is, wanted, here := state.Get(f.name), inputs.Get(f.name), at(path, f.name)
		if wanted.IsNull() {
			if f.computed {
				continue
			}
			wanted = encode(f.fallback)
		}
		d.value(here, f, is, wanted, replaces || f.replaces)
	}
}

func (d differ) value(path presource.PropertyPath, f field, is, wanted property.Value, replaces bool) {
	switch {
	case f.kind == block && is.IsMap() && wanted.IsMap():
		d.object(path, f.fields, is.AsMap(), wanted.AsMap(), replaces)
	case f.kind == blocks && is.IsArray() && wanted.IsArray():
		d.elements(path, f, is.AsArray(), wanted.AsArray(), replaces)
	case f.kind == textMap && (is.IsMap() || wanted.IsMap()) && !wanted.IsComputed():
		d.entries(path, mapOf(is), mapOf(wanted), replaces)
	case !equal(f, is, wanted):
		d.add(path, is, wanted, replaces || f.kind == block && wanted.IsMap() && anyReplaces(f.fields))
	}
}

// elements compares lists of objects by their key, so that the order of a list means nothing where there is one.
func (d differ) elements(path presource.PropertyPath, f field, is, wanted property.Array, replaces bool) {
	kept := map[int]bool{}
	for i, w := range wanted.All {
		old := matching(f, is, i, w)
		if old < 0 {
			d.add(at(path, i), property.Value{}, w, replaces)
			continue
		}
		kept[old] = true
		d.value(at(path, i), field{kind: block, fields: f.fields}, is.Get(old), w, replaces)
	}
	for i, old := range is.All {
		if !kept[i] {
			d.add(at(path, i), old, property.Value{}, replaces)
		}
	}
}

func (d differ) entries(path presource.PropertyPath, is, wanted property.Map, replaces bool) {
	for key, w := range wanted.All {
		if !equal(field{kind: text}, is.Get(key), w) {
			d.add(at(path, key), is.Get(key), w, replaces)
		}
	}
	for key, old := range is.All {
		if wanted.Get(key).IsNull() {
			d.add(at(path, key), old, property.Value{}, replaces)
		}
	}
}

func (d differ) add(path presource.PropertyPath, is, wanted property.Value, replaces bool) {
	change := p.Update
	switch {
	case is.IsNull():
		change = p.Add
	case wanted.IsNull():
		change = p.Delete
	}
	if replaces {
		change = plugins.Replacing(change)
	}
	d[path.String()] = p.PropertyDiff{Kind: change}
}

func (d differ) replaces() bool {
	for _, change := range d {
		if strings.HasSuffix(string(change.Kind), "&replace") {
			return true
		}
	}
	return false
}

func anyReplaces(fields []field) bool {
	return slices.ContainsFunc(fields, func(f field) bool { return f.replaces })
}

// equal holds a missing value and its type's zero value for the same, as the Terraform SDK does.
func equal(f field, a, b property.Value) bool {
	if a.HasComputed() || b.HasComputed() {
		return false
	}
	x, y := decode(a), decode(b)
	if isZero(x) && isZero(y) {
		return true
	}
	if f.same != nil {
		s, isText := x.(string)
		t, areTexts := y.(string)
		return isText && areTexts && f.same(s) == f.same(t)
	}
	if f.kind == textSet {
		s, t := textsOf(x), textsOf(y)
		slices.Sort(s)
		slices.Sort(t)
		return slices.Equal(s, t)
	}
	return fmt.Sprint(x) == fmt.Sprint(y)
}

// matching returns the index of the element of a list in the state that an element of the inputs stands for, or -1.
func matching(f field, state property.Array, index int, wanted property.Value) int {
	if f.key == "" {
		if index < state.Len() {
			return index
		}
		return -1
	}
	for i, e := range state.All {
		if e.IsMap() && wanted.IsMap() && equal(field{kind: text}, e.AsMap().Get(f.key), wanted.AsMap().Get(f.key)) {
			return i
		}
	}
	return -1
}

// merge returns what a resource will look like with these inputs: computed properties keep the state's value and are
// unknown when there is none.
func merge(fields []field, state, inputs property.Map) property.Map {
	merged := map[string]property.Value{}
	for _, f := range fields {
		value, old := inputs.Get(f.name), state.Get(f.name)
		switch {
		case value.IsMap() && f.kind == block:
			merged[f.name] = property.WithGoValue(value, merge(f.fields, mapOf(old), value.AsMap()))
		case value.IsArray() && f.kind == blocks:
			merged[f.name] = property.WithGoValue(value, mergeElements(f, old, value.AsArray()))
		case !value.IsNull():
			merged[f.name] = value
		case (f.computed || f.output) && !old.IsNull():
			merged[f.name] = old
		case f.computed || f.output:
			merged[f.name] = property.New(property.Computed)
		case f.fallback != nil:
			merged[f.name] = encode(f.fallback)
		}
	}
	return property.NewMap(merged)
}

func mergeElements(f field, state property.Value, inputs property.Array) property.Array {
	var old property.Array
	if state.IsArray() {
		old = state.AsArray()
	}
	var elements []property.Value
	for i, e := range inputs.All {
		if !e.IsMap() {
			elements = append(elements, e)
			continue
		}
		var before property.Map
		if at := matching(f, old, i, e); at >= 0 {
			before = mapOf(old.Get(at))
		}
		elements = append(elements, property.WithGoValue(e, merge(f.fields, before, e.AsMap())))
	}
	return property.NewArray(elements)
}

// inputsOf returns the inputs that a state read back stands for: the properties that the program gave before, with
// the values they have now; after an import, when nothing was given, all that are neither computed nor default.
func inputsOf(fields []field, before, state property.Map) property.Map {
	inputs := map[string]property.Value{}
	for _, f := range fields {
		old, now := before.Get(f.name), state.Get(f.name)
		given := !old.IsNull()
		if before.Len() == 0 {
			given = !f.output && !f.computed && (f.required || !equal(f, now, encode(f.fallback)))
		}
		switch {
		case !given || now.IsNull():
		case f.kind == block && now.IsMap():
			inputs[f.name] = property.New(inputsOf(f.fields, mapOf(old), now.AsMap()))
		case f.kind == blocks && now.IsArray():
			var elements []property.Value
			for i, e := range now.AsArray().All {
				var was property.Map
				if old.IsArray() {
					if at := matching(f, old.AsArray(), i, e); at >= 0 {
						was = mapOf(old.AsArray().Get(at))
					}
				}
				elements = append(elements, property.New(inputsOf(f.fields, was, mapOf(e))))
			}
			inputs[f.name] = property.New(property.NewArray(elements))
		default:
			inputs[f.name] = now
		}
	}
	if defaults := before.Get(defaultsKey); !defaults.IsNull() {
		inputs[defaultsKey] = defaults
	}
	return property.NewMap(inputs)
}

// withSecrets marks every value of out as secret whose counterpart in like is.
func withSecrets(out, like property.Value) property.Value {
	if like.Secret() {
		return out.WithSecret(true)
	}
	switch {
	case out.IsMap() && like.IsMap():
		marked := map[string]property.Value{}
		for key, v := range out.AsMap().All {
			marked[key] = withSecrets(v, like.AsMap().Get(key))
		}
		return property.WithGoValue(out, property.NewMap(marked))
	case out.IsArray() && like.IsArray():
		var marked []property.Value
		for i, v := range out.AsArray().All {
			if i < like.AsArray().Len() {
				v = withSecrets(v, like.AsArray().Get(i))
			}
			marked = append(marked, v)
		}
		return property.WithGoValue(out, property.NewArray(marked))
	default:
		return out
	}
}

// withoutIgnored returns the inputs with the ignored paths set back to what the state says.
func withoutIgnored(inputs, state property.Map, ignored []string) (property.Map, error) {
	old, changed := presource.ToResourcePropertyMap(state), presource.ToResourcePropertyMap(inputs)
	for _, text := range ignored {
		path, err := presource.ParsePropertyPath(text)
		if err != nil {
			return property.Map{}, fmt.Errorf("ignoreChanges %q is not a property path: %w", text, err)
		}
		path.Reset(old, changed)
	}
	return presource.FromResourcePropertyMap(changed), nil
}

// at is a path one step further; the steps before are copied, never shared.
func at(path presource.PropertyPath, step any) presource.PropertyPath {
	return append(slices.Clone(path), step)
}

func mapOf(v property.Value) property.Map {
	if v.IsMap() {
		return v.AsMap()
	}
	return property.Map{}
}

// normalPath is the form in which vCenter's relative paths are compared: no slash at either end.
func normalPath(s string) string { return strings.Trim(s, "/") }
