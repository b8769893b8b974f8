package charts

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/provenance"
	"helm.sh/helm/v3/pkg/repo"
	"sigs.k8s.io/yaml"
)

// Handler serves the packages and manifests of a build under their production addresses; the request's Host decides which
// repository answers. A package that somebody puts into the folder `published` while it serves is a version that its project
// has just published; the folder may be missing.
func Handler(bin, published string) (http.Handler, error) {
	s, err := newServer(bin)
	if err != nil {
		return nil, err
	}
	s.published = published
	return s, nil
}

// OutdatedHandler lists each chart in one version that nobody asks for, as a repository does that has dropped the
// others.
func OutdatedHandler(bin string) (http.Handler, error) {
	s, err := newServer(bin)
	if err != nil {
		return nil, err
	}
	for path, content := range s.files {
		if strings.HasSuffix(path, "/index.yaml") {
			s.files[path] = versionLine.ReplaceAll(content, []byte("${1}0.0.1"))
		}
	}
	return s, nil
}

// versionLine is that of a chart in an index.
var versionLine = regexp.MustCompile(`(?m)^( {4}version: ).*`)

func newServer(bin string) (*server, error) {
	entries, err := Index(bin)
	if err != nil {
		return nil, err
	}
	s := &server{bin: bin, files: map[string][]byte{}, indexes: map[string]*repo.IndexFile{}, seen: map[string]bool{}}
	for _, e := range entries {
		if err := s.add(filepath.Join(packages(bin), e.File())); err != nil {
			return nil, fmt.Errorf("chart %s: %w", e.Name, err)
		}
	}
	return s, nil
}

// server keeps all packages in memory: a rebuild must not change what a running world serves.
type server struct {
	bin, published string

	mu      sync.Mutex
	files   map[string][]byte          // host and path -> content
	indexes map[string]*repo.IndexFile // by the place of a repository
	seen    map[string]bool            // packages of the folder `published`
}

// add serves a package from now on, in the repository of its chart.
func (s *server) add(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	loaded, err := loader.LoadArchive(bytes.NewReader(content))
	if err != nil {
		return err
	}
	c, err := find(loaded.Name())
	if err != nil {
		return err
	}
	digest, err := provenance.Digest(bytes.NewReader(content))
	if err != nil {
		return err
	}
	at := c.url().Hostname() + strings.TrimSuffix(c.url().Path, "/") + "/"
	index := s.indexes[at]
	if index == nil {
		index = repo.NewIndexFile()
		index.Generated = time.Time{} // the same packages, the same index
		s.indexes[at] = index
	}
	// A relative address: Helm reads it as one beside the index.
	if err := index.MustAdd(loaded.Metadata, filepath.Base(path), "", digest); err != nil {
		return err
	}
	index.SortEntries()
	text, err := yaml.Marshal(index)
	if err != nil {
		return err
	}
	s.files[at+filepath.Base(path)], s.files[at+"index.yaml"] = content, text
	return nil
}

// publish adds what somebody has put into the folder since the last request.
func (s *server) publish() error {
	found, err := filepath.Glob(filepath.Join(s.published, "*.tgz"))
	if err != nil || s.published == "" {
		return err
	}
	for _, path := range found {
		if s.seen[path] {
			continue
		}
		if err := s.add(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		s.seen[path] = true
	}
	return nil
}

// file gives what is served at a place now.
func (s *server) file(place string) (content []byte, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.publish(); err != nil {
		return nil, false, err
	}
	content, ok = s.files[place]
	return content, ok, nil
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only read here", http.StatusMethodNotAllowed)
		return
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	content, ok, err := s.file(host + r.URL.Path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if !ok && host == manifestHost {
		content, ok = s.manifest(host + r.URL.Path)
	}
	if !ok {
		http.Error(w, fmt.Sprintf("the lab has nothing at https://%s%s", host, r.URL.Path), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", contentType(r.URL.Path))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// manifest reads a file below the folder of manifests, and none outside it.
func (s *server) manifest(path string) ([]byte, bool) {
	root, err := os.OpenRoot(manifests(s.bin))
	if err != nil {
		return nil, false
	}
	defer root.Close()
	content, err := root.ReadFile(filepath.FromSlash(path))
	return content, err == nil
}

func contentType(path string) string {
	if strings.HasSuffix(path, ".tgz") {
		return "application/gzip"
	}
	return "text/plain; charset=utf-8"
}
