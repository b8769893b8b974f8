// Package releases fetches programs that their vendors publish ready-made, and lets nothing in whose digest is not the one
// that the lock, or without one the vendor's own file, has for it.
package releases

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"platform.lab/lab/internal/programs"
)

// ErrUnavailable is in every error that says: the vendor did not give the file, now or at all. Those without it say that what
// it gave is not what was expected.
var ErrUnavailable = errors.New("not available")

// Limits of what a vendor may send; the largest program, Argo CD's, has about 220 MiB.
const (
	archiveLimit  = 1 << 30
	programLimit  = 1 << 30
	checksumLimit = 1 << 20
)

// atOnce is how many files come at a time: more share the same line, and each keeps a connection.
const atOnce = 4

// Wanted is a program to fetch: the release of a version for a processor.
type Wanted struct {
	Name, Version string
	programs.Release
}

// Fetcher brings programs into Bin.
type Fetcher struct {
	Bin string
	// Mirror is the address below which the vendors' files lie, by the vendor's host and path; "": at the vendors.
	Mirror string
	// Lock has the digests that were written down before; nil: there is no lock.
	Lock Lock
	// Patience is how long a server may send nothing.
	Patience time.Duration
	// Step runs a step under a name and tells of it; Say tells a line.
	Step func(name string, step func() error) error
	Say  func(format string, arguments ...any)

	down unreachable
}

// Fetch brings all that is wanted, and answers with one error for each program that it could not bring, by its name. What was
// brought stays.
func (f *Fetcher) Fetch(ctx context.Context, wanted []Wanted) map[string]error {
	var (
		mutex  sync.Mutex
		group  sync.WaitGroup
		failed = map[string]error{}
		places = make(chan struct{}, atOnce)
	)

	for _, one := range wanted {
		group.Go(func() {
			places <- struct{}{}

			defer func() { <-places }()

			if err := f.Step("fetch "+one.Name+" "+one.Version, func() error { return f.fetch(ctx, one) }); err != nil {
				mutex.Lock()
				defer mutex.Unlock()

				failed[one.Name] = err
			}
		})
	}

	group.Wait()

	return failed
}

func (f *Fetcher) fetch(ctx context.Context, one Wanted) error {
	wanted, from, err := f.expected(ctx, one.Release)
	if err != nil {
		return err
	}

	part := filepath.Join(f.Bin, one.Name+".part")
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		return err
	}

	defer os.Remove(part)

	size, found, err := f.download(ctx, one.Archive, part, wanted)
	if err != nil {
		return err
	}

	if found != wanted {
		return fmt.Errorf("%s has the digest %s, and %s says %s: it was damaged or changed, and is thrown away. "+
			"Run the command again; if it fails again, take it for an attack until its vendor says otherwise", one.Archive, found, from, wanted)
	}

	program := part
	if one.Member != "" {
		program = filepath.Join(f.Bin, one.Name+".part-program")
		defer os.Remove(program)

		if err := unpack(part, one.Member, program); err != nil {
			return fmt.Errorf("%s: %w", one.Archive, err)
		}
	}

	if err := programs.Install(program, f.Bin, one.Name, one.Version, one.Archive, found); err != nil {
		return err
	}

	f.Say("%s %s is its vendor's release: %s, %s, %s as %s says", one.Name, one.Version, one.Archive, programs.Size(size), found, from)

	return nil
}

// expected is the digest that a release has to have, and who says so.
func (f *Fetcher) expected(ctx context.Context, release programs.Release) (digest, from string, err error) {
	if f.Lock != nil {
		digest, known := f.Lock[release.Archive]
		if !known {
			return "", "", fmt.Errorf("%s is not in %s, which has the digests of all releases: `make releases-lock` writes it again",
				release.Archive, LockFile)
		}

		return digest, LockFile, nil
	}

	digest, err = f.Published(ctx, release)

	return digest, release.Checksums, err
}

// Published is the digest that a release has by its vendor's own file.
func (f *Fetcher) Published(ctx context.Context, release programs.Release) (string, error) {
	var text strings.Builder
	if _, err := f.get(ctx, release.Checksums, checksumLimit, &text); err != nil {
		return "", err
	}

	digest, err := digestOf(text.String(), release.Archive)
	if err != nil {
		return "", fmt.Errorf("%s: %w", release.Checksums, err)
	}

	return digest, nil
}

// download writes a file and gives its size and its digest, of the wanted digest's kind.
func (f *Fetcher) download(ctx context.Context, address, to, wanted string) (size uint64, digest string, err error) {
	kind, sum, err := hashOf(wanted)
	if err != nil {
		return 0, "", err
	}

	file, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, "", err
	}

	size, err = f.get(ctx, address, archiveLimit, io.MultiWriter(file, sum))

	return size, kind + ":" + hex.EncodeToString(sum.Sum(nil)), errors.Join(err, file.Close())
}

// hashOf makes the hash that a digest such as sha256:00ff names.
func hashOf(digest string) (kind string, sum hash.Hash, err error) {
	kind, digits, _ := strings.Cut(digest, ":")

	switch {
	case kind == "sha256" && len(digits) == hex.EncodedLen(sha256.Size):
		return kind, sha256.New(), nil
	case kind == "sha512" && len(digits) == hex.EncodedLen(sha512.Size):
		return kind, sha512.New(), nil
	default:
		return "", nil, fmt.Errorf("the digest %q is neither sha256: with 64 digits nor sha512: with 128", digest)
	}
}

// Alone waits until no other command fetches into bin, and keeps others waiting until the answer is called.
func Alone(bin string) (release func(), err error) {
	file, err := os.OpenFile(filepath.Join(bin, ".fetching"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}

	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}

	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: file.Name(), Err: err}, file.Close())
	}

	return func() { file.Close() }, nil
}
