// Package languagehost stands in for pulumi-language-python, which comes only with the CLI's own
// release archive: it runs the Python program and tells the engine which plugins it needs.
//
// The protocol is LanguageRuntime of the Pulumi SDK; the Python side of it
// (pulumi-language-python-exec) is read from the SDK's module at build time.
package languagehost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/rpcutil"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"github.com/pulumi/pulumi/sdk/v3/python/toolchain"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"platform.lab/lab/internal/plugins"
)

// execScript is the SDK's Python entry point; the lab puts it beside the host.
const execScript = "pulumi-language-python-exec"

// exitAlreadyShown is the exit code of a Python program that has shown its error itself.
const exitAlreadyShown = 32

// host answers the engine for one run of the CLI.
type host struct {
	pulumirpc.UnimplementedLanguageRuntimeServer
	version      string
	engine       string // address of the engine's gRPC server
	cancellation *plugins.Cancellation
}

func newHost(version, engine string) *host {
	return &host{version: version, engine: engine, cancellation: plugins.NewCancellation()}
}

// graceOfPrograms is what a program gets between the interrupt and the kill, as Pulumi's own host has it.
const graceOfPrograms = 5 * time.Second

// Main serves the host until the engine goes away; the port is the first line on stdout.
func Main(ctx context.Context, version string, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	engine := lastBareArgument(args)
	if engine != "" {
		if err := rpcutil.Healthcheck(ctx, engine, 5*time.Minute, stop); err != nil {
			return fmt.Errorf("engine at %s: %w", engine, err)
		}
	}
	cancel := make(chan bool)
	go func() { <-ctx.Done(); close(cancel) }()
	handle, err := rpcutil.ServeWithOptions(rpcutil.ServeOptions{
		Cancel: cancel,
		Init: func(s *grpc.Server) error {
			pulumirpc.RegisterLanguageRuntimeServer(s, newHost(version, engine))
			return nil
		},
		Options: rpcutil.TracingServerInterceptorOptions(nil),
	})
	if err != nil {
		return err
	}
	fmt.Println(handle.Port)
	return <-handle.Done
}

// lastBareArgument is the engine's address; the options before it (-root, -options) are repeated
// in every request.
func lastBareArgument(args []string) string {
	last := ""
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			last = a
		}
	}
	return last
}

func toolchainOf(info *pulumirpc.ProgramInfo) (toolchain.Toolchain, error) {
	options := toolchain.PythonOptions{Root: info.GetRootDirectory(), ProgramDir: info.GetProgramDirectory()}
	given := info.GetOptions().AsMap()
	options.Virtualenv, _ = given["virtualenv"].(string)
	switch name := given["toolchain"]; name {
	case nil, "pip":
		options.Toolchain = toolchain.Pip
	case "uv":
		options.Toolchain = toolchain.Uv
	default:
		return nil, fmt.Errorf("runtime.options.toolchain in Pulumi.yaml is %v; this host knows pip and uv", name)
	}
	return toolchain.ResolveToolchain(options)
}

func (h *host) Handshake(_ context.Context, r *pulumirpc.LanguageHandshakeRequest) (*pulumirpc.LanguageHandshakeResponse, error) {
	h.engine = r.GetEngineAddress()
	return &pulumirpc.LanguageHandshakeResponse{}, nil
}

func (h *host) GetPluginInfo(context.Context, *emptypb.Empty) (*pulumirpc.PluginInfo, error) {
	return &pulumirpc.PluginInfo{Version: h.version}, nil
}

// resourcePlugins reads the pulumi-plugin.json of every package in the virtual environment.
func resourcePlugins(ctx context.Context, info *pulumirpc.ProgramInfo) ([]*plugin.PulumiPluginJSON, error) {
	tc, err := toolchainOf(info)
	if err != nil {
		return nil, err
	}
	venv, err := tc.VirtualEnvPath(ctx)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(venv, "lib", "python3*", "site-packages", "*", "pulumi-plugin.json"))
	if err != nil {
		return nil, err
	}
	var found []*plugin.PulumiPluginJSON
	for _, f := range files {
		p, err := plugin.LoadPulumiPluginJSON(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		if p.Resource {
			found = append(found, p)
		}
	}
	return found, nil
}

func (h *host) GetRequiredPackages(ctx context.Context, r *pulumirpc.GetRequiredPackagesRequest) (*pulumirpc.GetRequiredPackagesResponse, error) {
	plugins, err := resourcePlugins(ctx, r.GetInfo())
	if err != nil {
		return nil, err
	}
	out := &pulumirpc.GetRequiredPackagesResponse{}
	for _, p := range plugins {
		out.Packages = append(out.Packages, &pulumirpc.PackageDependency{
			Name: p.Name, Kind: "resource", Version: "v" + p.Version, Server: p.Server,
		})
	}
	return out, nil
}

func (h *host) GetRequiredPlugins(ctx context.Context, r *pulumirpc.GetRequiredPluginsRequest) (*pulumirpc.GetRequiredPluginsResponse, error) {
	plugins, err := resourcePlugins(ctx, r.GetInfo())
	if err != nil {
		return nil, err
	}
	out := &pulumirpc.GetRequiredPluginsResponse{}
	for _, p := range plugins {
		out.Plugins = append(out.Plugins, &pulumirpc.PluginDependency{
			Name: p.Name, Kind: "resource", Version: "v" + p.Version, Server: p.Server,
		})
	}
	return out, nil
}

// Run executes the program once and waits for its end.
func (h *host) Run(ctx context.Context, r *pulumirpc.RunRequest) (*pulumirpc.RunResponse, error) {
	tc, err := toolchainOf(r.GetInfo())
	if err != nil {
		return nil, err
	}
	argv, err := h.runArguments(r)
	if err != nil {
		return nil, err
	}
	// A Ctrl-C reaches the command line only, which tells its plugins: they are process groups of their own.
	running, stop := h.cancellation.Bind(ctx)
	defer stop()
	cmd, err := tc.Command(running, argv...)
	if err != nil {
		return nil, err
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = graceOfPrograms
	values, err := json.Marshal(nonNil(r.GetConfig()))
	if err != nil {
		return nil, err
	}
	secretKeys, err := json.Marshal(append([]string{}, r.GetConfigSecretKeys()...))
	if err != nil {
		return nil, err
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "PULUMI_CONFIG="+string(values), "PULUMI_CONFIG_SECRET_KEYS="+string(secretKeys))
	cmd.Dir = r.GetInfo().GetProgramDirectory()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr

	code, err := exitCode(cmd.Run())
	switch {
	case running.Err() != nil: // the engine asked for it, and knows
		return &pulumirpc.RunResponse{Bail: true}, nil
	case err != nil:
		return nil, fmt.Errorf("the Python program could not be started: %w", err)
	case code == exitAlreadyShown:
		return &pulumirpc.RunResponse{Bail: true}, nil
	case code != 0:
		return &pulumirpc.RunResponse{Error: fmt.Sprintf("Program exited with non-zero exit code: %d", code)}, nil
	}
	return &pulumirpc.RunResponse{}, nil
}

func (h *host) runArguments(r *pulumirpc.RunRequest) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	argv := []string{"-u", filepath.Join(filepath.Dir(self), execScript)}
	for _, option := range []struct{ name, value string }{
		{"monitor", r.GetMonitorAddress()},
		{"engine", h.engine},
		{"project", r.GetProject()},
		{"root_directory", r.GetInfo().GetRootDirectory()},
		{"stack", r.GetStack()},
		{"pwd", r.GetPwd()},
		{"dry_run", fmt.Sprint(r.GetDryRun())},
		{"parallel", fmt.Sprint(r.GetParallel())},
		{"organization", r.GetOrganization()},
	} {
		if option.value != "" {
			argv = append(argv, "--"+option.name, option.value)
		}
	}
	return append(append(argv, r.GetInfo().GetEntryPoint()), r.GetArgs()...), nil
}

func nonNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// exitCode tells a program that failed from one that could not run at all.
func exitCode(err error) (int, error) {
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return failed.ExitCode(), nil
	}
	return 0, err
}

func (h *host) InstallDependencies(r *pulumirpc.InstallDependenciesRequest, s pulumirpc.LanguageRuntime_InstallDependenciesServer) error {
	closer, stdout, stderr, err := rpcutil.MakeInstallDependenciesStreams(s, r.GetIsTerminal())
	if err != nil {
		return err
	}
	defer closer.Close()
	tc, err := toolchainOf(r.GetInfo())
	if err != nil {
		return err
	}
	return tc.InstallDependencies(s.Context(), r.GetInfo().GetProgramDirectory(), false, true, stdout, stderr)
}

func (h *host) About(ctx context.Context, r *pulumirpc.AboutRequest) (*pulumirpc.AboutResponse, error) {
	tc, err := toolchainOf(r.GetInfo())
	if err != nil {
		return nil, err
	}
	about, err := tc.About(ctx)
	if err != nil {
		return nil, err
	}
	return &pulumirpc.AboutResponse{Executable: about.PythonExecutable, Version: about.PythonVersion.String()}, nil
}

func (h *host) GetProgramDependencies(ctx context.Context, r *pulumirpc.GetProgramDependenciesRequest) (*pulumirpc.GetProgramDependenciesResponse, error) {
	tc, err := toolchainOf(r.GetInfo())
	if err != nil {
		return nil, err
	}
	packages, err := tc.ListPackages(ctx, r.GetTransitiveDependencies())
	if err != nil {
		return nil, err
	}
	out := &pulumirpc.GetProgramDependenciesResponse{}
	for _, p := range packages {
		out.Dependencies = append(out.Dependencies, &pulumirpc.DependencyInfo{Name: p.Name, Version: p.Version})
	}
	return out, nil
}

// RunPlugin runs a plugin written in Python until the engine hangs up; its first line on stdout is
// the port that the engine calls.
func (h *host) RunPlugin(r *pulumirpc.RunPluginRequest, s pulumirpc.LanguageRuntime_RunPluginServer) error {
	closer, stdout, stderr, err := rpcutil.MakeRunPluginStreams(s, false)
	if err != nil {
		return err
	}
	defer closer.Close()
	cmd, err := pluginCommand(s.Context(), r)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	code, err := exitCode(cmd.Run())
	if err != nil {
		return fmt.Errorf("the Python plugin in %s could not be started: %w", r.GetInfo().GetProgramDirectory(), err)
	}
	return s.Send(&pulumirpc.RunPluginResponse{Output: &pulumirpc.RunPluginResponse_Exitcode{Exitcode: int32(code)}}) //nolint:gosec // a byte
}

// analyzer is the kind of a policy pack: its folder is run by a module of the SDK, which takes the
// engine's address first.
const analyzer = "analyzer"

func pluginCommand(ctx context.Context, r *pulumirpc.RunPluginRequest) (*exec.Cmd, error) {
	tc, err := toolchainOf(r.GetInfo())
	if err != nil {
		return nil, err
	}
	program := r.GetInfo().GetProgramDirectory()
	argv := append([]string{"-u", program}, r.GetArgs()...)
	if r.GetKind() == analyzer {
		argv = append(append([]string{"-u", "-m", "pulumi.policy"}, r.GetArgs()...), program)
	}
	cmd, err := tc.Command(ctx, argv...)
	if err != nil {
		return nil, err
	}
	if len(r.GetEnv()) > 0 {
		venv, err := tc.VirtualEnvPath(ctx)
		if err != nil {
			return nil, err
		}
		cmd.Env = toolchain.ActivateVirtualEnv(r.GetEnv(), venv)
	}
	cmd.Dir = r.GetPwd()
	// A pipe that a child of the plugin keeps open must not keep the engine waiting.
	cmd.WaitDelay = time.Second
	return cmd, nil
}

func (h *host) RuntimeOptionsPrompts(context.Context, *pulumirpc.RuntimeOptionsRequest) (*pulumirpc.RuntimeOptionsResponse, error) {
	return &pulumirpc.RuntimeOptionsResponse{}, nil
}

// Cancel interrupts the program that runs; the engine calls it at the first Ctrl-C.
func (h *host) Cancel(ctx context.Context, _ *emptypb.Empty) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, h.cancellation.Cancel(ctx)
}
