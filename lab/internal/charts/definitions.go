package charts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"gopkg.in/yaml.v3"
	helm "helm.sh/helm/v3/pkg/chart"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	kubernetesyaml "sigs.k8s.io/yaml"
)

// manifestHost serves single files of repositories to the program.
const manifestHost = "raw.githubusercontent.com"

var (
	gatewayDefinitions = folder{"tools/gateway-api", "sigs.k8s.io/gateway-api", "config/crd/standard"}
	traefikDefinitions = folder{"tools/charts", "github.com/traefik/traefik/v3", "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"}
	argoDefinitions    = folder{"tools/charts", "github.com/argoproj/argo-cd/v3", "manifests/crds"}
	argoManifests      = folder{"tools/charts", "github.com/argoproj/argo-cd/v3", "manifests/base"}
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
	if c.Name() == "argo-cd" {
		return b.addEnvironment(c)
	}
	return nil
}

// argoWorkloads are the manifests of Argo CD's parts, by the parts' keys in the chart's values.
var argoWorkloads = map[string]string{
	"controller":     "application-controller/argocd-application-controller-statefulset.yaml",
	"server":         "server/argocd-server-deployment.yaml",
	"repoServer":     "repo-server/argocd-repo-server-deployment.yaml",
	"applicationSet": "applicationset-controller/argocd-applicationset-controller-deployment.yaml",
	"notifications":  "notification/argocd-notifications-controller-deployment.yaml",
}

// addEnvironment gives the stand-in the variables by which Argo CD's programs get what its ConfigMaps say: the real chart
// has those of Argo CD's own manifests. A template of the stand-in reads environment/PART.yaml.
func (b *Builder) addEnvironment(c *helm.Chart) error {
	dir, version, err := b.Module(argoManifests.tool, argoManifests.module)
	if err != nil {
		return err
	}
	for part, path := range argoWorkloads {
		content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(argoManifests.path), filepath.FromSlash(path)))
		if err != nil {
			return fmt.Errorf("%s %s: %w", argoManifests.module, version, err)
		}
		variables, err := environment(content)
		if err != nil {
			return fmt.Errorf("%s %s: %s: %w", argoManifests.module, version, path, err)
		}
		c.Files = append(c.Files, &helm.File{Name: "environment/" + part + ".yaml", Data: variables})
	}
	return nil
}

// environment takes the variables of the first container out of a workload's manifest. What a Secret says is left out: the
// chart has settings for these.
func environment(manifest []byte) ([]byte, error) {
	var workload appsv1.Deployment // a StatefulSet's template is in the same place
	if err := kubernetesyaml.Unmarshal(manifest, &workload); err != nil {
		return nil, err
	}
	containers := workload.Spec.Template.Spec.Containers
	if len(containers) == 0 {
		return nil, errors.New("no container")
	}
	variables := slices.DeleteFunc(containers[0].Env, func(one corev1.EnvVar) bool { return one.ValueFrom != nil && one.ValueFrom.SecretKeyRef != nil })
	return kubernetesyaml.Marshal(variables)
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
