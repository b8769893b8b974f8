package kubernetesplugin

// Layer: where charts come from: a folder, an archive, or a repository over HTTP. What a repository gave is kept in
// memory for as long as the plugin runs; nothing of Helm's is read or written in the operator's home.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/downloader"
	"helm.sh/helm/v3/pkg/getter"
	"helm.sh/helm/v3/pkg/repo"
)

// repositoryTimeout is Helm's own for one download.
const repositoryTimeout = 120 * time.Second

// repository is a chart repository and how to get in.
type repository struct{ url, caFile, certFile, keyFile, username, password string }

// chartSource says which chart is meant: a name in a repository, or a path or an address of its own.
type chartSource struct {
	repository
	chart, version string
	// update fetches the dependencies of a chart's folder that are not there.
	update bool
}

// charts fetches each index and each archive once.
type charts struct {
	indexes  memo[repository, *repo.IndexFile]
	archives memo[archive, []byte]
}

// archive is one download.
type archive struct {
	repository
	address string
}

func newCharts() *charts { return &charts{} }

// memo remembers what was had without an error. Callers for the same key wait for the first of them.
type memo[Key comparable, Value any] struct {
	mu      sync.Mutex
	entries map[Key]*memoEntry[Value]
}

type memoEntry[Value any] struct {
	mu    sync.Mutex
	have  bool
	value Value
}

func (m *memo[Key, Value]) get(key Key, fetch func() (Value, error)) (Value, error) {
	m.mu.Lock()
	if m.entries == nil {
		m.entries = map[Key]*memoEntry[Value]{}
	}

	entry := m.entries[key]
	if entry == nil {
		entry = &memoEntry[Value]{}
		m.entries[key] = entry
	}
	m.mu.Unlock()

	entry.mu.Lock()
	defer entry.mu.Unlock()

	if entry.have {
		return entry.value, nil
	}

	value, err := fetch()
	if err != nil {
		return value, err
	}

	entry.value, entry.have = value, true

	return value, nil
}

// load returns a fresh copy of the chart, which the caller may change, that can be installed.
func (c *charts) load(source chartSource) (*chart.Chart, error) {
	loaded, err := c.read(source)
	if err != nil {
		return nil, err
	}

	if kind := loaded.Metadata.Type; kind != "" && kind != "application" {
		return nil, fmt.Errorf("%s charts are not installable", kind)
	}

	missing := action.CheckDependencies(loaded, loaded.Metadata.Dependencies)
	if missing == nil {
		return loaded, nil
	}

	if folder, local := localChart(source); local && source.update && isFolder(folder) {
		if err := updateDependencies(folder); err != nil {
			return nil, err
		}

		return loader.Load(folder)
	}

	return nil, missing
}

func (c *charts) read(source chartSource) (*chart.Chart, error) {
	if path, local := localChart(source); local {
		return loader.Load(path)
	}

	content, err := c.download(source)
	if err != nil {
		return nil, err
	}

	loaded, err := loader.LoadArchive(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("chart %q: %w", source.chart, err)
	}

	return loaded, nil
}

// localChart finds a chart's folder or archive on this machine. With a repository there is none: its chart is meant,
// also where the program's folder has one of the same name.
func localChart(source chartSource) (string, bool) {
	if source.url != "" || source.chart == "" {
		return "", false
	}

	info, err := os.Stat(source.chart)
	if err != nil {
		return source.chart, filepath.IsAbs(source.chart) || strings.HasPrefix(source.chart, ".")
	}

	if info.IsDir() {
		_, err := os.Stat(filepath.Join(source.chart, chartutil.ChartfileName))

		return source.chart, err == nil
	}

	return source.chart, true
}

func isFolder(path string) bool {
	info, err := os.Stat(path)

	return err == nil && info.IsDir()
}

// download returns the archive of a chart.
func (c *charts) download(source chartSource) ([]byte, error) {
	address, err := c.address(source)
	if err != nil {
		return nil, err
	}

	return c.archives.get(archive{source.repository, address}, func() ([]byte, error) {
		content, err := source.repository.get(address)
		if err != nil {
			return nil, fmt.Errorf("failed to download %q at version %q: %w", source.chart, source.version, err)
		}

		return content.Bytes(), nil
	})
}

// address finds the archive in the repository's index. Helm's repository files on this machine are not read.
func (c *charts) address(source chartSource) (string, error) {
	if strings.HasPrefix(source.chart, "oci://") || strings.HasPrefix(source.url, "oci://") {
		return "", errors.New("OCI registries are not served by the lab's stand-in of the kubernetes plugin; use a repository with an index, or a path")
	}

	if source.url == "" {
		if u, err := url.Parse(source.chart); err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" {
			return source.chart, nil
		}

		return "", fmt.Errorf("chart %q is neither a path nor the address of a package; name its repository in repositoryOpts.repo", source.chart)
	}

	if u, err := url.Parse(source.url); err != nil || u.Host == "" {
		return "", fmt.Errorf("repositoryOpts.repo %q is not the address of a repository; "+
			"names out of Helm's own files on this machine are not served by the lab's stand-in of the kubernetes plugin", source.url)
	}

	index, err := c.indexes.get(source.repository, source.repository.index)
	if err != nil {
		return "", fmt.Errorf("looks like %q is not a valid chart repository or cannot be reached: %w", source.url, err)
	}

	found, err := index.Get(source.chart, source.version)
	if err != nil || len(found.URLs) == 0 {
		return "", fmt.Errorf("chart %q version %q not found in %s repository", source.chart, source.version, source.url)
	}

	return repo.ResolveReferenceURL(source.url, found.URLs[0])
}

// index fetches a repository's list of charts. Helm only parses it out of a file.
func (r repository) index() (*repo.IndexFile, error) {
	address, err := repo.ResolveReferenceURL(r.url, "index.yaml")
	if err != nil {
		return nil, err
	}

	content, err := r.get(address)
	if err != nil {
		return nil, err
	}

	file, err := os.CreateTemp("", "index-*.yaml")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()

	if _, err := file.Write(content.Bytes()); err != nil {
		return nil, err
	}

	return repo.LoadIndexFile(file.Name())
}

// providers are Helm's ways to fetch without its plugins.
var providers = getter.Providers{{Schemes: []string{"http", "https"}, New: func(options ...getter.Option) (getter.Getter, error) {
	return getter.NewHTTPGetter(append(options, getter.WithTimeout(repositoryTimeout))...)
}}}

// get downloads. Certificates are checked against the system's store (SSL_CERT_FILE), or against caFile alone. The
// password only goes to the repository's own server.
func (r repository) get(address string) (*bytes.Buffer, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}

	g, err := providers.ByScheme(u.Scheme)
	if err != nil {
		return nil, err
	}

	return g.Get(address,
		getter.WithURL(r.url),
		getter.WithTLSClientConfig(r.certFile, r.keyFile, r.caFile),
		getter.WithBasicAuth(r.username, r.password),
		getter.WithAcceptHeader("application/gzip,application/octet-stream,*/*"),
	)
}

// updateDependencies does "helm dependency update" in a chart's folder, with a cache of its own.
func updateDependencies(folder string) error {
	cache, err := os.MkdirTemp("", "chart-dependencies-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)

	manager := downloader.Manager{
		Out: io.Discard, ChartPath: folder, Getters: providers,
		RepositoryConfig: filepath.Join(cache, "repositories.yaml"), RepositoryCache: cache,
	}

	if err := manager.Update(); err != nil {
		return fmt.Errorf("dependencies of the chart in %s: %w", folder, err)
	}

	return nil
}

// lint does "helm lint" with a release's values.
func (c *charts) lint(source chartSource, values map[string]any) error {
	path, local := localChart(source)
	if !local {
		content, err := c.download(source)
		if err != nil {
			return err
		}

		file, err := os.CreateTemp("", "chart-*.tgz")
		if err != nil {
			return err
		}
		defer os.Remove(file.Name())
		defer file.Close()

		if _, err := file.Write(content); err != nil {
			return err
		}

		path = file.Name()
	}

	result := action.NewLint().Run([]string{path}, values)
	if len(result.Errors) == 0 {
		return nil
	}

	found := result.Errors

	for _, message := range result.Messages {
		// A message is an error with the file it is in.
		if i := slices.Index(found, message.Err); i >= 0 {
			found[i] = fmt.Errorf("%s: %w", message.Path, message.Err)
		}
	}

	return fmt.Errorf("malformed chart or values: %w", errors.Join(found...))
}

// checkValues holds values against the schemas of the chart and of those subcharts that they switch on.
func checkValues(loaded *chart.Chart, values map[string]any) error {
	if err := chartutil.ProcessDependenciesWithMerge(loaded, values); err != nil {
		return err
	}

	all, err := chartutil.CoalesceValues(loaded, values)
	if err != nil {
		return err
	}

	if err := chartutil.ValidateAgainstSchema(loaded, all); err != nil {
		return fmt.Errorf("values don't meet the specifications of the schema(s) in the following chart(s):\n%w", err)
	}

	return nil
}
