package charts

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"helm.sh/helm/v3/pkg/action"
	helm "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"

	"platform.lab/lab/internal/progress"
)

// tools are the folders below lab/ whose go.mod files pin the modules that are read here.
var tools = []string{"tools/charts", "tools/gateway-api"}

// Builder makes the packages of the source tree Lab into Bin. Cache may be missing.
type Builder struct {
	Lab, Bin, Cache string
	// Module gives the folder and the version (with its v) of a module that the go.mod in a folder
	// below Lab requires; its content was checked against go.sum.
	Module  func(folder, module string) (dir, version string, err error)
	Display *progress.Display
}

// Build makes all packages, manifests and definitions, unless nothing changed since the last build.
func (b *Builder) Build() error {
	stamp, err := b.stamp()
	if err != nil {
		return err
	}
	path := packages(b.Bin) + ".stamp"
	if old, err := os.ReadFile(path); err == nil && string(old) == stamp {
		return nil
	}
	return b.Display.Step("package the charts", func() error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := b.build(); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(stamp), 0o644)
	})
}

// build works beside the old folders and then puts the new ones in their place.
func (b *Builder) build() error {
	if err := os.MkdirAll(b.Bin, 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(b.Bin, "charts.new.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	for _, step := range []func(string) error{b.packAll, b.copyManifests, b.copyDefinitions} {
		if err := step(scratch); err != nil {
			return err
		}
	}
	for _, name := range []string{"charts", "manifests", "crds"} {
		target := filepath.Join(b.Bin, name)
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(scratch, name), target); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) packAll(bin string) error {
	target := packages(bin)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	entries, err := b.copyCache(target)
	if err != nil {
		return err
	}
	for _, c := range all {
		made, source, err := b.load(c)
		if err != nil {
			return fmt.Errorf("chart %s: %w", c.name, err)
		}
		entry := Entry{Name: c.name, Version: made.Metadata.Version, Source: source}
		if has(entries, entry) {
			continue // the cache folder's wins
		}
		if _, err := chartutil.Save(made, target); err != nil {
			return fmt.Errorf("chart %s: %w", c.name, err)
		}
		entries = append(entries, entry)
	}
	return writeIndex(target, entries)
}

func has(entries []Entry, wanted Entry) bool {
	for _, e := range entries {
		if e.Name == wanted.Name && same(e.Version, wanted.Version) {
			return true
		}
	}
	return false
}

// load reads a chart out of its module, or makes the stand-in complete.
func (b *Builder) load(c chart) (*helm.Chart, Source, error) {
	if c.module.module == "" {
		made, err := loader.LoadDir(filepath.Join(b.Lab, "charts", c.name))
		if err != nil {
			return nil, "", err
		}
		return made, StandIn, b.addDefinitions(made)
	}
	dir, version, err := b.Module(c.module.tool, c.module.module)
	if err != nil {
		return nil, "", err
	}
	made, err := loader.LoadDir(filepath.Join(dir, filepath.FromSlash(c.module.path)))
	if err != nil {
		return nil, "", err
	}
	if c.release {
		made.Metadata.Version, made.Metadata.AppVersion = version, version
	}
	if !c.counted && !same(made.Metadata.Version, version) {
		return nil, "", fmt.Errorf("%s %s holds the chart's version %s", c.module.module, version, made.Metadata.Version)
	}
	return made, Module, checkDependencies(made)
}

// checkDependencies refuses a chart that lacks a subchart it names.
func checkDependencies(c *helm.Chart) error {
	if wanted := c.Metadata.Dependencies; wanted != nil {
		return action.CheckDependencies(c, wanted)
	}
	return nil
}

// standInAnnotation marks the stand-ins in their Chart.yaml, so that none is ever taken for a real
// package: a pull inside a world would bring them.
const standInAnnotation = "platform.lab/stand-in"

// cached lists the packages of a cache folder; one that is missing is empty.
func cached(cache string) ([]Entry, error) {
	files, err := filepath.Glob(filepath.Join(cache, "*.tgz"))
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, path := range files {
		c, err := loader.LoadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s is not a chart package: %w", path, err)
		}
		if _, err := find(c.Name()); err != nil {
			return nil, fmt.Errorf("%s: %w; remove it", path, err)
		}
		if c.Metadata.Annotations[standInAnnotation] != "" {
			return nil, fmt.Errorf("%s is the lab's own stand-in, not the real package; remove it", path)
		}
		entry := Entry{Name: c.Name(), Version: c.Metadata.Version, Source: Cache}
		if entry.File() != filepath.Base(path) {
			return nil, fmt.Errorf("%s holds %s %s: its name must be %s", path, entry.Name, entry.Version, entry.File())
		}
		out = append(out, entry)
	}
	return out, nil
}

func (b *Builder) copyCache(target string) ([]Entry, error) {
	entries, err := cached(b.Cache)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := copyFile(filepath.Join(b.Cache, e.File()), filepath.Join(target, e.File())); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

// stamp is the hash of all that a build is made from: this program, the pinned modules, the
// stand-ins, and the names, sizes and times of the cached packages.
func (b *Builder) stamp() (string, error) {
	hash := sha256.New()
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	look := func(path string) error {
		info, err := os.Stat(path)
		if err == nil {
			fmt.Fprintln(hash, filepath.Base(path), info.Size(), info.ModTime().UnixNano())
		}
		return err
	}
	read := func(path string) error {
		content, err := os.ReadFile(path)
		if err == nil {
			fmt.Fprintln(hash, path, len(content))
			hash.Write(content)
		}
		return err
	}
	if err := look(self); err != nil {
		return "", err
	}
	for _, tool := range tools {
		for _, name := range []string{"go.mod", "go.sum"} {
			if err := read(filepath.Join(b.Lab, tool, name)); err != nil {
				return "", err
			}
		}
	}
	if err := walk(filepath.Join(b.Lab, "charts"), read); err != nil {
		return "", err
	}
	if err := walk(b.Cache, look); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// walk visits the files below a folder in order.
func walk(root string, visit func(path string) error) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return visit(path)
	})
}
