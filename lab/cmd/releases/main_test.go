package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/progress"
	"platform.lab/lab/internal/releases"
)

// site is a command whose vendors are a server of this computer, and what it says.
type site struct {
	*command

	said  *strings.Builder
	asked *atomic.Int64
}

// newSite answers for files as serve does, and for every file of checksums with the digest of "the program".
func newSite(t *testing.T, source string, serve http.HandlerFunc) site {
	t.Helper()

	asked, digest := new(atomic.Int64), fmt.Sprintf("%x", sha256.Sum256([]byte("the program")))

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)

		if strings.HasSuffix(r.URL.Path, ".sha256") {
			fmt.Fprint(w, digest)
		} else {
			serve(w, r)
		}
	}))
	t.Cleanup(server.Close)

	project := t.TempDir()
	toolchain := filepath.Join(project, "go")

	script := "#!/bin/sh\ncase \"$1\" in env) echo go1.0 ;; *) echo v1.2.3 ;; esac\n"
	if err := os.WriteFile(toolchain, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}

	// The folders of all programs, with nothing in their files.
	for _, p := range slices.Concat(programs.All(), programs.OfPods(), programs.OfOmni(), programs.OfWatching()) {
		for _, name := range []string{"go.mod", "go.sum"} {
			file := filepath.Join(project, "lab", p.Folder, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}

			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}

	said, bin := new(strings.Builder), t.TempDir()
	display := progress.New(said)

	return site{&command{
		builder: &programs.Builder{Lab: filepath.Join(project, "lab"), Bin: bin, Go: toolchain, Source: source, Display: display},
		fetcher: &releases.Fetcher{Bin: bin, Mirror: server.URL, Patience: patience, Step: display.Step, Say: display.Line},
		lock:    filepath.Join(project, releases.LockFile),
	}, said, asked}
}

// kubernetesOnly serves one file, and has not heard of the others.
func kubernetesOnly(content string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/dl.k8s.io/") {
			http.NotFound(w, r)

			return
		}

		fmt.Fprint(w, content)
	}
}

func TestNobodyIsAskedWhereProgramsAreCompiled(t *testing.T) {
	s := newSite(t, programs.Compiled, kubernetesOnly("the program"))

	if err := s.fetch(t.Context(), programs.Selection{}); err != nil || s.asked.Load() > 0 {
		t.Errorf("%d requests, %v", s.asked.Load(), err)
	}
}

func TestAReleaseThatIsNotThereEndsTheCommandOrIsCompiledAsAskedFor(t *testing.T) {
	s := newSite(t, programs.Releases, kubernetesOnly("the program"))

	err := s.fetch(t.Context(), programs.Selection{})
	if err == nil || !strings.Contains(err.Error(), "/etcd/releases/download/v1.2.3/") || !strings.Contains(err.Error(), "LAB_BUILD=compiled") {
		t.Errorf("it says: %v", err)
	}

	if source, err := programs.Source(s.builder.Bin, ""); source != programs.Compiled {
		t.Errorf("kept for the next time: %s, %v", source, err)
	}

	s = newSite(t, programs.Auto, kubernetesOnly("the program"))
	if err := s.fetch(t.Context(), programs.Selection{}); err != nil {
		t.Error(err)
	}

	for _, wanted := range []string{"etcd is compiled: ", "404 Not Found", "kubectl v1.2.3 is its vendor's release"} {
		if !strings.Contains(s.said.String(), wanted) {
			t.Errorf("it does not say %q: %s", wanted, s.said)
		}
	}

	if _, _, fetched := programs.Fetched(s.builder.Bin, "kubectl"); !fetched {
		t.Error("what could be fetched is not there")
	}

	if source, err := programs.Source(s.builder.Bin, ""); source != programs.Auto {
		t.Errorf("kept for the next time: %s, %v", source, err)
	}
}

func TestAWrongDigestIsNeverCompiledInstead(t *testing.T) {
	s := newSite(t, programs.Auto, kubernetesOnly("another program"))

	err := s.fetch(t.Context(), programs.Selection{})
	if err == nil || !strings.Contains(err.Error(), "it was damaged or changed") {
		t.Errorf("it says: %v", err)
	}
}

func TestWhatTheLockHasAnotherDigestForIsFetchedAgain(t *testing.T) {
	s := newSite(t, programs.Auto, kubernetesOnly("the program"))
	if err := s.fetch(t.Context(), programs.Selection{}); err != nil {
		t.Fatal(err)
	}

	address, digest, _ := programs.Fetched(s.builder.Bin, "kubectl")
	good := releases.Lock{}

	for _, p := range programs.All() {
		if p.Release != nil {
			good[p.Release.Of("v1.2.3", runtime.GOARCH).Archive] = digest
		}
	}

	if err := good.Write(s.lock); err != nil {
		t.Fatal(err)
	}

	s.said.Reset()

	if err := s.fetch(t.Context(), programs.Selection{}); err != nil || strings.Contains(s.said.String(), "kubectl") {
		t.Errorf("the lock agrees, and it says: %v, %s", err, s.said)
	}

	good[address] = "sha256:" + strings.Repeat("0", 64)
	if err := good.Write(s.lock); err != nil {
		t.Fatal(err)
	}

	err := s.fetch(t.Context(), programs.Selection{})
	if err == nil || !strings.Contains(s.said.String(), "kubectl is fetched again") || !strings.Contains(err.Error(), releases.LockFile+" says "+good[address]) {
		t.Errorf("the lock does not agree, and it says: %v, %s", err, s.said)
	}

	if _, _, fetched := programs.Fetched(s.builder.Bin, "kubectl"); fetched {
		t.Error("it still passes for a release")
	}
}

func TestTheLockIsWrittenOnlyWhole(t *testing.T) {
	s := newSite(t, programs.Releases, kubernetesOnly("the program"))

	if err := os.MkdirAll(filepath.Dir(s.lock), 0o700); err != nil {
		t.Fatal(err)
	}

	err := s.writeLock(t.Context())
	if err == nil || !strings.Contains(err.Error(), "Nothing is written") {
		t.Errorf("it says: %v", err)
	}

	if lock, err := releases.ReadLock(s.lock); lock != nil || err != nil {
		t.Errorf("%v, %v", lock, err)
	}
}
