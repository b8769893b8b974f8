package world

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespaces runs the test again in a user and a mount namespace of its own, like a world's, and
// says whether this is that run.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	if os.Getenv("IN_NAMESPACES") != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		runtime.LockOSThread() // a mount namespace belongs to a thread
		return true
	}
	child := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	// Its folders are removed from here: to itself they are read-only.
	child.Env = append(os.Environ(), "IN_NAMESPACES="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if out, err := child.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// project is a tree with a world in it.
func project(t *testing.T) (string, Layout, *Spec) {
	t.Helper()
	tree, err := filepath.EvalSymlinks(os.Getenv("IN_NAMESPACES"))
	if err != nil {
		t.Fatal(err)
	}
	tree = filepath.Join(tree, "tree")
	l := Layout{Root: filepath.Join(tree, labFolder, "world")}
	for _, folder := range []string{
		l.Private(), l.Out(), filepath.Join(tree, privateFolder), filepath.Join(tree, outFolder), filepath.Join(tree, "docs"),
	} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		projectFile: "name: platform\n", "Pulumi.prod.yaml": "config: {}\n",
	} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tree, l, &Spec{Project: tree, StackFile: filepath.Join(tree, "Pulumi.prod.yaml"), Stack: "prod"}
}

func refused(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("changed"), 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("%s could be written: %v", path, err)
	}
}

func written(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
		t.Error(err)
	}
}

func TestInAWorldTheTreeIsReadOnlyButForWhatIsTheLabs(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	tree, l, spec := project(t)
	if err := protectTree(l, spec); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Pulumi.prod.yaml", projectFile, "new", "docs/new"} {
		refused(t, filepath.Join(tree, name))
	}
	if err := os.Remove(spec.StackFile); err == nil {
		t.Error("the operator's file could be removed")
	}
	written(t, filepath.Join(tree, labFolder, "go-path"))
	written(t, l.path("world.log"))
	// The operator's credentials and reports have the same names: they are not those in the world.
	written(t, filepath.Join(tree, privateFolder, "kubeconfig"))
	written(t, filepath.Join(tree, outFolder, "plan.json"))
	for _, path := range []string{filepath.Join(l.Private(), "kubeconfig"), filepath.Join(l.Out(), "plan.json")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestWireGuardOfAWorldMeetsNoneOfAnotherOne(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	_, l, _ := project(t)
	before, err := os.ReadDir("/var/run")
	if err != nil {
		t.Fatal(err)
	}
	if err := ownRun(l); err != nil {
		t.Fatal(err)
	}
	for _, entry := range before {
		if _, err := os.Lstat(filepath.Join("/var/run", entry.Name())); err != nil {
			t.Errorf("it is no longer there: %v", err)
		}
	}
	if sockets, err := os.ReadDir("/var/run/wireguard"); err != nil || len(sockets) > 0 {
		t.Errorf("%v, %v", sockets, err)
	}
	written(t, "/var/run/wireguard/siderolink.sock")
	if _, err := os.Stat(l.path("run", "wireguard", "siderolink.sock")); err != nil {
		t.Error(err)
	}
}

func TestAStackFileElsewhereIsReadOnlyInAWorldToo(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	_, l, spec := project(t)
	spec.StackFile = filepath.Join(os.Getenv("IN_NAMESPACES"), "Pulumi.prod.yaml")
	written(t, spec.StackFile)
	if err := protectTree(l, spec); err != nil {
		t.Fatal(err)
	}
	refused(t, spec.StackFile)
}

func TestTheEngineGetsTheWorldsProjectFileAndCannotWriteTheOperators(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	tree, l, spec := project(t)
	if err := os.Chdir(filepath.Join(tree, "docs")); err != nil {
		t.Fatal(err)
	}
	if err := hideProject(l, spec, tree); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../" + projectFile)
	if err != nil || !strings.Contains(string(text), "stackConfigDir: .lab/world/settings") {
		t.Errorf("%s, %v", text, err)
	}
	for _, name := range []string{"../" + projectFile, "../Pulumi.prod.yaml", "../Pulumi.new.yaml", "new"} {
		refused(t, name)
	}
	written(t, "../.lab/world/kubeconfig")
}

func TestAPathWithABlankIsFoundAmongTheMounts(t *testing.T) {
	if got := unescape(`/a\040folder/b`); got != "/a folder/b" {
		t.Errorf("got %q", got)
	}
}
