// Package charts brings the platform's Helm charts into the lab: it makes their packages, serves
// them as the repositories that production reads, and renders them without a network.
//
// Layer: below worlds, beside programs. A package comes from the cache folder (the real one, pulled
// or put there by hand), else from the folder of the project's own Go module (the real chart too),
// else from a stand-in of the lab (lab/charts).
package charts

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Source says where a package came from.
type Source string

const (
	Cache   Source = "cache"    // the cache folder: the real package
	Module  Source = "module"   // the chart's folder in its project's Go module: the real chart
	StandIn Source = "stand-in" // a chart of the lab with the real one's name, version and keys
)

// Entry is one package, and one item of index.json.
type Entry struct {
	Name    string `json:"name"`
	Version string `json:"version"` // as the chart writes it: cert-manager's has a v
	Source  Source `json:"source"`
}

// File is the name of the entry's package.
func (e Entry) File() string { return e.Name + "-" + e.Version + ".tgz" }

// folder of a Go module: the go.mod that names it, the module, and a path inside it.
type folder struct{ tool, module, path string }

// chart is one of the platform's charts.
type chart struct {
	name       string
	repository string
	module     folder // where the real chart lies; no module means a stand-in
	release    bool   // the project's release tool sets version and appVersion
	counted    bool   // the chart's versions are counted apart from the module's
}

// The repositories are those that the program's Releases name.
var all = []chart{
	{name: "cilium", repository: "https://helm.cilium.io", module: folder{"tools/charts", "github.com/cilium/cilium", "install/kubernetes/cilium"}},
	{name: "metallb", repository: "https://metallb.github.io/metallb", module: folder{"tools/charts", "go.universe.tf/metallb", "charts/metallb"}},
	{
		name: "cert-manager", repository: "https://charts.jetstack.io", release: true,
		module: folder{"tools/charts", "github.com/cert-manager/cert-manager", "deploy/charts/cert-manager"},
	},
	{name: "traefik", repository: "https://traefik.github.io/charts"},
	{
		name: "metrics-server", repository: "https://kubernetes-sigs.github.io/metrics-server", counted: true,
		module: folder{"tools/charts", "sigs.k8s.io/metrics-server", "charts/metrics-server"},
	},
	{name: "argo-cd", repository: "https://argoproj.github.io/argo-helm"},
}

// find is a chart by its name; an unknown name is told with the known ones.
func find(name string) (chart, error) {
	var names []string
	for _, c := range all {
		if c.name == name {
			return c, nil
		}
		names = append(names, c.name)
	}
	return chart{}, fmt.Errorf("chart %s is none of the platform's: %s", name, strings.Join(names, ", "))
}

// Hosts are the names under which production reads charts and manifests.
func Hosts() []string {
	out := []string{manifestHost}
	for _, c := range all {
		out = append(out, c.url().Hostname())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c chart) url() *url.URL {
	u, err := url.Parse(c.repository)
	if err != nil {
		panic(err) // a constant of this package
	}
	return u
}

// Folders of what a build leaves in the folder of the programs.
func packages(bin string) string  { return filepath.Join(bin, "charts") }
func manifests(bin string) string { return filepath.Join(bin, "manifests") }

// Definitions is the folder of the custom resource definitions that a program registers when it
// runs, one file each: Definitions(bin, "cilium").
func Definitions(bin, owner string) string { return filepath.Join(bin, "crds", owner) }

const indexName = "index.json"

// Index reads what the last build made.
func Index(bin string) ([]Entry, error) {
	path := filepath.Join(packages(bin), indexName)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no charts in %s: build them with `make build`", packages(bin))
	}
	if err != nil {
		return nil, err
	}
	var out []Entry
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

func writeIndex(folder string, entries []Entry) error {
	text, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, indexName), append(text, '\n'), 0o644)
}

// same says whether two spellings name one version: Helm reads v1.21.1 and 1.21.1 alike.
func same(a, b string) bool { return strings.TrimPrefix(a, "v") == strings.TrimPrefix(b, "v") }
