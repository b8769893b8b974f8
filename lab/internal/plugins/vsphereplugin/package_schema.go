package vsphereplugin

// The package's schema, which `pulumi import` reads to write code: the properties of each resource, made from the
// same tables that check them.

import (
	"context"
	"encoding/json"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	pschema "github.com/pulumi/pulumi/pkg/v3/codegen/schema"
)

func (pl *plugin) schema(context.Context, p.GetSchemaRequest) (p.GetSchemaResponse, error) {
	spec := pschema.PackageSpec{Name: pluginName, Version: pluginVersion, Types: map[string]pschema.ComplexTypeSpec{},
		Resources: map[string]pschema.ResourceSpec{}}
	// Types lie in the package itself, not in a module of each one's own: vsphere.VirtualMachine.
	spec.Meta = &pschema.MetadataSpec{ModuleFormat: "(.*)(?:/[^/]*)"}
	for token, r := range pl.resources {
		inputs, outputs, required := objectSchema(&spec, strings.TrimPrefix(token[strings.LastIndex(token, ":"):], ":"), r.fields)
		spec.Resources[token] = pschema.ResourceSpec{InputProperties: inputs, RequiredInputs: required,
			ObjectTypeSpec: pschema.ObjectTypeSpec{Properties: outputs, Type: "object"}}
	}
	text, err := json.Marshal(spec)
	return p.GetSchemaResponse{Schema: string(text)}, err
}

// objectSchema describes the properties of a resource or of a nested object; name is the type's, and the beginning of
// the names of the types nested in it.
func objectSchema(spec *pschema.PackageSpec, name string, fields []field) (inputs, outputs map[string]pschema.PropertySpec, required []string) {
	inputs, outputs = map[string]pschema.PropertySpec{}, map[string]pschema.PropertySpec{}
	for _, f := range fields {
		if f.unserved && f.fallback == nil {
			continue
		}
		property := pschema.PropertySpec{TypeSpec: typeSchema(spec, name, f), WillReplaceOnChanges: f.replaces}
		outputs[f.name] = property
		if !f.output {
			inputs[f.name] = property
		}
		if f.required && (f.name != "name" || strings.HasPrefix(name, "get")) {
			required = append(required, f.name)
		}
	}
	return inputs, outputs, required
}

func typeSchema(spec *pschema.PackageSpec, parent string, f field) pschema.TypeSpec {
	str := pschema.TypeSpec{Type: "string"}
	switch f.kind {
	case integer:
		return pschema.TypeSpec{Type: "integer"}
	case boolean:
		return pschema.TypeSpec{Type: "boolean"}
	case texts, textSet:
		return pschema.TypeSpec{Type: "array", Items: &str}
	case textMap:
		return pschema.TypeSpec{Type: "object", AdditionalProperties: &str}
	case block, blocks:
		name := parent + strings.ToUpper(f.name[:1]) + strings.TrimSuffix(f.name[1:], "s")
		token := "vsphere:index/" + name + ":" + name
		_, properties, required := objectSchema(spec, name, f.fields)
		spec.Types[token] = pschema.ComplexTypeSpec{ObjectTypeSpec: pschema.ObjectTypeSpec{Type: "object",
			Properties: properties, Required: required}}
		nested := pschema.TypeSpec{Ref: "#/types/" + token}
		if f.kind == block {
			return nested
		}
		return pschema.TypeSpec{Type: "array", Items: &nested}
	default:
		return str
	}
}
