package charts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	helm "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli/values"
	"helm.sh/helm/v3/pkg/release"
	"k8s.io/client-go/kubernetes/scheme"
)

// Request asks for one rendering. Without a version, that of the last build is meant.
type Request struct {
	Bin, Cache         string
	Chart, Version     string
	Release, Namespace string
	Values             []string // files; "-" is standard input
	KubeVersion        string
	APIVersions        []string // further ones that the cluster is taken to serve
	IncludeCRDs        bool
}

// Render writes what Helm would apply, hooks included, as YAML. It needs no network and no cluster.
func Render(r Request, out io.Writer) error {
	loaded, err := r.load()
	if err != nil {
		return err
	}
	version, err := chartutil.ParseKubeVersion(r.KubeVersion)
	if err != nil {
		return fmt.Errorf("version %q of Kubernetes: %w", r.KubeVersion, err)
	}
	given, err := (&values.Options{ValueFiles: r.Values}).MergeValues(nil)
	if err != nil {
		return fmt.Errorf("values: %w", err)
	}
	install := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	install.DryRun, install.ClientOnly, install.Replace = true, true, true
	install.ReleaseName, install.Namespace = r.Release, r.Namespace
	install.KubeVersion, install.IncludeCRDs = version, r.IncludeCRDs
	install.APIVersions = append(builtIn(), r.APIVersions...)
	rendered, err := install.Run(loaded, given)
	if err != nil {
		return fmt.Errorf("chart %s %s: %w", loaded.Name(), loaded.Metadata.Version, err)
	}
	return write(rendered, out)
}

// builtIn are Kubernetes' own kinds, as policy/v1/PodDisruptionBudget: a chart that asks a real cluster
// for one finds it, and Helm's own offline list names groups and versions only.
func builtIn() []string {
	var out []string
	for kind := range scheme.Scheme.AllKnownTypes() {
		if kind.Group == "" {
			out = append(out, kind.Version+"/"+kind.Kind)
		} else {
			out = append(out, kind.Group+"/"+kind.Version+"/"+kind.Kind)
		}
	}
	slices.Sort(out)
	return out
}

func write(rendered *release.Release, out io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, strings.TrimSpace(rendered.Manifest))
	for _, h := range rendered.Hooks {
		fmt.Fprintf(&b, "---\n# Source: %s\n%s\n", h.Path, strings.TrimSpace(h.Manifest))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// load finds the package: in the cache folder, else among those of the last build.
func (r Request) load() (*helm.Chart, error) {
	if _, err := find(r.Chart); err != nil {
		return nil, err
	}
	wanted, err := r.version()
	if err != nil {
		return nil, err
	}
	number := strings.TrimPrefix(wanted, "v")
	for _, folder := range []string{r.Cache, packages(r.Bin)} {
		for _, version := range []string{number, "v" + number} {
			path := filepath.Join(folder, Entry{Name: r.Chart, Version: version}.File())
			if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
				continue
			}
			loaded, err := loader.LoadFile(path)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			return loaded, checkDependencies(loaded)
		}
	}
	return nil, fmt.Errorf("chart %s %s is neither in %s nor in %s: pull it with `lab charts %s@%s`, or put %s there by hand",
		r.Chart, wanted, r.Cache, packages(r.Bin), r.Chart, number, Entry{Name: r.Chart, Version: wanted}.File())
}

func (r Request) version() (string, error) {
	if r.Version != "" {
		return r.Version, nil
	}
	entries, err := Index(r.Bin)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if e.Name == r.Chart {
			found = append(found, e.Version)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("chart %s: %d versions were built (%s): choose one with --version", r.Chart, len(found), strings.Join(found, ", "))
	}
	return found[0], nil
}
