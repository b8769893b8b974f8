package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"platform.lab/lab/internal/charts"
	"platform.lab/lab/internal/machine/container"
	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/progress"
	"platform.lab/lab/internal/world"
)

// options are the flags that several commands share.
type options struct {
	project, state, stackFile  string
	charts, plugins, out, site string
	hosts, programs            string
	join, quiet, browse        bool
	simulation                 world.Options
}

// firstWorld is where a world lies when nobody says where; the next ones lie beside it.
var firstWorld = filepath.Join(".lab", "world")

// running is the world that is meant: the named one, or the only one that runs.
func (o *options) running() (world.Layout, error) {
	if o.state != "" {
		state, err := filepath.Abs(o.state)
		return world.Layout{Root: state}, err
	}
	first, err := filepath.Abs(firstWorld)
	if err != nil {
		return world.Layout{}, err
	}
	switch found := (world.Layout{Root: first}).RunningBeside(); len(found) {
	case 0:
		return world.Layout{}, fmt.Errorf("no world runs in %s or beside it; `lab up` starts one, and so do `lab run` and `lab shell` without --join", first)
	case 1:
		return found[0], nil
	default:
		text := "several worlds run; say which with --state:"
		for _, one := range found {
			text += fmt.Sprintf("\n  --state %s: %s", one.Root, one.Describe())
		}
		return world.Layout{}, errors.New(text)
	}
}

// claim takes a folder for a world of its own: the named one, or the first that no world has.
func (o *options) claim() (world.Layout, error) {
	if o.state != "" {
		state, err := filepath.Abs(o.state)
		if err != nil {
			return world.Layout{}, err
		}
		l := world.Layout{Root: state}
		if err = world.Claim(l); errors.Is(err, world.ErrTaken) {
			err = fmt.Errorf("%w\nenter it with --join, or leave --state out for a world of its own", err)
		}
		return l, err
	}
	first, err := filepath.Abs(firstWorld)
	if err != nil {
		return world.Layout{}, err
	}
	for n := 1; ; n++ {
		l := world.Layout{Root: first}.Beside(n)
		err := world.Claim(l)
		if !errors.Is(err, world.ErrTaken) {
			return l, err
		}
		o.say("%v; this one is another, in %s", err, world.Layout{Root: first}.Beside(n+1).Root)
	}
}

func (o *options) say(format string, args ...any) {
	if !o.quiet {
		fmt.Fprintf(os.Stderr, "lab: "+format+"\n", args...)
	}
}

// lab runs a command of the lab itself; the answer is the exit code.
func lab(ctx context.Context, args []string) (int, error) {
	o, code := &options{}, 0
	root := &cobra.Command{
		Use: "lab", Short: "A datacenter in a box: run the unchanged stack file without a datacenter",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.PersistentFlags().StringVar(&o.project, "project", ".", "folder of Pulumi.yaml")
	root.PersistentFlags().StringVar(&o.state, "state", os.Getenv("LAB_WORLD"), "folder of the world (default .lab/world, or one beside it when that is taken)")
	root.AddCommand(buildCommand(o), runCommand(o, &code), shellCommand(o, &code), upCommand(o, &code), statusCommand(o), chartsCommand(o), renderCommand(o))
	root.AddCommand(hiddenCommands(&code)...)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return code, err
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func buildCommand(o *options) *cobra.Command {
	only, pods := false, ""
	var chosen programs.Selection
	c := &cobra.Command{
		Use: "build", Short: "Build the real programs (engine, etcd, Kubernetes, talosctl, Helm, KWOK, MetalLB) and the chart packages from their modules",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			project, err := filepath.Abs(o.project)
			if err != nil {
				return err
			}
			bin, err := bin()
			if err != nil {
				return err
			}
			source, err := programs.Source(bin, os.Getenv("LAB_BUILD"))
			if err != nil {
				return err
			}
			builder := &programs.Builder{
				Lab: filepath.Join(project, "lab"), Bin: bin, Go: envOr("GO", "go"), Source: source, Display: progress.New(os.Stderr),
			}
			packager := &charts.Builder{
				Lab: builder.Lab, Bin: bin, Cache: o.charts, Display: builder.Display,
				Module: func(folder, module string) (dir, version string, err error) {
					return builder.Module(c.Context(), folder, module)
				},
			}
			if !only {
				if err := world.CheckPrograms(pods); err != nil {
					return err
				}
				chosen.Pods = pods == world.ProgramsReal
				wanted, err := programs.Selected(builder.Lab, chosen)
				if err != nil {
					return err
				}
				if err := builder.Build(c.Context(), wanted); err != nil {
					return err
				}
				if err := programs.KeepSource(bin, source); err != nil {
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
	c.Flags().StringVar(&pods, "programs", envOr("LAB_PROGRAMS", world.ProgramsReal), "pods: simulated, or real: also build the programs that they run as processes")
	c.Flags().BoolVar(&chosen.Omni, "omni", false, "also build omnictl, for clusters that Sidero Omni manages")
	c.Flags().BoolVar(&chosen.Watching, "watching", false, "also build what watches the platform (VictoriaMetrics, vmalert, Alertmanager, VictoriaLogs, vlagent)")
	c.Flags().BoolVar(&chosen.Upgrades, "upgrades", false, "also build the Kubernetes releases that a cluster is upgraded to (lab/tools/kubernetes-*)")
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
	f.DurationVar(&o.simulation.OmniHour, "omni-hour", time.Hour, "how long an hour of the simulated Omni's schedule of backups takes")
	f.StringVar(&o.hosts, "hosts", os.Getenv("LAB_HOSTS"), "how many ESXi hosts the cluster has, those that the settings name among them; left out: as many as machines")
	f.StringVar(&o.plugins, "plugins", envOr("LAB_PLUGINS", "stand-in"), "provider plugins: stand-in, published, or the names of those that are to be the published ones: vsphere,talos")
	f.StringVar(&o.programs, "programs", os.Getenv("LAB_PROGRAMS"), "pods: simulated, or real: those run as processes whose images the lab has the programs of; left out: real, where the kernel can")
	f.StringVar(&o.site, "site", os.Getenv("LAB_SITE"), "folder with what a site has: its authority (authority.pem, with the key) and its Git host's key (ssh-host-key)")
	f.StringArrayVar(&o.simulation.Faults, "fault", nil, "break something on purpose; an unknown fault lists them all")
}

// prepare lays out a world of its own, which ends with this process.
func (o *options) prepare(ctx context.Context) (world.Layout, error) {
	var l world.Layout
	if world.InWorld() {
		return l, errors.New("this is a world already: run the command as it is, or leave the world first")
	}
	err := world.CheckFaults(o.simulation.Faults)
	if err != nil {
		return l, err
	}
	o.simulation.ProgramsAsked = o.programs != ""
	o.simulation.Programs = cmp.Or(o.programs, world.ProgramsReal)
	if err = world.CheckPrograms(o.simulation.Programs); err != nil {
		return l, err
	}
	if l, err = o.claim(); err != nil {
		return l, err
	}
	if o.simulation.PublishedPlugins, err = world.PublishedPlugins(o.plugins); err != nil {
		return l, err
	}
	if o.simulation.Hosts, err = world.CountHosts(o.hosts); err != nil {
		return l, err
	}
	if o.simulation.Site, err = world.ReadSite(o.site); err != nil {
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
	if o.out, err = claimOut(o.out); err != nil {
		return l, err
	}
	_, err = world.Prepare(ctx, l, world.Request{
		Project: project, StackFile: stackFile, Bin: filepath.Dir(self), Out: o.out, Options: o.simulation,
	}, o.say)
	return l, err
}

// claimOut takes the folder for what a command leaves; two commands never write to one.
func claimOut(out string) (string, error) {
	if out == "" {
		return "", nil
	}
	out, err := filepath.Abs(out)
	if err != nil {
		return "", err
	}
	return world.ClaimOut(out)
}

// joinFlags let a command enter a world that runs, instead of one of its own.
func joinFlags(c *cobra.Command, o *options) {
	f := c.Flags()
	f.BoolVar(&o.join, "join", false, "enter the world that runs (which one: --state); it goes on afterwards")
	f.BoolVar(&o.quiet, "quiet", false, "say nothing of the world itself")
	f.StringVar(&o.out, "out", "", "folder for what the command leaves ($LAB_OUT); one beside it when another world writes there")
}

// toJoin is the world to enter. Options that it was started without cannot be set in it.
func (o *options) toJoin(c *cobra.Command) (world.Layout, error) {
	var refused []string
	for _, name := range []string{"stack-file", "boot-delay", "install-delay", "clone-delay", "hosts", "fault", "out", "programs", "omni-hour"} {
		if c.Flags().Changed(name) {
			refused = append(refused, "--"+name)
		}
	}
	l, err := o.running()
	if err != nil {
		return l, err
	}
	if l.Running() == 0 {
		return l, fmt.Errorf("no world runs in %s; leave --join out for one of its own", l.Root)
	}
	// The environment may be that of the one who started it.
	if plugins, err := world.PublishedPlugins(o.plugins); err != nil || !l.HasPlugins(plugins) {
		refused = append(refused, "LAB_PLUGINS="+o.plugins)
	}
	if len(refused) > 0 {
		return l, fmt.Errorf("--join: %s cannot be set in a world that runs already (%s: %s); leave it out, "+
			"or leave --join out for a world of its own", strings.Join(refused, ", "), l.Root, l.Describe())
	}
	o.say("entering the world in %s: %s", l.Root, l.Describe())
	return l, nil
}

func runCommand(o *options, code *int) *cobra.Command {
	c := &cobra.Command{
		Use: "run [flags] -- COMMAND [ARGUMENT...]", Short: "Run a command in a world of its own that ends with it, or with --join in one that runs",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, command []string) error { return o.run(c, code, command, command) },
	}
	simulationFlags(c, o)
	joinFlags(c, o)
	return c
}

func shellCommand(o *options, code *int) *cobra.Command {
	c := &cobra.Command{
		Use: "shell", Short: "A shell in a world of its own that ends with it, or with --join in one that runs", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.browse = true
			return o.run(c, code, []string{"lab", "inside-shell"}, []string{"lab", "inside-shell", "joined"})
		},
	}
	simulationFlags(c, o)
	joinFlags(c, o)
	return c
}

// run runs a command in a world of its own, or the other one in a world that runs.
func (o *options) run(c *cobra.Command, code *int, own, joined []string) error {
	if o.join {
		l, err := o.toJoin(c)
		if err != nil {
			return err
		}
		return world.Join(l, joined)
	}
	l, err := o.prepare(c.Context())
	if err != nil {
		return err
	}
	if o.browse {
		if err := world.Browse(c.Context(), l); err != nil {
			return err
		}
	}
	*code, err = world.Run(l, own)
	return err
}

func upCommand(o *options, code *int) *cobra.Command {
	c := &cobra.Command{
		Use: "up", Short: "Start a world and keep it until Ctrl-C", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := o.prepare(c.Context())
			if err != nil {
				return err
			}
			if err := world.Browse(c.Context(), l); err != nil {
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
			l, err := o.running()
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
			RunE: func(c *cobra.Command, args []string) error {
				return world.Serve(c.Context(), world.Layout{Root: args[0]}, os.NewFile(3, "progress"))
			},
		},
		{
			Use: container.Command, Hidden: true, DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error { return container.Inside() },
		},
		{
			Use: "inside-shell", Hidden: true, DisableFlagParsing: true,
			RunE: func(_ *cobra.Command, args []string) error { return world.Shell(len(args) > 0) },
		},
		{
			Use: "inside-world", Hidden: true, DisableFlagParsing: true,
			RunE: func(_ *cobra.Command, args []string) error {
				return world.Inside(world.Layout{Root: args[0]}, args[1], args[2:])
			},
		},
	}
}
