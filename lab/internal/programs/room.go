package programs

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// FreeDisk is what a folder's disk has left for everybody, in bytes.
func FreeDisk(folder string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(folder, &s); err != nil {
		return 0, fmt.Errorf("disk of %s: %w", folder, err)
	}
	return s.Bavail * uint64(s.Bsize), nil //nolint:gosec // a size
}

// Size writes a number of bytes for people.
func Size(bytes uint64) string {
	const mib, gib = 1 << 20, 1 << 30
	if bytes < gib {
		return fmt.Sprintf("%d MiB", bytes/mib)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/gib)
}

// What a first build takes: modules and compiled packages in Go's caches, the programs. With less
// than the least not even one program can be built.
const (
	diskOfBuild = 10 << 30
	leastDisk   = 1 << 30
)

// checkDisk refuses a build that would fill a disk, and warns of one that may.
func (b *Builder) checkDisk(ctx context.Context) error {
	folders := map[string]string{"programs": b.Bin}
	for name, variable := range map[string]string{"Go's compiled packages": "GOCACHE", "Go's modules": "GOMODCACHE"} {
		folder, err := b.goCommand(ctx, b.Lab, "env", variable)
		if err != nil {
			return err
		}
		folders[name] = folder
	}
	var problems []error
	for name, folder := range folders {
		free, err := FreeDisk(folder)
		if err != nil {
			continue // it does not exist before the first build
		}
		if text := judgeDisk(name, folder, free); free < leastDisk {
			problems = append(problems, errors.New(text))
		} else if text != "" {
			b.Display.Line("%s", text)
		}
	}
	return errors.Join(problems...)
}

func judgeDisk(name, folder string, free uint64) string {
	if free >= diskOfBuild {
		return ""
	}
	return fmt.Sprintf("disk of %s (%s): a first build takes up to %s, and %s are free", folder, name, Size(diskOfBuild), Size(free))
}
