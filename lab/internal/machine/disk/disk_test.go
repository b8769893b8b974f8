package disk

import (
	"testing"

	"platform.lab/lab/internal/machine/hardware"
)

func TestAnUpgradeLeavesTheRunningImageToGoBackToAndASecondOneOverwritesIt(t *testing.T) {
	first, second := hardware.Image{TalosVersion: "v1.13.9"}, hardware.Image{TalosVersion: "v1.13.10"}
	disk := Installation{Installed: true, Image: first}

	disk.Install(second)
	if disk.Image != second || disk.Previous != first || !disk.Upgrading {
		t.Fatalf("after an upgrade: %+v", disk)
	}

	reverted := disk
	reverted.Revert()
	if reverted.Image != first || reverted.Upgrading {
		t.Errorf("after going back: %+v", reverted)
	}

	// Two installations and no boot between them: the image that runs is in neither place.
	disk.Install(second)
	disk.Revert()
	if disk.Image != second {
		t.Errorf("after two installations: %+v", disk)
	}
}
