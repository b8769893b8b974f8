package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
)

var errCopy = errors.New("in Argo CD's pods of the lab: cp [-n | --update=none] FILE NEW-FILE")

// copyName is the name of the program of Argo CD's image that copyFile stands for.
const copyName = "cp"

// copyFile is the cp of Argo CD's image, as far as its pods' init containers use it. The computer's may be too old for
// --update=none, which its image has (coreutils 9.3).
func copyFile(arguments []string) error {
	keep := len(arguments) > 0 && slices.Contains([]string{"-n", "--update=none"}, arguments[0])
	if keep {
		arguments = arguments[1:]
	}

	if len(arguments) != 2 {
		return errCopy
	}

	from, err := os.Open(arguments[0])
	if err != nil {
		return err
	}
	defer from.Close()

	info, err := from.Stat()
	if err != nil {
		return err
	}

	how := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if keep {
		how = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	}

	to, err := os.OpenFile(arguments[1], how, info.Mode().Perm())
	if keep && errors.Is(err, fs.ErrExist) {
		return nil
	}

	if err != nil {
		return err
	}

	_, err = io.Copy(to, from)

	return errors.Join(err, to.Close())
}
