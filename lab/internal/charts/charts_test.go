package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"sigs.k8s.io/yaml"

	"platform.lab/lab/internal/progress"
)

// workloadText is a manifest with a variable of a ConfigMap, one of a Secret, and one that the stand-in sets itself.
func workloadText(part string) string {
	return `apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
        - name: ` + part + `
          env:
            - {name: ARGOCD_LEVEL, valueFrom: {configMapKeyRef: {name: argocd-cmd-params-cm, key: ` + part + `.log.level, optional: true}}}
            - {name: REDIS_PASSWORD, valueFrom: {secretKeyRef: {name: elsewhere, key: auth}}}
            - {name: KUBECACHEDIR, value: /elsewhere}
`
}

// writeFile makes a file and the folders above it.
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func definitionText(name string) string {
	return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: " + name + "\nspec:\n  group: x\n"
}

// fixture is a source tree with the lab's own stand-ins and modules of a few files.
type fixture struct {
	*Builder
	root  string
	asked int // how often a module was asked for
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	root := t.TempDir()
	f := &fixture{root: root}
	lab, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range tools {
		writeFile(t, filepath.Join(root, "lab", tool, "go.mod"), "module x\n")
		writeFile(t, filepath.Join(root, "lab", tool, "go.sum"), "")
	}
	if err := os.CopyFS(filepath.Join(root, "lab", "charts"), os.DirFS(filepath.Join(lab, "charts"))); err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for module, version := range map[string]string{
		"github.com/cilium/cilium": "v1.2.3", "go.universe.tf/metallb": "v0.1.2", "github.com/cert-manager/cert-manager": "v1.4.5",
		"github.com/traefik/traefik/v3": "v3.0.1", "github.com/argoproj/argo-cd/v3": "v3.0.2", "sigs.k8s.io/gateway-api": "v1.0.3",
		"sigs.k8s.io/metrics-server": "v0.9.9",
	} {
		versions[module] = version
	}
	in := func(module, path string) string {
		return filepath.Join(root, "modules", module, filepath.FromSlash(path))
	}
	writeFile(t, in("github.com/cilium/cilium", "install/kubernetes/cilium/Chart.yaml"), "apiVersion: v2\nname: cilium\nversion: 1.2.3\n")
	writeFile(t, in("github.com/cilium/cilium", "pkg/k8s/apis/cilium.io/client/crds/v2/nodes.yaml"), "---\n"+definitionText("nodes.cilium.io"))
	writeFile(t, in("github.com/cilium/cilium", "pkg/k8s/apis/cilium.io/client/crds/v2alpha1/pools.yaml"), definitionText("pools.cilium.io"))
	writeFile(t, in("go.universe.tf/metallb", "charts/metallb/Chart.yaml"),
		"apiVersion: v2\nname: metallb\nversion: 0.1.2\ndependencies:\n- name: crds\n  version: 0.1.2\n")
	writeFile(t, in("go.universe.tf/metallb", "charts/metallb/charts/crds/Chart.yaml"), "apiVersion: v2\nname: crds\nversion: 0.1.2\n")
	writeFile(t, in("github.com/cert-manager/cert-manager", "deploy/charts/cert-manager/Chart.yaml"),
		"apiVersion: v2\nname: cert-manager\nversion: v0.0.0\nappVersion: v0.0.0\n")
	writeFile(t, in("sigs.k8s.io/metrics-server", "charts/metrics-server/Chart.yaml"), "apiVersion: v2\nname: metrics-server\nversion: 3.4.5\n")
	writeFile(t, in("github.com/traefik/traefik/v3", traefikDefinitions.path), definitionText("middlewares.traefik.io")+"\n---\n"+definitionText("tlsstores.traefik.io"))
	writeFile(t, in("github.com/argoproj/argo-cd/v3", "manifests/crds/application-crd.yaml"), definitionText("applications.argoproj.io"))
	writeFile(t, in("github.com/argoproj/argo-cd/v3", "manifests/crds/kustomization.yaml"), "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n")
	for part, path := range argoWorkloads {
		writeFile(t, in("github.com/argoproj/argo-cd/v3", argoManifests.path+"/"+path), workloadText(part))
	}
	writeFile(t, in("sigs.k8s.io/gateway-api", "config/crd/standard/gateways.yaml"), definitionText("gateways.gateway.networking.k8s.io"))
	f.Builder = &Builder{
		Lab: filepath.Join(root, "lab"), Bin: filepath.Join(root, "bin"), Cache: filepath.Join(root, "cache"), Display: progress.New(io.Discard),
		Module: func(_, module string) (string, string, error) {
			f.asked++
			version, ok := versions[module]
			if !ok {
				return "", "", errors.New("unknown module " + module)
			}
			return in(module, ""), version, nil
		},
	}
	return f
}

func (f *fixture) build(t *testing.T) []Entry {
	t.Helper()
	if err := f.Build(); err != nil {
		t.Fatal(err)
	}
	entries, err := Index(f.Bin)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// pack makes a chart package of the given Chart.yaml.
func pack(t *testing.T, path, metadata string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "chart/Chart.yaml", Mode: 0o644, Size: int64(len(metadata))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(metadata)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, b.String())
}

func find1(entries []Entry, name string) (found []Entry) {
	for _, e := range entries {
		if e.Name == name {
			found = append(found, e)
		}
	}
	return found
}

func TestEveryChartBecomesAPackageThatSaysWhereItCameFrom(t *testing.T) {
	f := newFixture(t)
	sources := map[string]Source{
		"cilium": Module, "metallb": Module, "cert-manager": Module, "traefik": StandIn, "metrics-server": Module, "argo-cd": StandIn,
	}
	entries := f.build(t)
	if len(entries) != len(sources) {
		t.Errorf("got %v", entries)
	}
	for _, e := range entries {
		if e.Source != sources[e.Name] {
			t.Errorf("%s is from %s", e.Name, e.Source)
		}
		if _, err := loader.LoadFile(filepath.Join(f.Bin, "charts", e.File())); err != nil {
			t.Error(err)
		}
	}
}

func TestTheReleaseToolsVersionsAreSet(t *testing.T) {
	f := newFixture(t)
	found := find1(f.build(t), "cert-manager")
	if len(found) != 1 || found[0].Version != "v1.4.5" {
		t.Fatalf("got %v", found)
	}
	c, err := loader.LoadFile(filepath.Join(f.Bin, "charts", "cert-manager-v1.4.5.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Metadata.AppVersion != "v1.4.5" {
		t.Errorf("got %s", c.Metadata.AppVersion)
	}
}

func TestAChartWhoseVersionsAreCountedApartKeepsItsOwn(t *testing.T) {
	f := newFixture(t)
	if found := find1(f.build(t), "metrics-server"); len(found) != 1 || found[0].Version != "3.4.5" {
		t.Errorf("got %v", found)
	}
}

func TestAnUnchangedSourceIsNotPackagedAgain(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	before := f.asked
	f.build(t)
	if f.asked != before {
		t.Error("a second build asked for modules")
	}
	values := filepath.Join(f.Lab, "charts", "traefik", "values.yaml")
	text, err := os.ReadFile(values)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, values, string(text)+"# changed\n")
	f.build(t)
	if f.asked == before {
		t.Error("a changed stand-in was not packaged")
	}
}

func TestACachedPackageWins(t *testing.T) {
	f := newFixture(t)
	pack(t, filepath.Join(f.Cache, "traefik-39.0.9.tgz"), "apiVersion: v2\nname: traefik\nversion: 39.0.9\n")
	pack(t, filepath.Join(f.Cache, "cilium-9.9.9.tgz"), "apiVersion: v2\nname: cilium\nversion: 9.9.9\n")
	entries := f.build(t)
	if found := find1(entries, "traefik"); len(found) != 1 || found[0].Source != Cache {
		t.Errorf("traefik: %v", found)
	}
	if found := find1(entries, "cilium"); len(found) != 2 {
		t.Errorf("another version stands beside the module's: %v", found)
	}
	if err := os.RemoveAll(f.Cache); err != nil {
		t.Fatal(err)
	}
	if found := find1(f.build(t), "traefik"); len(found) != 1 || found[0].Source != StandIn {
		t.Errorf("without the cache: %v", found)
	}
}

func TestABadCacheIsRefusedWithTheFile(t *testing.T) {
	for file, metadata := range map[string]string{
		"traefik-1.0.0.tgz": "apiVersion: v2\nname: traefik\nversion: 39.0.9\n",
		"nginx-1.0.0.tgz":   "apiVersion: v2\nname: nginx\nversion: 1.0.0\n",
	} {
		f := newFixture(t)
		pack(t, filepath.Join(f.Cache, file), metadata)
		if err := f.Build(); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v", file, err)
		}
	}
	f := newFixture(t)
	writeFile(t, filepath.Join(f.Cache, "cilium-1.0.0.tgz"), "an error page")
	if err := f.Build(); err == nil || !strings.Contains(err.Error(), "cilium-1.0.0.tgz is not a chart package") {
		t.Errorf("got %v", err)
	}
}

func TestAStandInIsNeverTakenForARealPackage(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	for _, e := range []string{"traefik-39.0.9.tgz", "argo-cd-10.1.1.tgz"} {
		if err := copyFile(filepath.Join(f.Bin, "charts", e), filepath.Join(f.Cache, e)); err != nil {
			t.Fatal(err)
		}
		if err := f.Build(); err == nil || !strings.Contains(err.Error(), "stand-in") {
			t.Errorf("%s: got %v", e, err)
		}
		if err := os.RemoveAll(f.Cache); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAModuleWhoseChartHasAnotherVersionIsRefused(t *testing.T) {
	f := newFixture(t)
	writeFile(t, filepath.Join(f.root, "modules/github.com/cilium/cilium/install/kubernetes/cilium/Chart.yaml"), "apiVersion: v2\nname: cilium\nversion: 1.2.4\n")
	if err := f.Build(); err == nil || !strings.Contains(err.Error(), "v1.2.3 holds the chart's version 1.2.4") {
		t.Errorf("got %v", err)
	}
}

func TestAChartWithoutItsSubchartIsRefused(t *testing.T) {
	f := newFixture(t)
	if err := os.RemoveAll(filepath.Join(f.root, "modules/go.universe.tf/metallb/charts/metallb/charts")); err != nil {
		t.Fatal(err)
	}
	if err := f.Build(); err == nil || !strings.Contains(err.Error(), "crds") {
		t.Errorf("got %v", err)
	}
}

func TestStandInsCarryTheirProjectsDefinitions(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	traefik := f.render(t, Request{Chart: "traefik", Namespace: "traefik", IncludeCRDs: true})
	for _, name := range []string{"middlewares.traefik.io", "tlsstores.traefik.io", "gateways.gateway.networking.k8s.io"} {
		if traefik["CustomResourceDefinition/"+name] == nil {
			t.Errorf("traefik lacks %s", name)
		}
	}
	argo := f.render(t, Request{Chart: "argo-cd", Namespace: "argocd"})
	crd := argo["CustomResourceDefinition/applications.argoproj.io"]
	if crd == nil {
		t.Fatal("argo-cd lacks its definition")
	}
	metadata := crd["metadata"].(map[string]any)
	if metadata["annotations"].(map[string]any)["helm.sh/resource-policy"] != "keep" {
		t.Errorf("got %v", metadata)
	}
}

func TestManifestsAndDefinitionsAreKeptByteForByte(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	got, err := os.ReadFile(filepath.Join(f.Bin, "manifests/raw.githubusercontent.com/kubernetes-sigs/gateway-api/v1.0.3/config/crd/standard/gateways.yaml"))
	if err != nil || string(got) != definitionText("gateways.gateway.networking.k8s.io") {
		t.Errorf("got %q, %v", got, err)
	}
	file := "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"
	kept, err := os.ReadFile(filepath.Join(f.Bin, "manifests/raw.githubusercontent.com/traefik/traefik/v3.0.1", file))
	if err != nil {
		t.Fatal(err)
	}
	source, _, err := f.Module("tools/charts", "github.com/traefik/traefik/v3")
	if err != nil {
		t.Fatal(err)
	}
	if wanted, err := os.ReadFile(filepath.Join(source, file)); err != nil || string(kept) != string(wanted) {
		t.Errorf("got %q, %v", kept, err)
	}
	for _, name := range []string{"nodes.cilium.io", "pools.cilium.io"} {
		got, err := os.ReadFile(filepath.Join(Definitions(f.Bin, "cilium"), name+".yaml"))
		if err != nil || !strings.Contains(string(got), definitionText(name)) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

// render gives the objects of a rendering by kind and name.
func (f *fixture) render(t *testing.T, r Request) map[string]map[string]any {
	t.Helper()
	text, err := f.rendered(r)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for _, document := range strings.Split("\n"+text, "\n---\n") {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		if object != nil {
			out[object["kind"].(string)+"/"+object["metadata"].(map[string]any)["name"].(string)] = object
		}
	}
	return out
}

func (f *fixture) rendered(r Request) (string, error) {
	r.Bin, r.Cache = f.Bin, f.Cache
	if r.Release == "" {
		r.Release = r.Chart
	}
	if r.KubeVersion == "" {
		r.KubeVersion = "1.34.1"
	}
	var out strings.Builder
	err := Render(r, &out)
	return out.String(), err
}
