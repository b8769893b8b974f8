package world

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"platform.lab/lab/internal/programs"
)

// What LAB_PROGRAMS and --programs may say.
const (
	// ProgramsSimulated simulates all pods: KWOK says that they run.
	ProgramsSimulated = "simulated"
	// programsPlayed is another word for it.
	programsPlayed = "played"
	// ProgramsReal runs those pods as processes whose images the lab knows as programs.
	ProgramsReal = "real"
)

// CheckPrograms refuses any other word.
func CheckPrograms(word string) error {
	if word != ProgramsSimulated && word != programsPlayed && word != ProgramsReal {
		return fmt.Errorf("LAB_PROGRAMS=%s is unknown: write %s or %s", word, ProgramsSimulated, ProgramsReal)
	}
	return nil
}

// images are those whose pods run as processes.
func (o Options) images() []programs.Image {
	if o.Programs != ProgramsReal {
		return nil
	}
	return programs.Images()
}

// checkImages says which program is not built.
func checkImages(bin string, images []programs.Image) error {
	var needed []string
	for _, image := range images {
		needed = append(needed, slices.Collect(maps.Values(image.Files))...)
		for _, name := range image.Needs {
			if _, err := exec.LookPath(name); err != nil {
				return fmt.Errorf("missing tool: %s is not on PATH, and with LAB_PROGRAMS=%s the program %s calls it; "+
					"install it with the system's package manager", name, ProgramsReal, image.Name())
			}
		}
	}
	if len(images) > 0 {
		needed = append(needed, acmeProgram)
	}
	for _, name := range needed {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("missing tool: %s is not in %s, and LAB_PROGRAMS=%s runs it; build it with `LAB_PROGRAMS=%s make build`",
				name, bin, ProgramsReal, ProgramsReal)
		}
	}
	return nil
}
