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
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/provenance"
	"helm.sh/helm/v3/pkg/repo"
	"sigs.k8s.io/yaml"
)

// Handler serves the packages and manifests of a build under their production addresses; the
// request's Host decides which repository answers.
func Handler(bin string) (http.Handler, error) { return newServer(bin) }

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
	s := &server{bin: bin, files: map[string][]byte{}}
	for _, c := range all {
		if err := s.addRepository(c, entries); err != nil {
			return nil, fmt.Errorf("chart %s: %w", c.name, err)
		}
	}
	return s, nil
}

// server keeps all packages in memory: a rebuild must not change what a running world serves.
type server struct {
	bin   string
	files map[string][]byte // host and path -> content
}

func (s *server) addRepository(c chart, entries []Entry) error {
	index := repo.NewIndexFile()
	index.Generated = time.Time{} // the same packages, the same index
	at := c.url().Hostname() + strings.TrimSuffix(c.url().Path, "/") + "/"
	for _, e := range entries {
		if e.Name != c.name {
			continue
		}
		content, err := os.ReadFile(filepath.Join(packages(s.bin), e.File()))
		if err != nil {
			return err
		}
		loaded, err := loader.LoadArchive(bytes.NewReader(content))
		if err != nil {
			return err
		}
		digest, err := provenance.Digest(bytes.NewReader(content))
		if err != nil {
			return err
		}
		// A relative address: Helm reads it as one beside the index.
		if err := index.MustAdd(loaded.Metadata, e.File(), "", digest); err != nil {
			return err
		}
		s.files[at+e.File()] = content
	}
	index.SortEntries()
	text, err := yaml.Marshal(index)
	if err != nil {
		return err
	}
	s.files[at+"index.yaml"] = text
	return nil
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
	content, ok := s.files[host+r.URL.Path]
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
