// Command cert-manager is cert-manager's controller, webhook or cainjector, by the name that it is started with: what the
// vendor's three programs do (its repository's cmd/, which no module has) over the same packages, without the issuers
// that the platform does not use (Vault, Venafi) and without Kubernetes' own certificate signing requests.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/pflag"
	logsapi "k8s.io/component-base/logs/api/v1"

	logf "github.com/cert-manager/cert-manager/pkg/logs"
	utilfeature "github.com/cert-manager/cert-manager/pkg/util/feature"
)

// program runs until its context ends, which is a signal.
type program func(ctx context.Context, arguments []string) error

var programs = map[string]program{"controller": runController, "webhook": runWebhook, "cainjector": runCAInjector}

func main() {
	name := filepath.Base(os.Args[0])

	run, known := programs[name]
	if !known {
		fmt.Fprintf(os.Stderr, "start this program as controller, webhook or cainjector, not as %s\n", name)
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	logf.InitLogs()

	err := run(logf.NewContext(ctx, logf.Log, name), os.Args[1:])
	logf.FlushLogs()

	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

// flags are a program's command line; an unknown flag is an error, as with the vendor's.
func flags(name string) *pflag.FlagSet {
	set := pflag.NewFlagSet(name, pflag.ContinueOnError)
	set.SortFlags = false

	return set
}

// parse reads a command line, sets the feature gates that it names and starts the log.
func parse(set *pflag.FlagSet, arguments []string, gates map[string]bool, logging *logsapi.LoggingConfiguration) error {
	if err := set.Parse(arguments); err != nil {
		return err
	}

	if set.NArg() > 0 {
		return fmt.Errorf("unknown arguments %q", set.Args())
	}

	if file := set.Lookup("config"); file != nil && file.Changed {
		return fmt.Errorf("--config=%s: the lab's build reads flags only, no configuration file", file.Value)
	}

	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(gates); err != nil {
		return fmt.Errorf("--feature-gates: %w", err)
	}

	return logf.ValidateAndApply(logging)
}
