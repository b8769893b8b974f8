package configuration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/compatibility"
)

// The program's table of which Kubernetes a Talos runs is Talos' own, as far as the library here knows the release.
func TestTheProgramsTableOfKubernetesVersionsIsTalosOwn(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "config", "versions.py"))
	if err != nil {
		t.Fatal(err)
	}

	table := regexp.MustCompile(`(?s)TALOS_KUBERNETES: dict\[str, Span\] = \{(.*?)\n\}`).FindSubmatch(data)
	if table == nil {
		t.Fatal("config/versions.py has no TALOS_KUBERNETES")
	}

	compared := 0

	for _, row := range regexp.MustCompile(`"([\d.]+)": \("1\.(\d+)", "1\.(\d+)"\)`).FindAllSubmatch(table[1], -1) {
		talos, err := compatibility.ParseTalosVersion(&machineapi.VersionInfo{Tag: "v" + string(row[1]) + ".0"})
		if err != nil {
			t.Fatal(err)
		}

		first, last := number(t, row[2]), number(t, row[3])
		if supported(t, first, talos) != nil && supported(t, last, talos) != nil {
			t.Logf("Talos %s: not known to this library: %v", row[1], supported(t, last, talos))

			continue
		}

		compared++

		for minor, wanted := range map[int]bool{first - 1: false, first: true, last: true, last + 1: false} {
			if err := supported(t, minor, talos); (err == nil) != wanted {
				t.Errorf("Talos %s and Kubernetes 1.%d: %v", row[1], minor, err)
			}
		}
	}

	if compared < 2 {
		t.Errorf("%d rows could be compared", compared)
	}
}

func supported(t *testing.T, minor int, talos *compatibility.TalosVersion) error {
	t.Helper()

	version, err := compatibility.ParseKubernetesVersion(fmt.Sprintf("1.%d.0", minor))
	if err != nil {
		t.Fatal(err)
	}

	return version.SupportedWith(talos)
}

func number(t *testing.T, text []byte) int {
	t.Helper()

	n, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}

	return n
}
