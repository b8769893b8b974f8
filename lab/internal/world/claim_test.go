package world

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAFolderThatAWorldHasIsRefusedWithWhatItIsFor(t *testing.T) {
	l := Layout{Root: filepath.Join(t.TempDir(), "world")}
	if err := Claim(l); err != nil {
		t.Fatal(err)
	}
	if err := Claim(l); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "about to start") {
		t.Errorf("got %v", err)
	}
	spec := &Spec{StackFile: "/somewhere/Pulumi.prod.yaml", Options: Options{Faults: []string{FaultPassword}, BootDelay: time.Second}}
	if err := errors.Join(l.writeSpec(spec), writeAlive(l, os.Getpid())); err != nil {
		t.Fatal(err)
	}
	err := Claim(l)
	for _, part := range []string{l.Root, "/somewhere/Pulumi.prod.yaml", FaultPassword, "1s", "runs since"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks in: %v", part, err)
		}
	}
}

func TestAFolderIsFreeWhenTheProcessThatClaimedItHasEnded(t *testing.T) {
	if folder := os.Getenv("CLAIM"); folder != "" {
		if err := Claim(Layout{Root: folder}); err != nil {
			t.Fatal(err)
		}
		return
	}
	l := Layout{Root: filepath.Join(t.TempDir(), "world")}
	child := exec.Command(os.Args[0], "-test.run", t.Name())
	child.Env = append(os.Environ(), "CLAIM="+l.Root)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := Claim(l); err != nil {
		t.Error(err)
	}
}

func TestAWorldNeverEmptiesAFolderOfSomethingElse(t *testing.T) {
	l := Layout{Root: t.TempDir()}
	photos := l.path("photos")
	if err := os.Mkdir(photos, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Claim(l); err == nil || !strings.Contains(err.Error(), "photos") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(photos); err != nil {
		t.Error(err)
	}
}

func TestTwoCommandsNeverLeaveTheirReportsInOneFolder(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "out")
	first, err := ClaimOut(folder)
	if err != nil || first != folder {
		t.Errorf("%q, %v", first, err)
	}
	second, err := ClaimOut(folder)
	if err != nil || second != folder+"-2" {
		t.Errorf("%q, %v", second, err)
	}
}
