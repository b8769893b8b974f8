package programs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"platform.lab/lab/internal/progress"
)

// withModule is a builder whose toolchain has downloaded a module into a folder, and writes its arguments down when it builds.
func withModule(t *testing.T) (b *Builder, module, arguments string) {
	t.Helper()

	folder, module := t.TempDir(), t.TempDir()
	toolchain, arguments := filepath.Join(folder, "go"), filepath.Join(folder, "arguments")

	script := `#!/bin/sh
case "$*" in
"list -m "*) echo v1.2.3 ;;
"env "*) echo go1.0 ;;
"mod download "*) echo '{"Dir": "` + module + `", "Version": "v1.2.3"}' ;;
build*) echo "$*" > ` + arguments + ` ;;
esac
`
	if err := os.WriteFile(toolchain, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}

	for _, name := range []string{"go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("module x // "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	return &Builder{Lab: folder, Bin: t.TempDir(), Go: toolchain, Source: Compiled, Display: progress.New(t.Output())}, module, arguments
}

func TestAFileThatAModuleHasNotIsLaidOverItForTheBuild(t *testing.T) {
	b, module, arguments := withModule(t)
	p := Program{
		Name: "pages", Folder: ".", Package: "vendor.example/cmd/pages", Module: "vendor.example", Because: ownProgram,
		Added: map[string]string{"ui/dist/page.txt": "a page"},
	}

	recipe, err := b.recipe(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}

	if err := b.build(t.Context(), p, recipe); err != nil {
		t.Fatal(err)
	}

	said, err := os.ReadFile(arguments)
	if err != nil {
		t.Fatal(err)
	}

	words := strings.Fields(string(said))
	after := func(flag string) string {
		for at, word := range words {
			if word == flag && at+1 < len(words) {
				return words[at+1]
			}
		}

		t.Fatalf("no %s in %s", flag, said)

		return ""
	}

	required, err := os.ReadFile(after("-modfile"))
	if err != nil {
		t.Fatal(err)
	}

	_, place, _ := strings.Cut(strings.TrimSpace(string(required)), "replace vendor.example => ")
	if at, err := filepath.EvalSymlinks(place); err != nil || at != module || !strings.HasPrefix(string(required), "module x // go.mod") {
		t.Errorf("%s: %s, %v", required, at, err)
	}

	if sums, err := os.ReadFile(filepath.Join(filepath.Dir(after("-modfile")), "go.sum")); err != nil || string(sums) != "module x // go.sum" {
		t.Errorf("%s, %v", sums, err)
	}

	text, err := os.ReadFile(after("-overlay"))
	if err != nil {
		t.Fatal(err)
	}

	var overlay struct{ Replace map[string]string }
	if err := json.Unmarshal(text, &overlay); err != nil {
		t.Fatal(err)
	}

	added, err := os.ReadFile(overlay.Replace[filepath.Join(place, "ui/dist/page.txt")])
	if err != nil || string(added) != "a page" {
		t.Errorf("%s: %q, %v", text, added, err)
	}

	if left, err := os.ReadDir(module); err != nil || len(left) > 0 {
		t.Errorf("the module itself was changed: %v, %v", left, err)
	}

	p.Added["ui/dist/page.txt"] = "another page"
	if other, err := b.recipe(t.Context(), p); err != nil || other.hash == recipe.hash {
		t.Errorf("another page is not another program: %v", err)
	}
}
