package programs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// What LAB_BUILD may say: where the programs come from.
const (
	// Compiled: all from their modules.
	Compiled = "compiled"
	// Releases: those that their vendors publish ready-made, with checksums, are fetched; the others are compiled.
	Releases = "releases"
	// Auto fetches what it can, and compiles what its vendor does not give now. What is there is kept, however it was made.
	Auto = "auto"
)

// sourceFile in Bin remembers what LAB_BUILD said, so that the next command does not make everything again another way.
const sourceFile = ".source"

// Source is where programs come from: what was asked for, else as the last time, else Compiled.
func Source(bin, asked string) (string, error) {
	kept, err := os.ReadFile(filepath.Join(bin, sourceFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}

	source := cmp.Or(asked, string(kept), Compiled)
	if source != Compiled && source != Releases && source != Auto {
		return "", fmt.Errorf("LAB_BUILD=%s is unknown: write %s, %s or %s", source, Compiled, Releases, Auto)
	}

	return source, nil
}

// KeepSource remembers it.
func KeepSource(bin, source string) error {
	return os.WriteFile(filepath.Join(bin, sourceFile), []byte(source), 0o644)
}

// Release is what a vendor publishes of one program. In a template {version} is the version with its v, {number} the same
// without it, {arch} the processor as Go names it, and {x64} as Pulumi does.
type Release struct {
	// Archive is the address of the program, or of a .tar.gz with it.
	Archive string
	// Checksums is the address of the vendor's file with the archive's SHA-256 or SHA-512.
	Checksums string
	// Member is the program's path in the archive; "" when the archive is the program.
	Member string
}

// Architectures are the processors that every vendor here publishes for.
func Architectures() []string { return []string{"amd64", "arm64"} }

// Of fills a template in.
func (r Release) Of(version, arch string) Release {
	x64 := arch
	if arch == "amd64" {
		x64 = "x64"
	}

	fill := strings.NewReplacer("{version}", version, "{number}", strings.TrimPrefix(version, "v"), "{arch}", arch, "{x64}", x64).Replace

	return Release{Archive: fill(r.Archive), Checksums: fill(r.Checksums), Member: fill(r.Member)}
}

// github is a release among those of a repository on GitHub; checksums and file are names of its assets.
func github(repository, tag, file, checksums, member string) *Release {
	folder := "https://github.com/" + repository + "/releases/download/" + tag + "/"

	return &Release{Archive: folder + file, Checksums: folder + checksums, Member: member}
}

// kubernetesRelease is one of https://dl.k8s.io; each file has its digest beside it
// (https://kubernetes.io/releases/download/#binaries).
func kubernetesRelease(name string) *Release {
	address := "https://dl.k8s.io/release/{version}/bin/linux/{arch}/" + name

	return &Release{Archive: address, Checksums: address + ".sha256"}
}

// Fetched tells where a program in bin was fetched from, and the archive's digest; false for one that was compiled.
func Fetched(bin, name string) (address, digest string, fetched bool) {
	stamp, err := os.ReadFile(filepath.Join(bin, name+".stamp"))
	if err != nil {
		return "", "", false
	}

	words := strings.Fields(string(stamp))
	if len(words) != 3 || words[0] != releaseMark {
		return "", "", false
	}

	return words[1], words[2], true
}

// releaseMark begins the stamp of a release; that of a compiled program is a hash.
const releaseMark = "release"

// Install puts a program that was fetched into bin, in place of what is there. From its first step to its last no stamp
// vouches for the program, so that one who is killed between them leaves nothing that looks finished.
func Install(file, bin, name, version, address, digest string) error {
	target := filepath.Join(bin, name)
	if err := Distrust(bin, name); err != nil {
		return err
	}

	if err := os.Chmod(file, 0o755); err != nil {
		return err
	}

	if err := os.Rename(file, target); err != nil {
		return err
	}

	if err := os.WriteFile(target+".version", []byte(version), 0o644); err != nil {
		return err
	}

	return os.WriteFile(target+".stamp", []byte(releaseMark+" "+address+" "+digest), 0o644)
}

// Distrust takes a program's stamp away: it will be made again.
func Distrust(bin, name string) error {
	err := os.Remove(filepath.Join(bin, name+".stamp"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}

	return err
}

// isRelease says whether the program in bin is the release of that version.
func isRelease(bin string, p Program, version, arch string) bool {
	if p.Release == nil {
		return false
	}

	address, _, fetched := Fetched(bin, p.Name)
	if _, err := os.Stat(filepath.Join(bin, p.Name)); err != nil {
		return false
	}

	return fetched && address == p.Release.Of(version, arch).Archive
}

// Described is a program's version for a run's summary, with where it comes from when it was not compiled.
func Described(bin, name string) string {
	version := Version(bin, name)
	if _, _, fetched := Fetched(bin, name); fetched {
		version += ", its vendor's release"
	}

	return version
}

// DescribedImages are images that say so too: what the lab's own build leaves out, the vendor's has.
func DescribedImages(bin string, images []Image) []Image {
	described := make([]Image, len(images))

	for i, image := range images {
		if name, fetched := image.fetched(bin); fetched {
			image.Says = "its vendor's release " + Version(bin, name)
		}

		described[i] = image
	}

	return described
}

// fetched names the program of an image that was fetched: the one that the image is of.
func (i Image) fetched(bin string) (string, bool) {
	name := i.Repository[strings.LastIndexByte(i.Repository, '/')+1:]
	for _, program := range i.Files {
		if program == name {
			_, _, fetched := Fetched(bin, name)

			return name, fetched
		}
	}

	return "", false
}
