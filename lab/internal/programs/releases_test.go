package programs

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"platform.lab/lab/internal/progress"
)

func TestEveryProgramHasAReleaseOrAReasonWhyNot(t *testing.T) {
	all, err := Selected("../..", Selection{Pods: true, Upgrades: true, Omni: true, Watching: true})
	if err != nil {
		t.Fatal(err)
	}

	names := map[string]bool{}

	for _, p := range all {
		if (p.Release == nil) == (p.Because == "") {
			t.Errorf("%s: release %v, because %q", p.Name, p.Release, p.Because)
		}

		if names[p.Name] {
			t.Errorf("%s is there twice", p.Name)
		}

		names[p.Name] = true
	}

	for _, name := range []string{"kube-apiserver", "traefik", "omnictl", "vlagent", "kubernetes-1.35/kube-apiserver"} {
		if !names[name] {
			t.Errorf("%s is not selected", name)
		}
	}
}

func TestATemplateIsFilledIn(t *testing.T) {
	template := Release{Archive: "{version}/{number}-{arch}-{x64}", Checksums: "{number}", Member: "{arch}/x"}
	if r := template.Of("v1.2.3", "amd64"); r != (Release{"v1.2.3/1.2.3-amd64-x64", "1.2.3", "amd64/x"}) {
		t.Error(r)
	}

	if r := template.Of("v1.2.3", "arm64"); r.Archive != "v1.2.3/1.2.3-arm64-arm64" {
		t.Error(r)
	}
}

func TestProgramsComeFromWhereTheyWereAskedForElseAsTheLastTime(t *testing.T) {
	bin := t.TempDir()

	expect := func(asked, wanted string) {
		t.Helper()

		if source, err := Source(bin, asked); err != nil || source != wanted {
			t.Errorf("asked for %q: %s, %v", asked, source, err)
		}
	}

	expect("", Compiled)
	expect(Releases, Releases)

	if err := KeepSource(bin, Releases); err != nil {
		t.Fatal(err)
	}

	expect("", Releases)
	expect(Compiled, Compiled)
	expect(Auto, Auto)

	if _, err := Source(bin, "downloaded"); err == nil || !strings.Contains(err.Error(), "LAB_BUILD=downloaded") {
		t.Error(err)
	}
}

// withoutGo is a builder whose toolchain says that every module has the version v1.2.3, and that leaves an empty file where
// it is to build one.
func withoutGo(t *testing.T, source string) *Builder {
	t.Helper()

	folder := t.TempDir()
	toolchain := filepath.Join(folder, "go")

	script := `#!/bin/sh
case "$*" in
"list -m "*) echo v1.2.3 ;;
"env "*) echo go1.0 ;;
build*) while [ "$1" != -o ]; do shift; done; echo compiled > "$2" ;;
esac
`
	if err := os.WriteFile(toolchain, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}

	for _, name := range []string{"go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(folder, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	return &Builder{Lab: folder, Bin: t.TempDir(), Go: toolchain, Source: source, Display: progress.New(t.Output())}
}

var (
	released = Program{
		Name: "released", Folder: ".", Package: "vendor.example/released", Module: "vendor.example",
		Release: &Release{Archive: "https://vendor.example/{version}/{arch}", Checksums: "https://vendor.example/sums"},
	}
	own = Program{Name: "own", Folder: ".", Package: "vendor.example/own", Module: "vendor.example", Because: ownProgram}
)

func install(t *testing.T, b *Builder, version string) {
	t.Helper()

	file := filepath.Join(t.TempDir(), "fetched")
	if err := os.WriteFile(file, []byte("fetched"), 0o600); err != nil {
		t.Fatal(err)
	}

	address := released.Release.Of(version, runtime.GOARCH).Archive
	if err := Install(file, b.Bin, released.Name, version, address, "sha256:00"); err != nil {
		t.Fatal(err)
	}
}

func compile(t *testing.T, b *Builder, p Program) {
	t.Helper()

	recipe, err := b.recipe(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}

	if err := b.build(t.Context(), p, recipe); err != nil {
		t.Fatal(err)
	}
}

func TestAProgramIsMadeAgainWhenItComesFromElsewhere(t *testing.T) {
	there := map[string]func(*testing.T, *Builder){
		"nothing":                   func(*testing.T, *Builder) {},
		"compiled":                  func(t *testing.T, b *Builder) { compile(t, b, released) },
		"the release":               func(t *testing.T, b *Builder) { install(t, b, "v1.2.3") },
		"the release of before":     func(t *testing.T, b *Builder) { install(t, b, "v1.2.2") },
		"the release that is gone":  func(t *testing.T, b *Builder) { install(t, b, "v1.2.3"); remove(t, b, "") },
		"the release half replaced": func(t *testing.T, b *Builder) { install(t, b, "v1.2.3"); remove(t, b, ".stamp") },
	}

	for _, c := range []struct {
		source, there string
		stays         bool
	}{
		{Compiled, "nothing", false},
		{Compiled, "compiled", true},
		{Compiled, "the release", false},
		{Releases, "nothing", false},
		{Releases, "compiled", false},
		{Releases, "the release", true},
		{Releases, "the release of before", false},
		{Releases, "the release that is gone", false},
		{Releases, "the release half replaced", false},
		{Auto, "nothing", false},
		{Auto, "compiled", true},
		{Auto, "the release", true},
		{Auto, "the release of before", false},
	} {
		b := withoutGo(t, c.source)
		there[c.there](t, b)

		list, versions, err := b.ToFetch(t.Context(), []Program{released, own})
		if err != nil {
			t.Fatal(err)
		}

		if (len(list) == 0) != c.stays || len(list) > 0 && (list[0].Name != released.Name || versions[0] != "v1.2.3") {
			t.Errorf("%s, and %s is there: to fetch are %v", c.source, c.there, list)
		}
	}
}

func remove(t *testing.T, b *Builder, suffix string) {
	t.Helper()

	if err := os.Remove(filepath.Join(b.Bin, released.Name+suffix)); err != nil {
		t.Fatal(err)
	}
}

func TestAReleaseThatIsToBeThereIsNotCompiledInSilence(t *testing.T) {
	b := withoutGo(t, Releases)

	err := b.explain([]task{{released, recipe{version: "v1.2.3"}}, {own, recipe{}}})
	if err == nil || !strings.Contains(err.Error(), "released v1.2.3") || strings.Contains(err.Error(), "own") {
		t.Error(err)
	}

	b.Source = Auto
	if err := b.explain([]task{{released, recipe{version: "v1.2.3"}}, {own, recipe{}}}); err != nil {
		t.Error(err)
	}
}

func TestACompiledProgramTakesTheReleasesPlaceAndNameAndIsToldApart(t *testing.T) {
	b := withoutGo(t, Compiled)
	install(t, b, "v1.2.3")

	if told := Described(b.Bin, released.Name); told != "v1.2.3, its vendor's release" {
		t.Error(told)
	}

	compile(t, b, released)

	if told := Described(b.Bin, released.Name); told != "v1.2.3" {
		t.Error(told)
	}

	if content, err := os.ReadFile(filepath.Join(b.Bin, released.Name)); string(content) != "compiled\n" {
		t.Errorf("the program is %q, %v", content, err)
	}
}

func TestARunsSummarySaysWhichImagesAreReleases(t *testing.T) {
	b := withoutGo(t, Releases)

	file := filepath.Join(t.TempDir(), "fetched")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	if err := Install(file, b.Bin, "traefik", "v3.0.0", "https://vendor.example/traefik", "sha256:00"); err != nil {
		t.Fatal(err)
	}

	before, after := Images(), DescribedImages(b.Bin, Images())
	for i, image := range after {
		wanted := before[i].Says
		if image.Name() == "traefik" {
			wanted = "its vendor's release v3.0.0"
		}

		if image.Says != wanted {
			t.Errorf("%s says %q", image.Name(), image.Says)
		}
	}
}
