// Package gitserver serves the project's own GitOps folders as a Git repository, read-only, over
// Git's smart HTTP protocol: the lab's stand-in for where the platform's repository really lives.
//
// The repository is made of the folders as they lie there now, committed or not: a rehearsal is of
// what the operator is about to push. Equal content is an equal commit.
package gitserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Folders are what Argo CD reads of the project.
var Folders = []string{"apps", "bootstrap", "clusters", "platform"}

// commitID is the form of a commit's name: no branch can be given one that was made elsewhere.
var commitID = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// author and date of the only commit are fixed, so that its name follows from its content.
const (
	author = "Lab (simulation)"
	email  = "lab@localhost"
	date   = "2000-01-01T00:00:00Z"
)

// Options say what to serve, and as what.
type Options struct {
	Project  string    // folder that holds Folders
	Dir      string    // folder to make the bare repository in; it must not exist
	URL      string    // the repository's URL; only its path matters here, with or without .git
	Revision string    // the branch that is followed
	Log      io.Writer // for what Git says; nil discards it
}

// Server is an http.Handler for one repository.
type Server struct {
	// Commit is the name of the only commit.
	Commit string

	path    string // of the URL, without .git
	dir     string
	backend http.Handler
}

// Available says whether Git can serve: it is the only program that the lab does not build.
func Available() error {
	_, err := backendPath()
	return err
}

// New makes the repository.
func New(ctx context.Context, o Options) (*Server, error) {
	backend, err := backendPath()
	if err != nil {
		return nil, err
	}
	location, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("platform:services.argocd.repositoryUrl: %w", err)
	}
	r := repository{dir: o.Dir, project: o.Project}
	commit, err := r.create(ctx, o.Revision)
	if err != nil {
		return nil, err
	}
	s := &Server{Commit: commit, dir: o.Dir, path: strings.TrimSuffix(strings.TrimSuffix(location.Path, "/"), ".git")}
	s.backend = &cgi.Handler{
		Path: backend, Dir: o.Dir, Env: append(environment(o.Dir), "GIT_PROJECT_ROOT="+o.Dir, "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: log(o.Log),
	}
	return s, nil
}

// Name is OWNER/NAME, as a Git host calls the repository.
func (s *Server) Name() string { return strings.Trim(s.path, "/") }

// HasCommit says whether the repository has a commit of that name.
func (s *Server) HasCommit(id string) bool {
	if !commitID.MatchString(id) {
		return false
	}
	_, err := repository{dir: s.dir, project: s.dir}.git(context.Background(), "--git-dir", s.dir, "cat-file", "-e", id+"^{commit}")
	return err == nil
}

// BranchOf is the first branch that has a commit; "" when none has it.
func (s *Server) BranchOf(id string) string {
	if !commitID.MatchString(id) {
		return ""
	}
	names, err := repository{dir: s.dir, project: s.dir}.git(context.Background(), "--git-dir", s.dir, "for-each-ref", "--contains", id, "--format=%(refname:lstrip=2)", "refs/heads")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(names, "\n")
	return first
}

// ServeHTTP implements http.Handler: it answers what a clone and a fetch ask, and nothing else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ours := strings.CutPrefix(r.URL.Path, s.path)
	rest = strings.TrimPrefix(rest, ".git")
	service := r.URL.Query().Get("service")
	switch {
	case ours && r.Method == http.MethodGet && rest == "/info/refs" && service == "git-upload-pack",
		ours && r.Method == http.MethodPost && rest == "/git-upload-pack":
		inside := r.Clone(r.Context())
		inside.URL.Path, inside.URL.RawPath = rest, ""
		s.backend.ServeHTTP(w, inside)
	case ours && (service == "git-receive-pack" || rest == "/git-receive-pack"):
		http.Error(w, "the lab's repository is made from the project's folders: change them, and start the world again", http.StatusForbidden)
	default:
		http.Error(w, "the lab serves one repository: "+s.path, http.StatusNotFound)
	}
}

// backendPath finds Git's own server for HTTP.
func backendPath() (string, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return "", errors.New("missing tool: git is not on PATH; install it with the system's package manager")
	}
	out, err := exec.Command(git, "--exec-path").Output()
	if err != nil {
		return "", fmt.Errorf("git --exec-path: %w", err)
	}
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		return "", fmt.Errorf("missing tool: %s is not there; install all of git with the system's package manager", backend)
	}
	return backend, nil
}

// repository is a bare repository with one commit.
type repository struct{ dir, project string }

func (r repository) create(ctx context.Context, branch string) (string, error) {
	if commitID.MatchString(branch) {
		return "", fmt.Errorf("platform:services.argocd.revision = %q: the lab makes a commit of its own, of another name; give a branch", branch)
	}
	for _, folder := range Folders {
		if _, err := os.Stat(filepath.Join(r.project, folder)); err != nil {
			return "", fmt.Errorf("what Argo CD reads is not whole: %w", err)
		}
	}
	if _, err := r.git(ctx, "check-ref-format", "--branch", branch); err != nil {
		return "", fmt.Errorf("platform:services.argocd.revision = %q: not a branch's name", branch)
	}
	if _, err := r.git(ctx, "init", "--quiet", "--bare", "--initial-branch="+branch, r.dir); err != nil {
		return "", err
	}
	if _, err := r.git(ctx, append([]string{"--git-dir", r.dir, "--work-tree", r.project, "add", "--"}, Folders...)...); err != nil {
		return "", err
	}
	tree, err := r.git(ctx, "--git-dir", r.dir, "write-tree")
	if err != nil {
		return "", err
	}
	commit, err := r.git(ctx, "--git-dir", r.dir, "commit-tree", "-m", "The project's folders, as the lab found them", tree)
	if err != nil {
		return "", err
	}
	_, err = r.git(ctx, "--git-dir", r.dir, "update-ref", "refs/heads/"+branch, commit)
	return commit, err
}

// git runs Git in the project's folder; it answers its output without the last newline.
func (r repository) git(ctx context.Context, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, "git", arguments...)
	command.Dir, command.Env = r.project, append(environment(r.dir), "PATH="+os.Getenv("PATH"))
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// environment keeps the operator's own settings of Git, and a surrounding repository, out.
func environment(home string) []string {
	return []string{
		"HOME=" + home, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		// The servers of a world run as another user than the one who made its folder.
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		"GIT_AUTHOR_NAME=" + author, "GIT_AUTHOR_EMAIL=" + email, "GIT_AUTHOR_DATE=" + date,
		"GIT_COMMITTER_NAME=" + author, "GIT_COMMITTER_EMAIL=" + email, "GIT_COMMITTER_DATE=" + date,
	}
}

func log(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
