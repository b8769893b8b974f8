package languagehost

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
)

// stream keeps what the host tells the engine of a plugin.
type stream struct {
	grpc.ServerStream
	ctx      context.Context
	mutex    sync.Mutex
	stdout   bytes.Buffer
	stderr   bytes.Buffer
	exitCode *int32
	port     func() // called at the first output
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(r *pulumirpc.RunPluginResponse) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	switch output := r.Output.(type) {
	case *pulumirpc.RunPluginResponse_Stdout:
		s.stdout.Write(output.Stdout)
		if s.port != nil {
			s.port()
		}
	case *pulumirpc.RunPluginResponse_Stderr:
		s.stderr.Write(output.Stderr)
	case *pulumirpc.RunPluginResponse_Exitcode:
		s.exitCode = &output.Exitcode
	}
	return s.ctx.Err()
}

// pack makes a folder with a virtual environment beside it, whose Python is a shell script.
func pack(t *testing.T, script string) *pulumirpc.ProgramInfo {
	t.Helper()
	project := t.TempDir()
	folder := filepath.Join(project, "policies")
	bin := filepath.Join(project, ".venv", "bin")
	for _, dir := range []string{folder, bin} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		filepath.Join(bin, "python"):                  "#!/bin/sh\n" + script,
		filepath.Join(project, ".venv", "pyvenv.cfg"): "",
	} {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options, err := structpb.NewStruct(map[string]any{"virtualenv": "../.venv"})
	if err != nil {
		t.Fatal(err)
	}
	return &pulumirpc.ProgramInfo{RootDirectory: folder, ProgramDirectory: folder, EntryPoint: ".", Options: options}
}

func TestAPolicyPackIsRunByTheSDKsModuleInTheProjectsVirtualEnvironment(t *testing.T) {
	info := pack(t, `echo 4711
printf '%s|' "$@" "$(pwd)" "$VIRTUAL_ENV" "$TOLD"
echo careful >&2
exit 3
`)
	pwd := t.TempDir()
	s := &stream{ctx: t.Context()}
	err := (&host{}).RunPlugin(&pulumirpc.RunPluginRequest{
		Kind: "analyzer",
		Args: []string{"127.0.0.1:99"},
		Env:  []string{"PATH=" + os.Getenv("PATH"), "TOLD=by the engine"},
		Pwd:  pwd,
		Info: info,
	}, s)
	if err != nil {
		t.Fatal(err)
	}
	folder := info.GetProgramDirectory()
	venv := filepath.Join(filepath.Dir(folder), ".venv")
	port, rest, _ := strings.Cut(s.stdout.String(), "\n")
	want := strings.Join([]string{"-u", "-m", "pulumi.policy", "127.0.0.1:99", folder, pwd, venv, "by the engine", ""}, "|")
	if port != "4711" || rest != want {
		t.Errorf("stdout is %q and %q, want the port and %q", port, rest, want)
	}
	if s.stderr.String() != "careful\n" {
		t.Errorf("stderr is %q", s.stderr.String())
	}
	if s.exitCode == nil || *s.exitCode != 3 {
		t.Errorf("exit code is %v, want 3", s.exitCode)
	}
}

func TestAnotherPluginIsRunAsAProgram(t *testing.T) {
	info := pack(t, `printf '%s|' "$@"`)
	s := &stream{ctx: t.Context()}
	err := (&host{}).RunPlugin(&pulumirpc.RunPluginRequest{Kind: "resource", Args: []string{"a"}, Pwd: t.TempDir(), Info: info}, s)
	if err != nil {
		t.Fatal(err)
	}
	if want := "-u|" + info.GetProgramDirectory() + "|a|"; s.stdout.String() != want {
		t.Errorf("stdout is %q, want %q", s.stdout.String(), want)
	}
}

func TestAPolicyPackEndsWhenTheEngineHangsUp(t *testing.T) {
	info := pack(t, "echo $$\nexec sleep 3600\n")
	ctx, hangUp := context.WithCancel(t.Context())
	s := &stream{ctx: ctx, port: hangUp}
	// Returns at all: the plugin would sleep for an hour.
	_ = (&host{}).RunPlugin(&pulumirpc.RunPluginRequest{Kind: "analyzer", Pwd: t.TempDir(), Info: info}, s)
	pid := strings.TrimSpace(s.stdout.String())
	if pid == "" {
		t.Fatal("the plugin never began")
	}
	if _, err := os.Stat("/proc/" + pid); err == nil {
		t.Errorf("process %s lives on", pid)
	}
}

func TestAPolicyPackThatCannotBeStartedSaysWhere(t *testing.T) {
	info := pack(t, "")
	if err := os.RemoveAll(filepath.Join(filepath.Dir(info.GetProgramDirectory()), ".venv", "bin")); err != nil {
		t.Fatal(err)
	}
	err := (&host{}).RunPlugin(&pulumirpc.RunPluginRequest{Kind: "analyzer", Info: info}, &stream{ctx: t.Context()})
	if err == nil || !strings.Contains(err.Error(), info.GetProgramDirectory()) {
		t.Errorf("error is %v", err)
	}
}

// program makes a project whose Python is a shell script, and a host that has the script of the SDK beside it.
func program(t *testing.T, script string) *pulumirpc.RunRequest {
	t.Helper()
	info := pack(t, script)
	return &pulumirpc.RunRequest{Info: info, Project: "platform", Stack: "prod", Parallel: 1}
}

func TestACtrlCInterruptsTheProgramAndWaitsForItsEnd(t *testing.T) {
	// A test run in the background ignores a Ctrl-C, and a shell that it starts cannot ask for it.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	t.Cleanup(func() { signal.Reset(os.Interrupt) })
	told := filepath.Join(t.TempDir(), "told")
	request := program(t, `trap 'echo interrupted > `+told+`; exit 32' INT
echo started > `+told+`
while :; do sleep 0.05; done
`)
	h := newHost("v1", "")
	answer := make(chan *pulumirpc.RunResponse, 1)
	go func() {
		response, err := h.Run(t.Context(), request)
		if err != nil {
			t.Error(err)
		}
		answer <- response
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if read, _ := os.ReadFile(told); string(read) == "started\n" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the program has not started")
		}
	}
	if _, err := h.Cancel(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if response := <-answer; !response.GetBail() {
		t.Errorf("the response is %v: the engine knows that it asked for it", response)
	}
	if read, _ := os.ReadFile(told); string(read) != "interrupted\n" {
		t.Errorf("the program was told %q", read)
	}
}
