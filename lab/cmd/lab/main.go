// Command lab is the datacenter in a box. It is one binary under several names: the engine's
// language host and plugins, govc, and `pulumi` with the lab's copy of the stack file.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"platform.lab/lab/internal/certapprover"
	"platform.lab/lab/internal/dex"
	"platform.lab/lab/internal/govc"
	"platform.lab/lab/internal/languagehost"
	"platform.lab/lab/internal/plugins/kubernetesplugin"
	"platform.lab/lab/internal/plugins/talosplugin"
	"platform.lab/lab/internal/plugins/vsphereplugin"
	"platform.lab/lab/internal/simulated"
	"platform.lab/lab/internal/statemetrics"
	"platform.lab/lab/internal/talosbackup"
	"platform.lab/lab/internal/world"
)

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	code, err := dispatch(context.Background(), name, args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// dispatch calls what the binary's name stands for; the answer is the exit code.
func dispatch(ctx context.Context, name string, args []string) (int, error) {
	switch name {
	case "pulumi-language-python":
		return 0, languagehost.Main(ctx, pulumiVersion(), args)
	case "pulumi-resource-vsphere":
		return 0, vsphereplugin.Main(ctx)
	case "pulumi-resource-talos":
		return 0, talosplugin.Main(ctx)
	case "pulumi-resource-kubernetes":
		return 0, kubernetesplugin.Main(ctx)
	case "govc":
		return govc.Main(args), nil
	case talosbackup.Name:
		return 0, talosbackup.Main(ctx, os.Stdout)
	case copyName:
		return 0, copyFile(args)
	case certapprover.Name:
		return 0, certapprover.Main(ctx, args)
	case statemetrics.Name:
		return 0, statemetrics.Main(ctx, args)
	case dex.Name:
		return 0, dex.Main(ctx, args)
	case "pulumi":
		return 0, world.Pulumi(ctx, args)
	default:
		if sentence, ok := simulated.Tool(name); ok {
			return 1, errors.New(sentence)
		}
		return lab(ctx, args)
	}
}

// pulumiVersion is the release that this binary's Pulumi packages are of.
func pulumiVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/pulumi/pulumi/sdk/v3" {
				return m.Version[1:]
			}
		}
	}
	return "unknown"
}
