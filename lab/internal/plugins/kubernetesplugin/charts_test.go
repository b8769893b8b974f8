package kubernetesplugin

import (
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/repo"
	"sigs.k8s.io/yaml"
)

// tinyTemplates are a chart that can be made to do all that the tests need.
var tinyTemplates = map[string]string{
	"settings.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-{{ .Values.suffix }}}
data: {size: "{{ .Values.size }}", revision: "{{ .Release.Revision }}"}
`,
	"secret.yaml": `{{ if .Values.password }}
apiVersion: v1
kind: Secret
metadata: {name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}
stringData: {password: {{ .Values.password | quote }}}
{{ end }}`,
	"deployment.yaml": `{{ if .Values.neverReady }}
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: c, image: pause}]}
{{ end }}`,
	"hook.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-hook, annotations: {helm.sh/hook: pre-install}}
`,
	"extra.yaml": `{{ with .Values.extra }}{{ toYaml . }}{{ end }}`,
}

const tinySchema = `{"type": "object", "additionalProperties": false, "properties": {
  "size": {"type": "integer"}, "suffix": {"type": "string"}, "neverReady": {"type": "boolean"}, "extra": {"type": "object"},
  "password": {"type": "string", "pattern": "^[a-z-]*$"}, "global": {}}}`

func tinyChart(version string) *chart.Chart {
	made := &chart.Chart{
		Metadata: &chart.Metadata{APIVersion: chart.APIVersionV2, Name: "tiny", Version: version, AppVersion: "9.9"},
		Schema:   []byte(tinySchema),
		Raw:      []*chart.File{{Name: chartutil.ValuesfileName, Data: []byte("size: 1\nsuffix: settings\n")}},
		Values:   map[string]any{"size": 1, "suffix": "settings"},
	}

	for name, content := range tinyTemplates {
		made.Templates = append(made.Templates, &chart.File{Name: "templates/" + name, Data: []byte(content)})
	}

	return made
}

// packed writes a chart's archive and returns its path.
func packed(t *testing.T, made *chart.Chart) string {
	t.Helper()

	path, err := chartutil.Save(made, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}

	return path
}

// repositoryServer is a chart repository over TLS.
type repositoryServer struct {
	*httptest.Server
	// ca is the file with its certificate.
	ca      string
	indexes atomic.Int32
	// password, when set, is asked of everybody.
	password string
}

func serveCharts(t *testing.T, made ...*chart.Chart) *repositoryServer {
	t.Helper()

	folder, index := t.TempDir(), repo.NewIndexFile()

	for _, c := range made {
		path, err := chartutil.Save(c, folder)
		if err != nil {
			t.Fatal(err)
		}

		if err := index.MustAdd(c.Metadata, filepath.Base(path), "", ""); err != nil {
			t.Fatal(err)
		}
	}

	content, err := yaml.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(filepath.Join(folder, "index.yaml"), content, 0o600); err != nil {
		t.Fatal(err)
	}

	server := &repositoryServer{ca: filepath.Join(t.TempDir(), "ca.pem")}
	files := http.FileServer(http.Dir(folder))
	server.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != server.password {
			http.Error(w, "who are you?", http.StatusUnauthorized)

			return
		}

		if strings.HasSuffix(r.URL.Path, "/index.yaml") {
			server.indexes.Add(1)
		}

		http.StripPrefix("/charts", files).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)

	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(server.ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}

	return server
}

// inputs of a release of the repository's chart tiny.
func (s *repositoryServer) inputs(more map[string]any) map[string]any {
	inputs := map[string]any{"chart": "tiny", "name": "tiny", "repositoryOpts": map[string]any{"repo": s.URL + "/charts", "caFile": s.ca}}
	maps.Copy(inputs, more)

	return inputs
}

// source of the repository's chart tiny.
func (s *repositoryServer) source(version string) chartSource {
	return chartSource{chart: "tiny", version: version, repository: repository{url: s.URL + "/charts", caFile: s.ca}}
}

func TestARepositoryGivesTheVersionThatFits(t *testing.T) {
	server := serveCharts(t, tinyChart("0.1.0"), tinyChart("0.2.0"), tinyChart("0.3.0-beta"))

	for asked, want := range map[string]string{"": "0.2.0", "0.1.0": "0.1.0", "<0.2": "0.1.0", ">0.0.0-0": "0.3.0-beta"} {
		loaded, err := newCharts().load(server.source(asked))
		if err != nil || loaded.Metadata.Version != want {
			t.Errorf("%q: %v, %v", asked, loaded, err)
		}
	}
}

func TestAnIndexIsFetchedOnceAndEveryLoadIsACopy(t *testing.T) {
	server := serveCharts(t, tinyChart("0.1.0"), tinyChart("0.2.0"))
	all := newCharts()

	first, err := all.load(server.source("0.1.0"))
	if err != nil {
		t.Fatal(err)
	}

	first.Values["size"] = 7

	second, err := all.load(server.source("0.1.0"))
	if err != nil || second.Values["size"] == 7 {
		t.Errorf("%v, %v", second.Values, err)
	}

	if _, err := all.load(server.source("0.2.0")); err != nil || server.indexes.Load() != 1 {
		t.Errorf("%d downloads of the index, %v", server.indexes.Load(), err)
	}
}

func TestAFailedDownloadIsTriedAgain(t *testing.T) {
	server, all := serveCharts(t, tinyChart("0.1.0")), newCharts()
	server.password = "needed"

	if _, err := all.load(server.source("")); err == nil || !strings.Contains(err.Error(), "not a valid chart repository or cannot be reached") {
		t.Error(err)
	}

	source := server.source("")
	source.username, source.password = "somebody", "needed"

	if _, err := all.load(source); err != nil {
		t.Error(err)
	}

	server.password = ""

	if _, err := all.load(server.source("")); err != nil {
		t.Error(err)
	}
}

func TestARepositorysPasswordGoesToNoOtherServer(t *testing.T) {
	other := serveCharts(t, tinyChart("0.1.0"))
	seen := make(chan bool, 1)

	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _, with := r.BasicAuth()
		seen <- with

		index := repo.NewIndexFile()
		index.MustAdd(tinyChart("0.1.0").Metadata, "tiny-0.1.0.tgz", other.URL+"/charts", "") //nolint:errcheck // the test's own chart

		content, _ := yaml.Marshal(index)
		w.Write(content) //nolint:errcheck
	}))
	defer first.Close()

	source := chartSource{chart: "tiny", repository: repository{url: first.URL, caFile: other.ca, username: "somebody", password: "theirs"}}
	if _, err := newCharts().load(source); err != nil || !<-seen {
		t.Errorf("the other server, which lets in only those without a password, gave no chart: %v", err)
	}
}

// repositoryVariable names a repository to the process of TestARepositoryIsTrustedThroughSSLCertFile: the system's
// certificates are read once a process.
const repositoryVariable = "TEST_REPOSITORY"

func TestARepositoryIsTrustedThroughSSLCertFile(t *testing.T) {
	if address := os.Getenv(repositoryVariable); address != "" {
		if _, err := newCharts().load(chartSource{chart: "tiny", repository: repository{url: address}}); err != nil {
			t.Fatal(err)
		}

		return
	}

	server := serveCharts(t, tinyChart("0.1.0"))

	for ca, trusted := range map[string]bool{server.ca: true, packed(t, tinyChart("0.1.0")): false} {
		command := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		command.Env = append(os.Environ(), repositoryVariable+"="+server.URL+"/charts", "SSL_CERT_FILE="+ca, "SSL_CERT_DIR="+t.TempDir())

		if output, err := command.CombinedOutput(); (err == nil) != trusted {
			t.Errorf("trusted %v: %v\n%s", trusted, err, output)
		}
	}
}

func TestAChartsPathCanBeAFolderOrAnArchive(t *testing.T) {
	folder := t.TempDir()
	if err := chartutil.SaveDir(tinyChart("0.1.0"), folder); err != nil {
		t.Fatal(err)
	}

	for _, path := range []string{filepath.Join(folder, "tiny"), packed(t, tinyChart("0.1.0"))} {
		if loaded, err := newCharts().load(chartSource{chart: path}); err != nil || loaded.Name() != "tiny" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestChartsThatCannotBeHadAreRefusedWithTheMend(t *testing.T) {
	server := serveCharts(t, tinyChart("0.1.0"))
	library := tinyChart("0.1.0")
	library.Metadata.Type, library.Templates = "library", nil
	needy := tinyChart("0.1.0")
	needy.Metadata.Dependencies = []*chart.Dependency{{Name: "absent", Version: "1", Repository: server.URL}}

	inRepository := server.source("")

	for want, source := range map[string]chartSource{
		`chart "none" version "" not found in ` + server.URL:      {chart: "none", repository: inRepository.repository},
		`chart "tiny" version "9.0.0" not found in ` + server.URL: {chart: "tiny", version: "9.0.0", repository: inRepository.repository},
		"cannot be reached":                    {chart: "tiny", repository: repository{url: "https://127.0.0.1:1"}},
		"failed to verify certificate":         {chart: "tiny", repository: repository{url: server.URL}},
		"OCI registries are not served":        {chart: "oci://127.0.0.1/tiny"},
		"name its repository in":               {chart: "stable/tiny"},
		"is not the address of a repository":   {chart: "tiny", repository: repository{url: "stable"}},
		"library charts are not installable":   {chart: packed(t, library)},
		"missing in charts/ directory: absent": {chart: packed(t, needy)},
		"no such file":                         {chart: "./nowhere"},
	} {
		if _, err := newCharts().load(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func TestDependenciesOfAFolderAreFetchedWhenTheReleaseSaysSo(t *testing.T) {
	folder := t.TempDir()

	child, parent := tinyChart("0.1.0"), tinyChart("0.2.0")
	child.Metadata.Name, parent.Metadata.Name = "child", "parent"
	parent.Metadata.Dependencies = []*chart.Dependency{{Name: "child", Version: "0.1.0", Repository: "file://../child"}}

	for _, made := range []*chart.Chart{child, parent} {
		if err := chartutil.SaveDir(made, folder); err != nil {
			t.Fatal(err)
		}
	}

	loaded, err := newCharts().load(chartSource{chart: filepath.Join(folder, "parent"), update: true})
	if err != nil || len(loaded.Dependencies()) != 1 {
		t.Errorf("%v, %v", loaded, err)
	}
}

func TestLintRefusesAMalformedChart(t *testing.T) {
	bad := tinyChart("0.1.0")
	bad.Templates = append(bad.Templates, &chart.File{Name: "templates/bad.yaml", Data: []byte("a: [\n")})

	for path, wrong := range map[string]bool{packed(t, bad): true, packed(t, tinyChart("0.1.0")): false} {
		if err := newCharts().lint(chartSource{chart: path}, nil); (err != nil) != wrong {
			t.Errorf("%v", err)
		}
	}

	server := serveCharts(t, bad)
	if err := newCharts().lint(server.source(""), nil); err == nil || !strings.Contains(err.Error(), "bad.yaml") {
		t.Error(err)
	}
}
