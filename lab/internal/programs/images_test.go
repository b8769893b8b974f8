package programs

import "testing"

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

	for _, program := range append(OfPods(), All()...) {
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
