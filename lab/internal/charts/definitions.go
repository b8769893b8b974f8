package charts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v3"
	helm "helm.sh/helm/v3/pkg/chart"
)

// manifestHost serves single files of repositories to the program.
const manifestHost = "raw.githubusercontent.com"

var (
	gatewayDefinitions = folder{"tools/gateway-api", "sigs.k8s.io/gateway-api", "config/crd/standard"}
	traefikDefinitions = folder{"tools/charts", "github.com/traefik/traefik/v3", "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"}
	argoDefinitions    = folder{"tools/charts", "github.com/argoproj/argo-cd/v3", "manifests/crds"}
	// Two folders, because the module keeps one for each version of its API.
	ciliumDefinitions = []folder{
		{"tools/charts", "github.com/cilium/cilium", "pkg/k8s/apis/cilium.io/client/crds/v2"},
		{"tools/charts", "github.com/cilium/cilium", "pkg/k8s/apis/cilium.io/client/crds/v2alpha1"},
	}
)

// definition is one custom resource definition, as its project wrote it.
type definition struct {
	name string // metadata.name, as widgets.example.com
	text []byte
}

// definitions reads every custom resource definition of a module's folder or file.
func (b *Builder) definitions(f folder) (found []definition, version string, err error) {
	dir, version, err := b.Module(f.tool, f.module)
	if err != nil {
		return nil, "", err
	}
	place := filepath.Join(dir, filepath.FromSlash(f.path))
	files := []string{place}
	if info, err := os.Stat(place); err != nil {
		return nil, "", fmt.Errorf("%s %s: %w", f.module, version, err)
	} else if info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(place, "*.yaml")); err != nil {
			return nil, "", err
		}
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, "", err
		}
		inFile, err := split(content)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", path, err)
		}
		found = append(found, inFile...)
	}
	if len(found) == 0 {
		return nil, "", fmt.Errorf("%s %s has no definitions in %s", f.module, version, f.path)
	}
	return found, version, nil
}

// split takes the definitions out of a file of documents, and leaves their text as it is.
func split(content []byte) ([]definition, error) {
	var out []definition
	for _, text := range bytes.Split(append([]byte("\n"), content...), []byte("\n---\n")) {
		var head struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&head); errors.Is(err, io.EOF) {
			continue // comments only
		} else if err != nil {
			return nil, err
		}
		if head.Kind == "CustomResourceDefinition" {
			out = append(out, definition{name: head.Metadata.Name, text: bytes.TrimLeft(text, "\n")})
		}
	}
	return out, nil
}

// addDefinitions gives a stand-in the definitions that the real chart carries. They are read from
// the modules of their projects, so that the repository holds no copy.
func (b *Builder) addDefinitions(c *helm.Chart) error {
	type source struct {
		from folder
		to   string // folder of the package
	}
	sources := map[string][]source{
		// Helm installs what lies in crds/ when it is absent, and never changes it.
		"traefik": {{traefikDefinitions, "crds"}, {gatewayDefinitions, "crds"}},
		// A template of the stand-in reads these.
		"argo-cd": {{argoDefinitions, "definitions"}},
	}
	for _, s := range sources[c.Name()] {
		found, _, err := b.definitions(s.from)
		if err != nil {
			return err
		}
		for _, d := range found {
			c.Files = append(c.Files, &helm.File{Name: s.to + "/" + d.name + ".yaml", Data: d.text})
		}
	}
	return nil
}

// copyManifests keeps the files that the program downloads by their addresses:
// manifests/<host>/<path>, byte for byte.
func (b *Builder) copyManifests(bin string) error {
	dir, version, err := b.Module(gatewayDefinitions.tool, gatewayDefinitions.module)
	if err != nil {
		return err
	}
	target := filepath.Join(manifests(bin), manifestHost, "kubernetes-sigs", "gateway-api", version, filepath.FromSlash(gatewayDefinitions.path))
	if err := os.CopyFS(target, os.DirFS(filepath.Join(dir, filepath.FromSlash(gatewayDefinitions.path)))); err != nil {
		return err
	}
	dir, version, err = b.Module(traefikDefinitions.tool, traefikDefinitions.module)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(traefikDefinitions.path)))
	if err != nil {
		return err
	}
	file := filepath.Join(manifests(bin), manifestHost, "traefik", "traefik", version, filepath.FromSlash(traefikDefinitions.path))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
}

// copyDefinitions keeps the definitions that Cilium's operator registers when it starts, each under
// its own name.
func (b *Builder) copyDefinitions(bin string) error {
	target := Definitions(bin, "cilium")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	for _, f := range ciliumDefinitions {
		found, _, err := b.definitions(f)
		if err != nil {
			return err
		}
		for _, d := range found {
			if err := os.WriteFile(filepath.Join(target, d.name+".yaml"), d.text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
