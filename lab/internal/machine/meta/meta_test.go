package meta

import (
	"strings"
	"testing"

	"platform.lab/lab/internal/machine/disk"
)

func TestValuesSurviveAResetOfTheOtherPartitions(t *testing.T) {
	on, changes := disk.Disk(t.TempDir()), 0

	partition, err := Load(on, func() { changes++ })
	if err != nil {
		t.Fatal(err)
	}

	if ok, err := partition.Set(0x10, "token"); !ok || err != nil {
		t.Fatal(ok, err)
	}

	if ok, err := partition.Set(0x0c, "reserved"); !ok || err != nil {
		t.Fatal(ok, err)
	}

	if ok, err := partition.Delete(0x0c); !ok || err != nil {
		t.Fatal(ok, err)
	}

	if changes != 3 {
		t.Error(changes)
	}

	if err := on.Wipe("STATE", "EPHEMERAL"); err != nil {
		t.Fatal(err)
	}

	again, err := Load(on, func() {})
	if err != nil || again.Get(0x10) != "token" || len(again.All()) != 1 {
		t.Error(again.All(), err)
	}
}

func TestAWipeOfTheDiskOrOfMETATakesTheValuesAway(t *testing.T) {
	for _, labels := range [][]string{nil, {"META"}} {
		on := disk.Disk(t.TempDir())

		partition, err := Load(on, func() {})
		if err != nil {
			t.Fatal(err)
		}

		if _, err := partition.Set(0x10, "token"); err != nil {
			t.Fatal(err)
		}

		if err := on.Wipe(labels...); err != nil {
			t.Fatal(err)
		}

		if again, err := Load(on, func() {}); err != nil || again.Get(0x10) != "" {
			t.Error(labels, again.All(), err)
		}
	}
}

func TestAValueThatDoesNotFitChangesNothing(t *testing.T) {
	partition, err := Load(disk.Disk(t.TempDir()), func() { t.Error("told of a change") })
	if err != nil {
		t.Fatal(err)
	}

	if ok, err := partition.Set(0x0c, strings.Repeat("x", size)); ok || err != nil || partition.Get(0x0c) != "" {
		t.Error(ok, err)
	}

	if ok, err := partition.Delete(0x0c); ok || err != nil {
		t.Error(ok, err)
	}
}
