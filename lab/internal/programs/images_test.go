package programs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestAnImageIsKnownByItsNameWithoutTagAndDigest(t *testing.T) {
	for reference, wanted := range map[string]string{
		"a/b":                            "a/b",
		"a/b:1":                          "a/b",
		"host:5000/a/b":                  "host:5000/a/b",
		"host:5000/a/b:v1.2@sha256:0011": "host:5000/a/b",
	} {
		if got := Repository(reference); got != wanted {
			t.Errorf("%s: %s", reference, got)
		}
	}

	if _, known := ImageOf(Images(), "registry.k8s.io/coredns/coredns:v1.13.2"); !known {
		t.Error("CoreDNS is unknown")
	}

	if _, known := ImageOf(Images(), "example.com/coredns:v1.13.2"); known {
		t.Error("another registry's CoreDNS is known")
	}
}

func TestEveryProgramOfAPodIsBuilt(t *testing.T) {
	// The scripts come from Argo CD's module.
	built := map[string]bool{Lab: true}
	for _, script := range argoScripts {
		built[script] = true
	}

	for _, program := range slices.Concat(OfPods(), OfWatching(), All()) {
		built[program.Name] = true
	}

	for _, image := range Images() {
		for _, name := range image.Files {
			if !built[name] {
				t.Errorf("%s: %s is not built", image.Repository, name)
			}
		}
	}
}

func TestImagesOfProgramsThatNobodyAskedForAreKnownOnceTheseAreBuilt(t *testing.T) {
	bin, images := t.TempDir(), Images()
	known := func(reference string) bool {
		_, known := ImageOf(Built(bin, images), reference)

		return known
	}

	if known("docker.io/victoriametrics/vmalert:v1") || !known("docker.io/traefik:v3") {
		t.Error("without programs the images are not those that are always there")
	}

	if err := os.WriteFile(filepath.Join(bin, "vmalert"), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	if !known("docker.io/victoriametrics/vmalert:v1") || known("docker.io/victoriametrics/vlagent:v1") {
		t.Error("with one program not its image alone is added")
	}

	if all := Images(); len(images) != len(all) || images[0].Repository != all[0].Repository {
		t.Error("the list that was given is another one now")
	}
}
