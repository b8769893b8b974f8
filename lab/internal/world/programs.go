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

// images are those whose pods may run as processes.
func (o Options) images() []programs.Image {
	if o.Programs != ProgramsReal {
		return nil
	}
	return programs.Images()
}

// images are those whose pods run as processes: without those of programs that nobody asked for.
func (s *Spec) images() []programs.Image { return programs.Built(s.Bin, s.Options.images()) }

// settlePrograms simulates all pods where the trial says that this computer cannot run them as processes, and says so. Who
// asked for the real programs gets an error instead.
func (o *Options) settlePrograms(trial func() error, say func(string, ...any)) error {
	if o.images() == nil {
		return nil
	}
	err := trial()
	if err == nil {
		return nil
	}
	if o.ProgramsAsked {
		return fmt.Errorf("LAB_PROGRAMS=%s: %w", ProgramsReal, err)
	}
	o.Programs = ProgramsSimulated
	say("all pods are simulated: %s", err)
	return nil
}

// checkImages says which program is not built.
func checkImages(bin string, images []programs.Image) error {
	var needed []string
	for _, image := range programs.Built(bin, images) {
		needed = append(needed, slices.Collect(maps.Values(image.Files))...)
		for _, name := range image.Needs {
			if _, err := exec.LookPath(name); err != nil {
				return fmt.Errorf("missing tool: %s is not on PATH, and the program %s of pods calls it; "+
					"install it with the system's package manager, or set LAB_PROGRAMS=%s", name, image.Name(), ProgramsSimulated)
			}
		}
	}
	if len(images) > 0 {
		needed = append(needed, acmeProgram)
	}
	for _, name := range needed {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("missing tool: %s is not in %s, and pods run it; build it with `make build`, or set LAB_PROGRAMS=%s",
				name, bin, ProgramsSimulated)
		}
	}
	return nil
}
