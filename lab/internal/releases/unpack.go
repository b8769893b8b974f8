package releases

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// unpack writes one file of a .tar.gz. Only that one is written, and only to the given place: other entries, and what their
// names and links say, have no effect.
func unpack(archive, member, to string) error {
	packed, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer packed.Close()

	plain, err := gzip.NewReader(packed)
	if err != nil {
		return fmt.Errorf("expected a .tar.gz: %w", err)
	}

	entries := tar.NewReader(io.LimitReader(plain, archiveLimit+programLimit))

	for {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("expected the file %s in it, which is not there", member)
		}

		if err != nil {
			return fmt.Errorf("expected a .tar.gz: %w", err)
		}

		if path.Clean(entry.Name) != member {
			continue
		}

		if entry.Typeflag != tar.TypeReg || entry.Size > programLimit {
			return fmt.Errorf("%s in it is not a file of at most %d bytes", member, programLimit)
		}

		return write(to, entries)
	}
}

func write(to string, content io.Reader) error {
	file, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}

	_, err = io.Copy(file, content)

	return errors.Join(err, file.Close())
}
