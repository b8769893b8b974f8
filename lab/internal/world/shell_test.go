package world

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"platform.lab/lab/internal/stackfile"
)

// hostile is what an operator's own file may say; $1 is a folder with other programs.
const hostile = `
export PATH="$OTHERS:$PATH" KUBECONFIG=$HOME/.kube/production PULUMI_BACKEND_URL=s3://production
alias kubectl='echo an alias of the operator'
pulumi() { echo a function of the operator; }
PS1='operator> '
`

// typed runs a shell as `lab shell` does, types into it and gives all that it shows.
func typed(t *testing.T, shell, input string) string {
	t.Helper()
	home, others := t.TempDir(), t.TempDir()
	l := Layout{Root: filepath.Join(t.TempDir(), "world")}
	spec := &Spec{Stack: "prod", Project: t.TempDir(), Bin: t.TempDir(), Secrets: &stackfile.Secrets{}}
	if err := writeShellFiles(l, spec); err != nil {
		t.Fatal(err)
	}
	for folder, says := range map[string]string{l.Tools(): "the world", others: "the operator"} {
		for _, name := range []string{"pulumi", "kubectl"} {
			if err := os.MkdirAll(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\necho "+name+" of "+says+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{".bashrc", ".bash_profile", ".profile", ".zshrc", ".zprofile"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(hostile), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"HOME=" + home, "OTHERS=" + others, "TERM=dumb", "ENV=" + filepath.Join(home, ".profile"), "PATH=" + os.Getenv("PATH")}
	for name, value := range ownEnvironment(l, spec) {
		env = append(env, name+"="+value)
	}
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Fatal(err)
	}
	argv, env, err := shellCommand(l, path, env)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin, cmd.Dir = env, strings.NewReader(input), home
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}

func TestInTheShellOfAWorldItsProgramsComeFirstWhateverTheOperatorsFilesSay(t *testing.T) {
	for shell, inputs := range map[string][]string{
		// The second: another shell in it; a login shell; and PATH as it is typed.
		"bash": {"", "bash -i\n", "bash -l -i\n", "export PATH=$OTHERS:$PATH\n"},
		"zsh":  {"", "zsh -i\n", "export PATH=$OTHERS:$PATH\n"},
		"sh":   {"", "sh -i\n"},
	} {
		if _, err := exec.LookPath(shell); err != nil && shell == "zsh" {
			t.Log("zsh is not on this machine, and not tested")
			continue
		}
		for _, input := range inputs {
			t.Run(shell+" "+strings.TrimSpace(input), func(t *testing.T) {
				out := typed(t, shell, input+"pulumi\nkubectl\necho \"$PULUMI_BACKEND_URL $KUBECONFIG\"\n")
				for _, part := range []string{"pulumi of the world", "kubectl of the world"} {
					if !strings.Contains(out, part) {
						t.Errorf("%q lacks in:\n%s", part, out)
					}
				}
				for _, part := range []string{"of the operator", "s3://production", ".kube/production"} {
					if strings.Contains(out, part) {
						t.Errorf("%q is in:\n%s", part, out)
					}
				}
				if !strings.Contains(out, "(lab prod) ") {
					t.Errorf("no prompt says that this is a world:\n%s", out)
				}
			})
		}
	}
}

func TestAShellThatTheLabDoesNotKnowBecomesOneThatItKnows(t *testing.T) {
	argv, _, err := shellCommand(Layout{Root: "/world"}, "/usr/bin/fish", os.Environ())
	if err != nil || filepath.Base(argv[0]) != "bash" || argv[1] != "--rcfile" {
		t.Errorf("%v, %v", argv, err)
	}
}

func TestTheGreetingSaysWhatIsThereWhatToTryAndHowToLeave(t *testing.T) {
	var out bytes.Buffer
	spec := &Spec{Stack: "prod", StackFile: "/tree/Pulumi.prod.yaml"}
	greet(&out, Layout{Root: "/world"}, spec, false)
	for _, part := range []string{"/tree/Pulumi.prod.yaml", "pulumi preview", "read-only", "Ctrl-D", "the world ends"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q lacks in:\n%s", part, out.String())
		}
	}
	out.Reset()
	greet(&out, Layout{Root: "/world"}, spec, true)
	if !strings.Contains(out.String(), "the world keeps running") {
		t.Errorf("whoever joined is told:\n%s", out.String())
	}
}

func TestTheGreetingUnderOmniSpeaksOfOmnictl(t *testing.T) {
	for omni, parts := range map[*Omni][2]string{nil: {"talosconfig", "omnictl"}, {}: {"omnictl", "talosconfig"}} {
		var out bytes.Buffer
		greet(&out, Layout{Root: "/world"}, &Spec{Stack: "omni", Settings: Settings{Omni: omni}}, false)
		if there, absent := parts[0], parts[1]; !strings.Contains(out.String(), there) || strings.Contains(out.String(), absent) {
			t.Errorf("%q lacks, or %q is in:\n%s", there, absent, out.String())
		}
	}
}

func TestOmnictlInAWorldIsOfThePersonWhoRunsOmni(t *testing.T) {
	l := Layout{Root: t.TempDir()}
	spec := &Spec{Secrets: &stackfile.Secrets{}, Settings: Settings{Omni: &Omni{Endpoint: "https://omni.example.internal"}}}
	t.Setenv("SIDERO_SERVICE_ACCOUNT_KEY", "the operator's")
	t.Setenv("OMNI_SERVICE_ACCOUNT_KEY", "the operator's")
	if err := os.WriteFile(l.omniOwner(), []byte("the world's"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := strings.Join(environment(l, spec), "\n") + "\n"
	for _, pair := range []string{"OMNI_ENDPOINT=https://omni.example.internal\n", "OMNI_SERVICE_ACCOUNT_KEY=the world's\n"} {
		if !strings.Contains(env, pair) {
			t.Errorf("%q is not in the environment", pair)
		}
	}
	if strings.Contains(env, "the operator's") {
		t.Error("a key of the operator's is in the environment")
	}
}
