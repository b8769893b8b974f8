package charts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/cli"
)

// Wanted is a package to pull, as NAME@VERSION names it.
type Wanted struct{ Name, Version string }

// ParseWanted reads NAME@VERSION.
func ParseWanted(text string) (Wanted, error) {
	name, version, ok := strings.Cut(text, "@")
	if !ok || name == "" || version == "" {
		return Wanted{}, fmt.Errorf("%s: write it as NAME@VERSION", text)
	}
	_, err := find(name)
	return Wanted{Name: name, Version: version}, err
}

// Built are the packages of the last build, which `lab charts` pulls when no other is named.
func Built(bin string) ([]Wanted, error) {
	entries, err := Index(bin)
	if err != nil {
		return nil, err
	}
	var out []Wanted
	for _, e := range entries {
		out = append(out, Wanted{Name: e.Name, Version: e.Version})
	}
	return out, nil
}

// Pull brings packages from their real repositories into the cache folder, and says each file. It
// needs internet: the error without says what to put where by hand.
func Pull(cache string, wanted []Wanted, say func(format string, args ...any)) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(cache, ".pull.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	for i, w := range wanted {
		c, err := find(w.Name)
		if err != nil {
			return err
		}
		file, err := pullOne(scratch, c, w.Version)
		if err != nil {
			return fmt.Errorf("%s %s from %s: %w\nwithout internet, put these packages into %s by hand: %s",
				w.Name, w.Version, c.repository, err, cache, strings.Join(files(wanted[i:]), " "))
		}
		if err := os.Rename(filepath.Join(scratch, file), filepath.Join(cache, file)); err != nil {
			return err
		}
		say("%s from %s", filepath.Join(cache, file), c.repository)
	}
	return nil
}

func files(wanted []Wanted) []string {
	var out []string
	for _, w := range wanted {
		out = append(out, Entry{Name: w.Name, Version: w.Version}.File())
	}
	return out
}

// pullOne downloads one package into an empty part of the folder, with caches of its own.
func pullOne(folder string, c chart, version string) (file string, err error) {
	target, err := os.MkdirTemp(folder, c.name+".")
	if err != nil {
		return "", err
	}
	settings := cli.New()
	settings.RepositoryCache, settings.RepositoryConfig = filepath.Join(folder, "repositories"), filepath.Join(folder, "repositories.yaml")
	pull := action.NewPullWithOpts(action.WithConfig(&action.Configuration{}))
	pull.Settings, pull.RepoURL, pull.Version, pull.DestDir = settings, c.repository, version, target
	if _, err := pull.Run(c.name); err != nil {
		return "", err
	}
	found, err := cached(target)
	if err != nil {
		return "", err
	}
	if len(found) != 1 || found[0].Name != c.name || !same(found[0].Version, version) {
		return "", fmt.Errorf("the repository answered with another package: %v", found)
	}
	file = found[0].File()
	return file, os.Rename(filepath.Join(target, file), filepath.Join(folder, file))
}
