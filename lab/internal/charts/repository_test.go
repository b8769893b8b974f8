package charts

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/repo"
	"sigs.k8s.io/yaml"
)

func get(t *testing.T, handler http.Handler, method, url string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(method, url, nil))
	body, err := io.ReadAll(recorder.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return recorder.Code, string(body)
}

func served(t *testing.T) (*fixture, http.Handler) {
	t.Helper()
	f := newFixture(t)
	f.build(t)
	handler, err := Handler(f.Bin, "")
	if err != nil {
		t.Fatal(err)
	}
	return f, handler
}

func TestEveryRepositoryListsItsChartAndServesThePackage(t *testing.T) {
	_, handler := served(t)
	for _, c := range all {
		code, body := get(t, handler, http.MethodGet, c.repository+"/index.yaml")
		var index repo.IndexFile
		if err := yaml.Unmarshal([]byte(body), &index); err != nil || code != http.StatusOK {
			t.Fatalf("%s: %d, %v", c.repository, code, err)
		}
		if len(index.Entries) != 1 || len(index.Entries[c.name]) != 1 {
			t.Fatalf("%s: got %s", c.repository, body)
		}
		entry := index.Entries[c.name][0]
		url, err := repo.ResolveReferenceURL(c.repository, entry.URLs[0])
		if err != nil {
			t.Fatal(err)
		}
		code, body = get(t, handler, http.MethodGet, url)
		sum := sha256.Sum256([]byte(body))
		if code != http.StatusOK || hex.EncodeToString(sum[:]) != entry.Digest {
			t.Errorf("%s: %d", url, code)
		}
	}
}

func TestHelmFindsAVersionWithAndWithoutItsV(t *testing.T) {
	_, handler := served(t)
	_, body := get(t, handler, http.MethodGet, "https://charts.jetstack.io/index.yaml")
	var index repo.IndexFile
	if err := yaml.Unmarshal([]byte(body), &index); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"1.4.5", "v1.4.5"} {
		if found, err := index.Get("cert-manager", version); err != nil || found.Version != "v1.4.5" {
			t.Errorf("%s: got %v, %v", version, found, err)
		}
	}
}

func TestManifestsAreServedUnderTheirAddress(t *testing.T) {
	_, handler := served(t)
	base := "https://raw.githubusercontent.com/kubernetes-sigs/gateway-api/v1.0.3/config/crd/standard/"
	if code, body := get(t, handler, http.MethodGet, base+"gateways.yaml"); code != http.StatusOK || body != definitionText("gateways.gateway.networking.k8s.io") {
		t.Errorf("got %d %q", code, body)
	}
	for _, url := range []string{
		base + "missing.yaml", base, "https://raw.githubusercontent.com/../../charts/index.json",
		"https://helm.cilium.io/traefik-39.0.9.tgz", "https://helm.cilium.io/", "https://example.com/index.yaml",
	} {
		if code, body := get(t, handler, http.MethodGet, url); code != http.StatusNotFound || !strings.Contains(body, "https://") {
			t.Errorf("%s: got %d %q", url, code, body)
		}
	}
}

func TestAVersionThatIsPublishedLaterIsServedBesideTheOthers(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	published := filepath.Join(t.TempDir(), "charts")
	handler, err := Handler(f.Bin, published)
	if err != nil {
		t.Fatal(err)
	}
	const repository = "https://argoproj.github.io/argo-helm/"
	if code, _ := get(t, handler, http.MethodGet, repository+"argo-cd-99.0.0.tgz"); code != http.StatusNotFound {
		t.Errorf("got %d before it was published", code)
	}
	pack(t, filepath.Join(published, "argo-cd-99.0.0.tgz"), "apiVersion: v2\nname: argo-cd\nversion: 99.0.0\n")
	_, body := get(t, handler, http.MethodGet, repository+"index.yaml")
	var index repo.IndexFile
	if err := yaml.Unmarshal([]byte(body), &index); err != nil {
		t.Fatal(err)
	}
	if found := index.Entries["argo-cd"]; len(found) != 2 || found[0].Version != "99.0.0" {
		t.Errorf("the index has %d versions", len(found))
	}
	if code, _ := get(t, handler, http.MethodGet, repository+"argo-cd-99.0.0.tgz"); code != http.StatusOK {
		t.Errorf("got %d for the package", code)
	}
}

func TestARepositoryIsOnlyRead(t *testing.T) {
	_, handler := served(t)
	if code, _ := get(t, handler, http.MethodPut, "https://helm.cilium.io/index.yaml"); code != http.StatusMethodNotAllowed {
		t.Errorf("got %d", code)
	}
	if code, body := get(t, handler, http.MethodHead, "https://helm.cilium.io/index.yaml"); code != http.StatusOK || body != "" {
		t.Errorf("got %d %q", code, body)
	}
}

func TestAFolderWithoutABuildIsNamed(t *testing.T) {
	bin := t.TempDir()
	if _, err := Handler(bin, ""); err == nil || !strings.Contains(err.Error(), bin) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v", err)
	}
}

func TestPullWithoutTheRepositoryNamesFolderAndFiles(t *testing.T) {
	// A proxy that nobody serves: no way out, whatever machine this runs on.
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
	cache := filepath.Join(t.TempDir(), "cache")
	err := Pull(cache, []Wanted{{"traefik", "39.0.9"}, {"argo-cd", "10.1.1"}}, t.Logf)
	if err == nil || !strings.Contains(err.Error(), cache) || !strings.Contains(err.Error(), "traefik-39.0.9.tgz argo-cd-10.1.1.tgz") {
		t.Errorf("got %v", err)
	}
}

func TestAWantedPackageIsNameAndVersion(t *testing.T) {
	if w, err := ParseWanted("cilium@1.20.0"); err != nil || w != (Wanted{"cilium", "1.20.0"}) {
		t.Errorf("got %v, %v", w, err)
	}
	for _, bad := range []string{"cilium", "@1", "cilium@", "nginx@1.0.0"} {
		if _, err := ParseWanted(bad); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestAnOutdatedRepositoryListsItsChartInAnotherVersionOnly(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	handler, err := OutdatedHandler(f.Bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		_, body := get(t, handler, http.MethodGet, c.repository+"/index.yaml")
		var index repo.IndexFile
		if err := yaml.Unmarshal([]byte(body), &index); err != nil {
			t.Fatal(err)
		}
		if entries := index.Entries[c.name]; len(entries) != 1 || entries[0].Version != "0.0.1" {
			t.Errorf("%s: got %s", c.repository, body)
		}
	}
}
