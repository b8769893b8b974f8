package languagehost

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/pulumi/pulumi/pkg/v3/codegen/hcl2/syntax"
	"github.com/pulumi/pulumi/pkg/v3/codegen/pcl"
	"github.com/pulumi/pulumi/pkg/v3/codegen/python"
	"github.com/pulumi/pulumi/pkg/v3/codegen/schema"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
)

// GenerateProgram turns the engine's description of resources into Python: what `pulumi import` prints at its end.
// Pulumi's own generator does the work; the packages' schemas come from the engine.
func (h *host) GenerateProgram(_ context.Context, r *pulumirpc.GenerateProgramRequest) (*pulumirpc.GenerateProgramResponse, error) {
	loader, err := schema.NewLoaderClient(r.GetLoaderTarget())
	if err != nil {
		return nil, fmt.Errorf("the engine's schemas: %w", err)
	}
	defer loader.Close()

	parser := syntax.NewParser()
	for _, name := range slices.Sorted(maps.Keys(r.GetSource())) {
		if err := parser.ParseFile(strings.NewReader(r.GetSource()[name]), name); err != nil {
			return nil, err
		}
	}
	if parser.Diagnostics.HasErrors() {
		return answer(nil, parser.Diagnostics)
	}

	options := []pcl.BindOption{pcl.Loader(schema.NewCachedLoader(loader))}
	if !r.GetStrict() {
		options = append(options, pcl.NonStrictBindOptions()...)
	}

	program, problems, err := pcl.BindProgram(parser.Files, options...)
	if err != nil {
		return nil, err
	}
	if program == nil || problems.HasErrors() {
		return answer(nil, problems)
	}

	files, more, err := python.GenerateProgram(program)
	if err != nil {
		return nil, err
	}

	return answer(files, append(problems, more...))
}

func answer(files map[string][]byte, problems hcl.Diagnostics) (*pulumirpc.GenerateProgramResponse, error) {
	return &pulumirpc.GenerateProgramResponse{Source: files, Diagnostics: plugin.HclDiagnosticsToRPCDiagnostics(problems)}, nil
}
