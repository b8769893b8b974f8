package charts

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes/scheme"
)

const (
	// oldestMinor is the first that a Talos known to the stack can leave; up to newestMinor the table is complete.
	oldestMinor, newestMinor = 31, 37
)

// reviews are asked and never stored, so no manifest and no object has them.
var reviews = []string{"SelfSubjectReview", "APIGroupDiscovery"}

// The table of what Kubernetes serves no longer (config/removed_apis.py) is held against the types' own word.
func TestTheTableOfRemovedAPIsIsThatOfKubernetesTypes(t *testing.T) {
	project, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}

	wanted := map[string]string{}

	for kind := range scheme.Scheme.AllKnownTypes() {
		object, err := scheme.Scheme.New(kind)
		if err != nil || strings.HasSuffix(kind.Kind, "List") || slices.Contains(reviews, kind.Kind) {
			continue
		}

		removed, ends := object.(interface{ APILifecycleRemoved() (major, minor int) })
		if !ends {
			continue
		}

		if _, minor := removed.APILifecycleRemoved(); minor >= oldestMinor && minor <= newestMinor {
			wanted[kind.GroupVersion().String()+" "+kind.Kind] = fmt.Sprintf("1.%d", minor)
		}
	}

	script := "import json; from config.removed_apis import REMOVED_APIS as rows; " +
		"print(json.dumps({f'{r.api_version} {k}': r.removed for r in rows for k in r.kinds}))"
	command := exec.CommandContext(t.Context(), filepath.Join(project, ".venv", "bin", "python"), "-c", script)
	command.Dir = project

	out, err := command.Output()
	if err != nil {
		t.Fatalf("the table cannot be read: %v", err)
	}

	table := map[string]string{}
	if err := json.Unmarshal(out, &table); err != nil {
		t.Fatal(err)
	}

	if !maps.Equal(table, wanted) {
		for _, line := range slices.Sorted(maps.Keys(wanted)) {
			t.Logf("%s %s", line, wanted[line])
		}

		t.Fatalf("config/removed_apis.py has %v", table)
	}
}
