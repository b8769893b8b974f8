package talosplugin

// Layer: small helpers over the engine's property values.

import (
	"maps"
	"strconv"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// unknown is a value that only the real run will know.
func unknown() property.Value { return property.New(property.Computed) }

// unmarked returns values without secret marks and dependencies, at any depth, and without nulls.
func unmarked(values property.Map) property.Map {
	plain := map[string]property.Value{}

	for name, value := range values.All {
		if v := unmarkedValue(value); !v.IsNull() {
			plain[name] = v
		}
	}

	return property.NewMap(plain)
}

func unmarkedValue(value property.Value) property.Value {
	switch {
	case value.IsMap():
		return property.New(unmarked(value.AsMap()))
	case value.IsArray():
		elements := value.AsArray().AsSlice()
		for i := range elements {
			elements[i] = unmarkedValue(elements[i])
		}

		return property.New(elements)
	default:
		return value.WithSecret(false).WithDependencies(nil)
	}
}

// flagOf returns a boolean property, or the fallback when it is absent or unknown.
func flagOf(values property.Map, name string, fallback bool) bool {
	if v := values.Get(name); v.IsBool() {
		return v.AsBool()
	}

	return fallback
}

// textsOf returns a list of strings; nulls are left out, as the provider leaves them out.
func textsOf(values property.Map, name string) []string {
	v := values.Get(name)
	if !v.IsArray() {
		return nil
	}

	var list []string

	for _, element := range v.AsArray().All {
		if element.IsString() {
			list = append(list, element.AsString())
		}
	}

	return list
}

// objectOf returns an object property, empty when it is absent or unknown.
func objectOf(values property.Map, name string) property.Map {
	if v := values.Get(name); v.IsMap() {
		return v.AsMap()
	}

	return property.Map{}
}

// or returns the first value that is not null.
func or(values ...property.Value) property.Value {
	for _, v := range values {
		if !v.IsNull() {
			return v
		}
	}

	return property.Value{}
}

// compare writes to changes every path at which planned differs from state. Both are without marks.
func compare(path string, state, planned property.Value, changes map[string]p.PropertyDiff) {
	switch {
	case state.Equals(planned):
	case state.IsMap() && planned.IsMap():
		compareMaps(path, state.AsMap(), planned.AsMap(), changes)
	case state.IsArray() && planned.IsArray():
		compareLists(path, state.AsArray(), planned.AsArray(), changes)
	case state.IsNull():
		changes[path] = p.PropertyDiff{Kind: p.Add}
	case planned.IsNull():
		changes[path] = p.PropertyDiff{Kind: p.Delete}
	default:
		changes[path] = p.PropertyDiff{Kind: p.Update}
	}
}

func compareMaps(path string, state, planned property.Map, changes map[string]p.PropertyDiff) {
	names := state.AsMap()
	maps.Copy(names, planned.AsMap())

	for name := range names {
		compare(join(path, name), state.Get(name), planned.Get(name), changes)
	}
}

func compareLists(path string, state, planned property.Array, changes map[string]p.PropertyDiff) {
	at := func(list property.Array, i int) property.Value {
		if i < list.Len() {
			return list.Get(i)
		}

		return property.Value{}
	}

	for i := range max(state.Len(), planned.Len()) {
		compare(path+"["+strconv.Itoa(i)+"]", at(state, i), at(planned, i), changes)
	}
}
