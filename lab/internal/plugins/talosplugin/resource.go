package talosplugin

// Layer: what every resource type has in common. As in Terraform, all turns on a plan: the outputs that a
// resource will have, as far as they are known. Diff compares the plan with the state, a preview answers
// with it, and create and update carry it out.

import (
	"context"
	"fmt"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"platform.lab/lab/internal/plugins"
)

// plan is what a resource's outputs will be.
type plan struct {
	// outputs holds unknown for what only the real run can tell.
	outputs property.Map
	// replace names the properties whose change needs a new resource.
	replace []string
}

// resource is one resource type. All property maps come without secret marks.
type resource interface {
	schema() schema
	// check reports failures beyond the schema's.
	check(inputs property.Map) []p.CheckFailure
	// plan derives the outputs from the inputs and, for an existing resource, its state.
	plan(ctx context.Context, inputs, state property.Map) (plan, error)
	// create makes the resource and returns its id and the outputs.
	create(ctx context.Context, planned property.Map) (string, property.Map, error)
	// update changes the resource from its state to the plan and returns the outputs.
	update(ctx context.Context, planned, state property.Map) (property.Map, error)
	delete(ctx context.Context, state property.Map) error
	// adopt imports the existing resource of that id.
	adopt(id string) (string, property.Map, error)
}

// function is an invoke: its arguments and what it answers.
type function struct {
	arguments schema
	call      func(ctx context.Context, arguments property.Map) (property.Map, error)
}

func (s server) check(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	served, err := s.resource(r.Urn.Type())
	if err != nil {
		return p.CheckResponse{}, err
	}

	failures := served.schema().check(r.Inputs)
	if len(failures) == 0 {
		failures = served.check(unmarked(r.Inputs))
	}

	return p.CheckResponse{Inputs: r.Inputs, Failures: failures}, nil
}

func (s server) diff(ctx context.Context, r p.DiffRequest) (p.DiffResponse, error) {
	served, err := s.resource(r.Urn.Type())
	if err != nil {
		return p.DiffResponse{}, err
	}

	state := unmarked(r.State)

	planned, err := served.plan(ctx, unmarked(r.Inputs), state)
	if err != nil {
		return p.DiffResponse{}, err
	}

	return response(served.schema(), state, planned), nil
}

// response tells the engine where the plan differs from the state. Changes of inputs are enough for it to draw;
// an output is named only when no input explains the change.
func response(s schema, state property.Map, planned plan) p.DiffResponse {
	inputs, outputs := map[string]p.PropertyDiff{}, map[string]p.PropertyDiff{}

	for name, a := range s {
		changes := inputs
		if a.computed {
			changes = outputs
		}

		compare(name, state.Get(name), planned.outputs.Get(name), changes)
	}

	if len(inputs) == 0 {
		inputs = outputs
	}

	for _, name := range planned.replace {
		for path, change := range inputs {
			if path == name || strings.HasPrefix(path, name+".") {
				inputs[path] = p.PropertyDiff{Kind: plugins.Replacing(change.Kind)}
			}
		}
	}

	return p.DiffResponse{HasChanges: len(inputs) > 0, DetailedDiff: inputs}
}

func (s server) create(ctx context.Context, r p.CreateRequest) (p.CreateResponse, error) {
	served, err := s.resource(r.Urn.Type())
	if err != nil {
		return p.CreateResponse{}, err
	}

	planned, err := served.plan(ctx, unmarked(r.Properties), property.Map{})
	if err != nil {
		return p.CreateResponse{}, err
	}

	if r.DryRun {
		return p.CreateResponse{Properties: served.schema().mark(planned.outputs)}, nil
	}

	id, outputs, err := served.create(ctx, planned.outputs)
	if err != nil {
		return p.CreateResponse{}, err
	}

	return p.CreateResponse{ID: id, Properties: withID(served.schema().mark(outputs), id)}, nil
}

func (s server) update(ctx context.Context, r p.UpdateRequest) (p.UpdateResponse, error) {
	served, err := s.resource(r.Urn.Type())
	if err != nil {
		return p.UpdateResponse{}, err
	}

	state := unmarked(r.State)

	planned, err := served.plan(ctx, unmarked(r.Inputs), state)
	if err != nil {
		return p.UpdateResponse{}, err
	}

	outputs := planned.outputs
	if !r.DryRun {
		if outputs, err = served.update(ctx, planned.outputs, state); err != nil {
			return p.UpdateResponse{}, err
		}
	}

	outputs = served.schema().mark(outputs)
	if outputs.Get("id").IsNull() {
		outputs = withID(outputs, r.ID)
	}

	return p.UpdateResponse{Properties: outputs}, nil
}

// read is a no-op on an existing resource, as in the published plugin: it sees no drift. Without a state it imports.
func (s server) read(_ context.Context, r p.ReadRequest) (p.ReadResponse, error) {
	served, err := s.resource(r.Urn.Type())
	if err != nil {
		return p.ReadResponse{}, err
	}

	if r.Properties.Len() > 0 {
		return p.ReadResponse{ID: r.ID, Properties: r.Properties, Inputs: r.Inputs}, nil
	}

	id, outputs, err := served.adopt(r.ID)
	if err != nil {
		return p.ReadResponse{}, err
	}

	inputs := property.Map{}

	for name := range served.schema().settable() {
		if v := outputs.Get(name); !v.IsNull() {
			inputs = inputs.Set(name, v)
		}
	}

	return p.ReadResponse{ID: id, Properties: withID(served.schema().mark(outputs), id), Inputs: inputs}, nil
}

func (s server) delete(ctx context.Context, r p.DeleteRequest) error {
	served, err := s.resource(r.Urn.Type())
	if err != nil {
		return err
	}

	return served.delete(ctx, unmarked(r.Properties))
}

// errNoImport is what a resource without import answers.
func errNoImport(id string) error {
	return fmt.Errorf("Resource Import Not Implemented: this resource does not support import (id %q)", id) //nolint:staticcheck // the framework's own words
}
