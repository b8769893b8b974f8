package gitserver

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const repositoryURL = "https://git.example.internal/team/platform"

// project is a folder as the operator's, with a change that no commit holds.
func project(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range map[string]string{
		"apps/base/podinfo/deployment.yaml":        "kind: Deployment\n",
		"bootstrap/root.yaml":                      "kind: Application\n",
		"clusters/prod/gitops/argo-cd-values.yaml": "global: {}\n",
		"platform/kustomization.yaml":              "kind: Kustomization\n",
		"Pulumi.prod.yaml":                         "config: {}\n",
	} {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func serve(t *testing.T, root string) (*Server, string) {
	t.Helper()
	s, err := New(context.Background(), Options{
		Project: root, Dir: filepath.Join(t.TempDir(), "repository"), URL: repositoryURL, Revision: "main",
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func git(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	command := exec.Command("git", arguments...)
	command.Env = append(environment(t.TempDir()), "PATH="+os.Getenv("PATH"), "GIT_TERMINAL_PROMPT=0")
	out, err := command.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func TestACloneHoldsTheFoldersAndNothingElse(t *testing.T) {
	root := project(t)
	s, at := serve(t, root)
	for _, path := range []string{"/team/platform", "/team/platform.git"} {
		clone := filepath.Join(t.TempDir(), "clone")
		if out, err := git(t, "clone", "--quiet", at+path, clone); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		commit, err := git(t, "-C", clone, "rev-parse", "refs/remotes/origin/main")
		if err != nil || commit != s.Commit {
			t.Errorf("got %s (%v), want %s", commit, err, s.Commit)
		}
		listed, err := git(t, "-C", clone, "ls-tree", "-r", "--name-only", "HEAD")
		if err != nil {
			t.Fatal(err)
		}
		files := strings.Split(listed, "\n")
		if len(files) != 4 {
			t.Errorf("got %v", files)
		}
		for _, file := range files {
			want, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(clone, file))
			if err != nil || string(got) != string(want) {
				t.Errorf("%s: got %q (%v)", file, got, err)
			}
		}
	}
}

func TestArgoCDsFetchesAreAnswered(t *testing.T) {
	_, at := serve(t, project(t))
	clone := filepath.Join(t.TempDir(), "clone")
	// As Argo CD's repository server does it (argo-cd v3.4.4, util/git/client.go).
	for _, step := range [][]string{
		{"init", "--quiet", clone},
		{"-C", clone, "remote", "add", "origin", at + "/team/platform"},
		{"-C", clone, "fetch", "origin", "main", "--tags", "--force", "--prune"},
		{"-C", clone, "fetch", "origin", "main", "--depth", "1", "--force", "--prune"},
		{"-C", clone, "checkout", "--force", "FETCH_HEAD"},
	} {
		if out, err := git(t, step...); err != nil {
			t.Fatalf("git %v: %v: %s", step, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(clone, "bootstrap", "root.yaml")); err != nil {
		t.Error(err)
	}
}

func TestEqualContentIsAnEqualCommitAndAChangeIsAnother(t *testing.T) {
	root := project(t)
	first, _ := serve(t, root)
	again, _ := serve(t, root)
	if first.Commit != again.Commit {
		t.Errorf("got %s and %s", first.Commit, again.Commit)
	}
	if err := os.WriteFile(filepath.Join(root, "bootstrap", "root.yaml"), []byte("kind: Other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, _ := serve(t, root); changed.Commit == first.Commit {
		t.Error("a changed folder is the same commit")
	}
}

func TestNobodyCanPush(t *testing.T) {
	_, at := serve(t, project(t))
	clone := filepath.Join(t.TempDir(), "clone")
	if out, err := git(t, "clone", "--quiet", at+"/team/platform", clone); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := git(t, "-C", clone, "push", "origin", "HEAD:refs/heads/other"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("got %v: %s", err, out)
	}
}

func TestOtherPathsAreNotFound(t *testing.T) {
	_, at := serve(t, project(t))
	for _, path := range []string{"/team/other/info/refs?service=git-upload-pack", "/team/platform/config", "/team/platform/HEAD", "/"} {
		answer, err := http.Get(at + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "/team/platform") {
			t.Errorf("%s: got %d: %s", path, answer.StatusCode, body)
		}
	}
}

func TestWhatCannotBeServedIsNamed(t *testing.T) {
	for name, one := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"a commit's id":    {func(o *Options) { o.Revision = strings.Repeat("0a", 20) }, "give a branch"},
		"no branch's name": {func(o *Options) { o.Revision = "a..b" }, `"a..b": not a branch's name`},
		"a missing folder": {func(o *Options) { o.Project = t.TempDir() }, "apps: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Project: project(t), Dir: filepath.Join(t.TempDir(), "repository"), URL: repositoryURL, Revision: "main"}
			one.change(&o)
			if _, err := New(context.Background(), o); err == nil || !strings.Contains(err.Error(), one.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestMissingGitIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := Available(); err == nil || !strings.Contains(err.Error(), "missing tool: git") {
		t.Errorf("got %v", err)
	}
}

func TestItKnowsItsCommitsAndNoOthers(t *testing.T) {
	s, _ := serve(t, project(t))

	if !s.HasCommit(s.Commit) {
		t.Error("its own commit")
	}

	tree, err := git(t, "--git-dir", s.dir, "rev-parse", s.Commit+"^{tree}")
	if err != nil {
		t.Fatal(tree)
	}

	for _, other := range []string{strings.Repeat("f", 40), "main", "--all", tree} {
		if s.HasCommit(other) {
			t.Error(other)
		}
	}

	if s.Name() != "team/platform" {
		t.Error(s.Name())
	}
}

func TestACommitIsOnTheBranchesThatHaveIt(t *testing.T) {
	s, _ := serve(t, project(t))

	alone, err := git(t, "--git-dir", s.dir, "-c", "user.name="+author, "-c", "user.email="+email, "commit-tree", "-m", "on no branch", s.Commit+"^{tree}")
	if err != nil {
		t.Fatal(alone)
	}

	for commit, branch := range map[string]string{s.Commit: "main", alone: "", strings.Repeat("f", 40): "", "--all": ""} {
		if got := s.BranchOf(commit); got != branch {
			t.Errorf("%s: %q, not %q", commit, got, branch)
		}
	}

	if out, err := git(t, "--git-dir", s.dir, "branch", "earlier", s.Commit); err != nil {
		t.Fatal(out)
	}

	if got := s.BranchOf(s.Commit); got != "earlier" {
		t.Errorf("%q is not the first by name", got)
	}
}
