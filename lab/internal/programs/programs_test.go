package programs

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, folder string, versions map[string]string) {
	t.Helper()

	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}

	for name, version := range versions {
		if err := os.WriteFile(filepath.Join(folder, name+".version"), []byte(version), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func all(version string) map[string]string {
	return map[string]string{"kube-apiserver": version, "kube-controller-manager": version, "kube-scheduler": version}
}

func TestOnlyAWholeControlPlaneOfOneVersionCanBeRun(t *testing.T) {
	bin := t.TempDir()
	write(t, bin, all("v1.34.1"))
	write(t, filepath.Join(bin, "kubernetes-1.34"), all("v1.34.10"))
	write(t, filepath.Join(bin, "kubernetes-1.35"), map[string]string{"kube-apiserver": "v1.35.6"})

	wanted := map[string]string{"v1.34.1": bin, "v1.34.10": filepath.Join(bin, "kubernetes-1.34")}
	if found := Kubernetes(bin); !maps.Equal(found, wanted) {
		t.Fatalf("found %v, not %v", found, wanted)
	}
}

func TestEveryFurtherKubernetesHasAFolderOfItsOwn(t *testing.T) {
	list, err := FurtherKubernetes("../..")
	if err != nil {
		t.Fatal(err)
	}

	names := map[string]bool{}
	for _, p := range list {
		names[p.Name] = true

		if _, err := os.Stat(filepath.Join("../..", p.Folder, "go.mod")); err != nil {
			t.Error(err)
		}
	}

	if len(names) != len(list) || !names[filepath.Join("kubernetes-1.35", "kube-apiserver")] {
		t.Fatalf("programs %v", names)
	}
}

func TestEveryProgramsModuleIsRequiredWhereItIsBuilt(t *testing.T) {
	for _, p := range slices.Concat(All(), OfPods(), OfOmni(), OfWatching()) {
		text, err := os.ReadFile(filepath.Join("../..", p.Folder, "go.mod"))
		if err != nil {
			t.Error(err)

			continue
		}

		if !strings.Contains(string(text), p.Module) {
			t.Errorf("%s: %s/go.mod does not name %s", p.Name, p.Folder, p.Module)
		}
	}
}
