package world

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAWorldThatWouldFillTheDiskIsRefusedWithBothNumbers(t *testing.T) {
	l := Layout{Root: "/somewhere"}
	err := judgeRoom(l, 3, room{memory: 3000 * mib, disk: 1024 * mib}, room{memory: 9000 * mib, disk: 200 * mib}, nil)
	for _, part := range []string{"/somewhere", "1.0 GiB", "200 MiB", "--state"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks in: %v", part, err)
		}
	}
}

func TestTooLittleMemoryIsAWarningAndMuchTooLittleARefusal(t *testing.T) {
	wants, said := room{memory: 3000 * mib, disk: mib}, ""
	warn := func(format string, args ...any) { said += fmt.Sprintf(format, args...) }
	if err := judgeRoom(Layout{}, 3, wants, room{memory: 3000 * mib, disk: mib}, warn); err != nil || said != "" {
		t.Errorf("enough: %v, %q", err, said)
	}
	if err := judgeRoom(Layout{}, 3, wants, room{memory: 2000 * mib, disk: mib}, warn); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said, "2.9 GiB") || !strings.Contains(said, "2.0 GiB") {
		t.Errorf("said %q", said)
	}
	err := judgeRoom(Layout{}, 3, wants, room{memory: 1000 * mib, disk: mib}, warn)
	if err == nil || !strings.Contains(err.Error(), "1000 MiB") {
		t.Errorf("got %v", err)
	}
}

func TestADiskThatGetsFullIsNamedWithWhatIsLeft(t *testing.T) {
	found := shortagesOf(Layout{Root: "/somewhere"}, room{memory: 3000 * mib, disk: 1024 * mib}, room{memory: 9000 * mib, disk: 5 * mib})
	if len(found) != 1 || !strings.Contains(found["disk"], "5 MiB") || !strings.Contains(found["disk"], "/somewhere") {
		t.Errorf("got %v", found)
	}
}

func TestAPlatformOfMoreControlPlanesNeedsMore(t *testing.T) {
	var s Settings
	one := needed(s)
	s.Machines = make([]Machine, 2)
	s.Machines[0].Role, s.Machines[1].Role = controlPlaneRole, "worker"
	two := needed(s)
	if two.memory <= one.memory+memoryOfPlane || two.disk != one.disk+diskOfPlane {
		t.Errorf("%v, then %v", one, two)
	}
}

func TestTheLimitOfAControlGroupCounts(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{
		"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 500\ninactive_file 200\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if left, limited := leftInGroup(folder); !limited || left != 500 {
		t.Errorf("%d, %v", left, limited)
	}
	if err := os.WriteFile(filepath.Join(folder, "memory.max"), []byte("max\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, limited := leftInGroup(folder); limited {
		t.Error("a group without a limit has one")
	}
}
