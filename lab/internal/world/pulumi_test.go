package world

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func TestOnlyACommandThatIsToChangeTheSettingsIsKeptForLaterOnes(t *testing.T) {
	for command, wanted := range map[string]bool{
		"config set --secret platform:dnsToken": true, "--stack prod config set platform:dnsToken --secret": true,
		"config set platform:x y": true, "config rm platform:x": true, "config cp --dest other": true,
		"stack change-secrets-provider passphrase": true,
		"config get platform:dnsToken":             false, "config": false, "up": false, "logs": false, "refresh": false, "stack history": false,
	} {
		if got := changesSettings(strings.Fields(command)); got != wanted {
			t.Errorf("pulumi %s: %v", command, got)
		}
	}
}

func TestTheCommandIsFoundBehindTheFlagsBeforeIt(t *testing.T) {
	for line, wanted := range map[string]string{
		"up --yes": "up", "--non-interactive destroy": "destroy", "--stack prod up": "up", "stack import": "stack",
		"version": "", "plugin ls": "",
	} {
		if got := commandOf(strings.Fields(line)); got != wanted {
			t.Errorf("pulumi %s: %q", line, got)
		}
	}
}

func TestTheEnginesProjectIsTheNearestOneAboveTheFolderThatItsOptionsName(t *testing.T) {
	tree, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(tree, "docs", "procedures")
	if err := os.MkdirAll(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := findProject(inner); err != nil || got == tree {
		t.Errorf("without a project file: %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(tree, projectFile), []byte("name: platform\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"up", "--cwd", inner}, {"--cwd=" + inner, "up"}, {"-C", inner, "up"}} {
		if got, err := findProject(workingFolder(args)); err != nil || got != tree {
			t.Errorf("%v: %q, %v", args, got, err)
		}
	}
	if ours, err := isOurs(tree); err != nil || !ours {
		t.Errorf("the program's tree: %v, %v", ours, err)
	}
	if err := os.WriteFile(filepath.Join(tree, projectFile), []byte("name: another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ours, err := isOurs(tree); err != nil || ours {
		t.Errorf("another program's tree: %v, %v", ours, err)
	}
}

func TestTheWorldsProjectFileDiffersInWhereTheSettingsLieAndNothingElse(t *testing.T) {
	tree, l := t.TempDir(), Layout{Root: t.TempDir()}
	operators := "# a comment\nname: platform\nruntime: {name: python, options: {virtualenv: .venv}}\nstackConfigDir: elsewhere\n"
	if err := os.WriteFile(filepath.Join(tree, projectFile), []byte(operators), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := writeProjectFile(l, tree)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var was, is map[string]any
	if err := yaml.Unmarshal([]byte(operators), &was); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &is); err != nil {
		t.Fatal(err)
	}
	folder, _ := is["stackConfigDir"].(string)
	if filepath.IsAbs(folder) || filepath.Join(tree, folder) != l.Settings() {
		t.Errorf("the settings lie in %q", folder)
	}
	delete(was, "stackConfigDir")
	delete(is, "stackConfigDir")
	before, _ := yaml.Marshal(was)
	after, _ := yaml.Marshal(is)
	if string(before) != string(after) {
		t.Errorf("also changed:\n%s\n%s", before, after)
	}
}

func TestOptionsThatNameFilesHoldWhereverTheEngineIsStarted(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got, err := absolutePaths([]string{"up", "--policy-pack", "policies", "--save-plan=plan.json", "--yes", "--event-log"})
	wanted := []string{"up", "--policy-pack", filepath.Join(here, "policies"), "--save-plan=" + filepath.Join(here, "plan.json"), "--yes", "--event-log"}
	if err != nil || !slices.Equal(got, wanted) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTheShortOptionsOfAnImportNameFilesAndThoseOfOtherCommandsDoNot(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	list, code := filepath.Join(here, "list.json"), filepath.Join(here, "code.py")
	for _, c := range []struct{ typed, wanted []string }{
		{[]string{"import", "-f", "list.json", "-o", "code.py"}, []string{"import", "-f", list, "-o", code}},
		{[]string{"import", "-f=list.json", "-ocode.py"}, []string{"import", "-f=" + list, "-o=" + code}},
		{[]string{"up", "-f", "list.json"}, []string{"up", "-f", "list.json"}},
		{[]string{"import", "--from", "x"}, []string{"import", "--from", "x"}},
	} {
		got, err := absolutePaths(c.typed)
		if err != nil || !slices.Equal(got, c.wanted) {
			t.Errorf("%v became %v, %v", c.typed, got, err)
		}
	}
}
