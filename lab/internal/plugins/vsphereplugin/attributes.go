package vsphereplugin

// Properties as plain Go values, the form in which the code that talks to vCenter reads and writes them.

import (
	"maps"
	"reflect"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// attributes holds string, int, bool, []any and map[string]any values by property name.
type attributes map[string]any

func (a attributes) text(name string) string { s, _ := a[name].(string); return s }
func (a attributes) number(name string) int  { n, _ := a[name].(int); return n }
func (a attributes) flag(name string) bool   { b, _ := a[name].(bool); return b }
func (a attributes) texts(name string) []string {
	return textsOf(a[name])
}

func (a attributes) block(name string) attributes {
	m, _ := a[name].(map[string]any)
	return m
}

func (a attributes) blocks(name string) []attributes {
	list, _ := a[name].([]any)
	var out []attributes
	for _, e := range list {
		m, _ := e.(map[string]any)
		out = append(out, m)
	}
	return out
}

func (a attributes) clone() attributes {
	if a == nil {
		return attributes{}
	}
	return maps.Clone(a)
}

func textsOf(v any) []string {
	list, _ := v.([]any)
	out := make([]string, 0, len(list))
	for _, e := range list {
		s, _ := e.(string)
		out = append(out, s)
	}
	return out
}

// listOf makes a property's list of any slice.
func listOf[T any](in []T) []any {
	out := make([]any, 0, len(in))
	for _, e := range in {
		out = append(out, e)
	}
	return out
}

func isZero(v any) bool {
	if v == nil {
		return true
	}
	value := reflect.ValueOf(v)
	if value.Kind() == reflect.Slice || value.Kind() == reflect.Map {
		return value.Len() == 0
	}
	return value.IsZero()
}

// decode drops secrecy and unknown values: an unknown one becomes nil.
func decode(v property.Value) any {
	switch {
	case v.IsString():
		return v.AsString()
	case v.IsBool():
		return v.AsBool()
	case v.IsNumber():
		if n := v.AsNumber(); n != float64(int(n)) {
			return n
		}
		return int(v.AsNumber())
	case v.IsArray():
		out := make([]any, 0, v.AsArray().Len())
		for _, e := range v.AsArray().All {
			out = append(out, decode(e))
		}
		return out
	case v.IsMap():
		return map[string]any(decodeMap(v.AsMap()))
	default:
		return nil
	}
}

func decodeMap(m property.Map) attributes {
	out := attributes{}
	for key, v := range m.All {
		if d := decode(v); d != nil {
			out[key] = d
		}
	}
	return out
}

func encode(v any) property.Value {
	value := reflect.ValueOf(v)
	switch value.Kind() {
	case reflect.String:
		return property.New(value.String())
	case reflect.Bool:
		return property.New(value.Bool())
	case reflect.Int, reflect.Int32, reflect.Int64:
		return property.New(float64(value.Int()))
	case reflect.Float64:
		return property.New(value.Float())
	case reflect.Slice:
		elements := make([]property.Value, 0, value.Len())
		for i := range value.Len() {
			elements = append(elements, encode(value.Index(i).Interface()))
		}
		return property.New(property.NewArray(elements))
	case reflect.Map:
		entries := map[string]property.Value{}
		for _, key := range value.MapKeys() {
			entries[key.String()] = encode(value.MapIndex(key).Interface())
		}
		return property.New(property.NewMap(entries))
	default:
		return property.Value{}
	}
}

func encodeMap(a attributes) property.Map { return encode(map[string]any(a)).AsMap() }
