package programs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// withAdded gives the flags that build a program with files which its module has not. Nothing may be laid over Go's cache of
// modules, so the module is taken by a link to it, and the files are laid over that.
func (b *Builder) withAdded(ctx context.Context, p Program) (flags []string, err error) {
	source, _, err := b.Module(ctx, p.Folder, p.Module)
	if err != nil {
		return nil, err
	}

	folder := filepath.Join(b.Bin, "."+p.Name)
	if err := os.RemoveAll(folder); err != nil {
		return nil, err
	}

	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}

	module := filepath.Join(folder, "module")
	if err := os.Symlink(source, module); err != nil {
		return nil, err
	}

	required, err := b.replaced(p, folder, module)
	if err != nil {
		return nil, err
	}

	laid, err := layOver(folder, module, p.Added)

	return []string{"-modfile", required, "-overlay", laid}, err
}

// replaced writes a go.mod into folder that takes the program's module from another place, with the go.sum that goes with it.
func (b *Builder) replaced(p Program, folder, module string) (file string, err error) {
	file = filepath.Join(folder, "go.mod")
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(b.Lab, p.Folder, name))
		if err != nil {
			return "", err
		}

		if name == "go.mod" {
			text = fmt.Appendf(text, "\nreplace %s => %s\n", p.Module, module)
		}

		if err := os.WriteFile(filepath.Join(folder, name), text, 0o644); err != nil {
			return "", err
		}
	}

	return file, nil
}

// layOver writes the files into folder, and beside them what tells Go where in the module they stand (go help build, -overlay).
func layOver(folder, module string, files map[string]string) (overlay string, err error) {
	places := map[string]string{}

	for path, text := range files {
		source := filepath.Join(folder, "added", path)
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return "", err
		}

		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			return "", err
		}

		places[filepath.Join(module, path)] = source
	}

	text, err := json.Marshal(map[string]any{"Replace": places})
	if err != nil {
		return "", err
	}

	overlay = filepath.Join(folder, "overlay.json")

	return overlay, os.WriteFile(overlay, text, 0o644)
}
