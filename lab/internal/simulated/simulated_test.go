package simulated

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run calls the script in the place of talosctl; the real program writes its arguments, one a line.
func run(t *testing.T, arguments ...string) (output string, failed bool) {
	t.Helper()

	folder := t.TempDir()
	real := filepath.Join(folder, "it's real")

	for path, text := range map[string]string{real: "#!/bin/sh\nprintf '%s\\n' \"$@\"\n", filepath.Join(folder, "talosctl"): Talosctl(real)} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	command := exec.CommandContext(t.Context(), filepath.Join(folder, "talosctl"), arguments...)
	command.Env = append(os.Environ(), "LAB_WORLD=/the/world")
	text, err := command.CombinedOutput()

	return string(text), err != nil
}

func TestTalosctlGetsItsArgumentsUnchanged(t *testing.T) {
	arguments := []string{"-n", "cluster", "--nodes=support", "get", "conformance", "a b", "", "*"}
	if got, failed := run(t, arguments...); failed || got != strings.Join(arguments, "\n")+"\n" {
		t.Errorf("%v %q", failed, got)
	}
}

func TestCommandsThatNeedAMachineOfTheirOwnSaySo(t *testing.T) {
	for name := range commands {
		if got, failed := run(t, "--context", "prod", name, "create"); !failed || !strings.HasPrefix(got, "talosctl: "+Mark) || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %v %q", name, failed, got)
		}
	}
}

func TestATalosctlOfAnotherLineIsNamedSo(t *testing.T) {
	if got, _ := run(t, "version", "--client", "--short"); got != "version\n--client\n--short\n" {
		t.Errorf("%q", got)
	}

	t.Setenv("LAB_TALOSCTL_SAYS", "v1.14.1")

	if got, failed := run(t, "version", "--client", "--short"); failed || got != "Talos v1.14.1 (simulated: the lab's talosctl says so)\n" {
		t.Errorf("%v %q", failed, got)
	}

	if got, _ := run(t, "version", "--nodes", "1.2.3.4"); got != "version\n--nodes\n1.2.3.4\n" {
		t.Errorf("%q", got)
	}
}

func TestASupportBundleGoesIntoTheWorldUnlessAPlaceIsGiven(t *testing.T) {
	if got, _ := run(t, "-n", "1.2.3.4", "support"); !strings.Contains(got, "support\n--output\n/the/world/support-") {
		t.Errorf("%q", got)
	}

	if got, _ := run(t, "support", "-O", "mine.zip"); got != "support\n-O\nmine.zip\n" {
		t.Errorf("%q", got)
	}
}

func TestEveryAnswerIsOneSentenceWithAWayOn(t *testing.T) {
	answers := []string{Pod("logs"), StaticPod("exec"), Ingress(), Kubelet("/nothing"), Resource("Links"), Method("/machine.MachineService/Unheard")}

	for name := range methods {
		answers = append(answers, Method("/"+name))
	}

	for _, name := range Tools() {
		answer, ok := Tool(name)
		if !ok {
			t.Errorf("%s: not known", name)
		}

		answers = append(answers, answer)
	}

	for _, answer := range answers {
		if !strings.HasPrefix(answer, Mark) || !strings.Contains(answer, "; ") || strings.Contains(answer, "\n") {
			t.Errorf("%q", answer)
		}
	}

	if answer, ok := Tool("lab"); ok {
		t.Errorf("lab: %q", answer)
	}
}
