package releases

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"platform.lab/lab/internal/programs"
)

// LockFile is the lock's place in the repository.
const LockFile = "lab/releases.lock"

const lockHead = "# The digests of the vendors' releases, as their own files had them when `make releases-lock` wrote this.\n"

// Lock has a digest for the address of each archive.
type Lock map[string]string

// ReadLock reads it; nil where there is none.
func ReadLock(file string) (Lock, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}

	if err != nil {
		return nil, err
	}

	lock := Lock{}

	for number, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}

		if len(words) != 2 {
			return nil, fmt.Errorf("%s line %d: expected a digest and an address; `make releases-lock` writes the file again", file, number+1)
		}

		if _, _, err := hashOf(words[0]); err != nil {
			return nil, fmt.Errorf("%s line %d: %w; `make releases-lock` writes the file again", file, number+1, err)
		}

		lock[words[1]] = words[0]
	}

	return lock, nil
}

// Write replaces the file.
func (l Lock) Write(file string) error {
	text := bytes.NewBufferString(lockHead)
	for _, address := range slices.Sorted(maps.Keys(l)) {
		fmt.Fprintf(text, "%s  %s\n", l[address], address)
	}

	part := file + ".part"
	if err := os.WriteFile(part, text.Bytes(), 0o644); err != nil {
		return err
	}

	return os.Rename(part, file)
}

// LockOf asks the vendors for the digests of releases. Nothing is written down unless all are known.
func (f *Fetcher) LockOf(ctx context.Context, all []programs.Release) (Lock, error) {
	lock := Lock{}

	var problems []error

	for _, release := range all {
		digest, err := f.Published(ctx, release)
		if err != nil {
			problems = append(problems, err)

			continue
		}

		lock[release.Archive] = digest
	}

	return lock, errors.Join(problems...)
}
