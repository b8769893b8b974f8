package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"platform.lab/lab/internal/charts"
	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/progress"
	"platform.lab/lab/internal/world"
)

// options are the flags that several commands share.
type options struct {
	project, state, stackFile string
	charts, plugins           string
	simulation                world.Options
}

func (o *options) layout() (world.Layout, error) {
	state, err := filepath.Abs(o.state)
	return world.Layout{Root: state}, err
}

// lab runs a command of the lab itself; the answer is the exit code.
func lab(args []string) (int, error) {
	o, code := &options{}, 0
	root := &cobra.Command{
		Use: "lab", Short: "A datacenter in a box: run the unchanged stack file without a datacenter",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.PersistentFlags().StringVar(&o.project, "project", ".", "folder of Pulumi.yaml")
	root.PersistentFlags().StringVar(&o.state, "state", envOr("LAB_WORLD", filepath.Join(".lab", "world")), "folder of the world")
	root.AddCommand(buildCommand(o), runCommand(o, &code), upCommand(o, &code), statusCommand(o), chartsCommand(o), renderCommand(o))
	root.AddCommand(hiddenCommands(&code)...)
	root.SetArgs(args)
	err := root.Execute()
	return code, err
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func buildCommand(o *options) *cobra.Command {
	only := false
	c := &cobra.Command{
		Use: "build", Short: "Build the real programs (engine, etcd, Kubernetes, talosctl, Helm, KWOK, MetalLB) and the chart packages from their modules",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			project, err := filepath.Abs(o.project)
			if err != nil {
				return err
			}
			bin, err := bin()
			if err != nil {
				return err
			}
			builder := &programs.Builder{
				Lab: filepath.Join(project, "lab"), Bin: bin, Go: envOr("GO", "go"), Display: progress.New(os.Stderr),
			}
			packager := &charts.Builder{
				Lab: builder.Lab, Bin: bin, Cache: o.charts, Module: builder.Module, Display: builder.Display,
			}
			if !only {
				if err := builder.Build(programs.All()); err != nil {
					return err
				}
			}
			if err := packager.Build(); err != nil || only {
				return err
			}
			return linkHost(bin)
		},
	}
	c.Flags().BoolVar(&only, "only-charts", false, "leave the programs as they are")
	chartFlags(c, o)
	return c
}

// linkHost puts the language host beside the engine, where the engine looks for it.
func linkHost(bin string) error {
	err := os.Symlink("lab", filepath.Join(bin, "pulumi-language-python"))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

func simulationFlags(c *cobra.Command, o *options) {
	f := c.Flags()
	f.StringVar(&o.stackFile, "stack-file", "Pulumi.prod.yaml", "the operator's stack file; it is only read")
	f.DurationVar(&o.simulation.BootDelay, "boot-delay", time.Second, "a machine's time from power on to its API")
	f.DurationVar(&o.simulation.InstallDelay, "install-delay", 0, "a machine's time to install after its first configuration; the OVA is installed already")
	f.DurationVar(&o.simulation.CloneDelay, "clone-delay", 500*time.Millisecond, "vCenter's time for a clone, and for a removal")
	f.StringVar(&o.plugins, "plugins", envOr("LAB_PLUGINS", "stand-in"), "provider plugins: stand-in, published, or the names of those that are to be the published ones: vsphere,talos")
	f.StringArrayVar(&o.simulation.Faults, "fault", nil, "break something on purpose; an unknown fault lists them all")
}

func (o *options) prepare() (world.Layout, error) {
	l, err := o.layout()
	if err != nil {
		return l, err
	}
	if err := world.CheckFaults(o.simulation.Faults); err != nil {
		return l, err
	}
	if o.simulation.PublishedPlugins, err = world.PublishedPlugins(o.plugins); err != nil {
		return l, err
	}
	project, err := filepath.Abs(o.project)
	if err != nil {
		return l, err
	}
	stackFile, err := filepath.Abs(o.stackFile)
	if err != nil {
		return l, err
	}
	self, err := os.Executable()
	if err != nil {
		return l, err
	}
	_, err = world.Prepare(l, world.Request{
		Project: project, StackFile: stackFile, Bin: filepath.Dir(self), Options: o.simulation,
	})
	return l, err
}

func runCommand(o *options, code *int) *cobra.Command {
	c := &cobra.Command{
		Use: "run [flags] -- COMMAND [ARGUMENT...]", Short: "Run a command in the running world, or in one of its own that ends with it",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, command []string) error {
			l, err := o.layout()
			if err != nil {
				return err
			}
			if l.Running() != 0 {
				return world.Join(l, command)
			}
			if l, err = o.prepare(); err != nil {
				return err
			}
			*code, err = world.Run(l, command)
			return err
		},
	}
	simulationFlags(c, o)
	return c
}

func upCommand(o *options, code *int) *cobra.Command {
	c := &cobra.Command{
		Use: "up", Short: "Start a world and keep it until Ctrl-C", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := o.prepare()
			if err != nil {
				return err
			}
			*code, err = world.Run(l, nil)
			return err
		},
	}
	simulationFlags(c, o)
	return c
}

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "What the machines of the running world say of themselves, as JSON", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := o.layout()
			if err != nil {
				return err
			}
			text, err := world.Status(l)
			if err != nil {
				return fmt.Errorf("world %s does not answer (%w); start it with `lab up`", l.Root, err)
			}
			_, err = os.Stdout.Write(text)
			return err
		},
	}
}

// hiddenCommands are those by which the lab calls itself.
func hiddenCommands(code *int) []*cobra.Command {
	return []*cobra.Command{
		{
			Use: "init-world", Hidden: true, DisableFlagParsing: true,
			RunE: func(_ *cobra.Command, args []string) (err error) {
				*code, err = world.Init(world.Layout{Root: args[0]}, args[1], args[2:])
				return err
			},
		},
		{
			Use: "serve-world", Hidden: true, DisableFlagParsing: true,
			RunE: func(_ *cobra.Command, args []string) error {
				return world.Serve(world.Layout{Root: args[0]}, os.NewFile(3, "progress"))
			},
		},
		{
			Use: "inside-world", Hidden: true, DisableFlagParsing: true,
			RunE: func(_ *cobra.Command, args []string) error {
				return world.Inside(world.Layout{Root: args[0]}, args[1], args[2:])
			},
		},
	}
}
