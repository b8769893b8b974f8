// Package factory simulates the Talos image factory: the HTTP service that registers schematics
// and turns a schematic and a Talos version into a VMware image. It answers as the factory's own
// frontend does (same paths, status codes and messages); only the disk inside the image is empty.
package factory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// imagePath is the only kind of image the lab's hypervisor can run.
const imagePath = "vmware-amd64.ova"

// maxSchematicBytes bounds a request's body; a schematic is a few hundred bytes.
const maxSchematicBytes = 1 << 20

var (
	// versionPattern is a semantic version without build metadata, as the factory parses it.
	versionPattern = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)
	idPattern      = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Options describe what the factory offers.
type Options struct {
	// Versions are the Talos versions on offer, without a leading v, oldest first.
	Versions []string
	// Extensions are the official extensions on offer; nil takes OfficialExtensions.
	Extensions []string
	// Schematics are YAML documents registered from the start.
	Schematics [][]byte
	// Registered are schematics known by their identifier only, for a stack file that names one that an
	// operator registered earlier. Their customization is unknown.
	Registered []string
	// Dir keeps registered schematics, a file each; empty keeps them in memory.
	Dir string
}

// OfficialExtensions are some of the extensions that the Talos project publishes, those that make
// sense on a virtual machine.
var OfficialExtensions = []string{
	"siderolabs/amd-ucode",
	"siderolabs/intel-ucode",
	"siderolabs/iscsi-tools",
	"siderolabs/nfs-utils",
	"siderolabs/qemu-guest-agent",
	"siderolabs/util-linux-tools",
	"siderolabs/vmtoolsd-guest-agent",
}

// Factory is an http.Handler. It is safe for concurrent use.
type Factory struct {
	options Options
	mux     *http.ServeMux

	mu         sync.Mutex
	schematics map[string]*Schematic // nil where only the identifier is known
}

// New makes a factory, with the schematics that an earlier one left in Options.Dir.
func New(options Options) (*Factory, error) {
	if options.Extensions == nil {
		options.Extensions = OfficialExtensions
	}
	if len(options.Versions) == 0 {
		return nil, errors.New("factory: Versions is empty: give at least the settings' Talos version")
	}
	for _, version := range options.Versions {
		if !versionPattern.MatchString(version) {
			return nil, fmt.Errorf("factory: Versions: %q is not a version such as 1.13.9", version)
		}
	}
	f := &Factory{options: options, mux: http.NewServeMux(), schematics: map[string]*Schematic{}}
	if err := f.load(); err != nil {
		return nil, err
	}
	for _, id := range options.Registered {
		if !idPattern.MatchString(id) {
			return nil, fmt.Errorf("factory: Registered: %q is not a schematic's identifier of 64 hexadecimal digits", id)
		}
		if _, known := f.schematics[id]; !known {
			f.schematics[id] = nil
		}
	}
	for _, document := range options.Schematics {
		if _, err := f.Register(document); err != nil {
			return nil, err
		}
	}

	f.handle("POST /schematics", f.createSchematic)
	f.handle("GET /schematics/{schematic}", f.getSchematic)
	f.handle("GET /image/{schematic}/{version}/{path}", f.image)
	f.handle("GET /versions", f.versions)
	f.handle("GET /version/{version}/extensions/official", f.extensions)
	f.handle("GET /version/{version}/overlays/official", f.overlays)
	f.handle("GET /healthz", func(http.ResponseWriter, *http.Request) error { return nil })
	return f, nil
}

// ServeHTTP implements http.Handler.
func (f *Factory) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.mux.ServeHTTP(w, r) }

// Register keeps a schematic and returns its identifier; an unknown key is refused.
func (f *Factory) Register(document []byte) (string, error) {
	schematic, err := Parse(document)
	if err != nil {
		return "", err
	}
	return f.register(schematic)
}

func (f *Factory) register(schematic *Schematic) (string, error) {
	canonical, err := schematic.Canonical()
	if err != nil {
		return "", err
	}
	id := identifier(canonical)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.schematics[id] = schematic
	if f.options.Dir == "" {
		return id, nil
	}
	return id, os.WriteFile(filepath.Join(f.options.Dir, id+".yaml"), canonical, 0o600)
}

func (f *Factory) load() error {
	if f.options.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(f.options.Dir, 0o700); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(f.options.Dir, "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		document, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		schematic, err := Parse(document)
		if err != nil {
			return fmt.Errorf("factory: %s: %w", file, err)
		}
		f.schematics[strings.TrimSuffix(filepath.Base(file), ".yaml")] = schematic
	}
	return nil
}

func (f *Factory) lookup(id string) (*Schematic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	schematic, known := f.schematics[id]
	if !known {
		return nil, refusal{http.StatusNotFound, fmt.Sprintf("schematic ID %q not found", id)}
	}
	return schematic, nil
}

// refusal is an error with the status and text the factory answers with.
type refusal struct {
	status  int
	message string
}

func (r refusal) Error() string { return r.message }

// handle serves a pattern (a GET pattern serves HEAD too). An error without a status is answered
// as the factory does: 500 and no detail.
func (f *Factory) handle(pattern string, handler func(http.ResponseWriter, *http.Request) error) {
	f.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		err := handler(w, r)
		if err == nil {
			return
		}
		answer := refusal{http.StatusInternalServerError, "internal server error"}
		errors.As(err, &answer)
		http.Error(w, answer.message, answer.status)
	})
}

func (f *Factory) createSchematic(w http.ResponseWriter, r *http.Request) error {
	document, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSchematicBytes))
	if err != nil {
		return err
	}
	schematic, err := Parse(document)
	if err != nil {
		return refusal{http.StatusBadRequest, err.Error()}
	}
	id, err := f.register(schematic)
	if err != nil {
		return err
	}
	canonical, err := schematic.Canonical()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(map[string]string{"id": id, "schematic": string(canonical)})
}

func (f *Factory) getSchematic(w http.ResponseWriter, r *http.Request) error {
	schematic, err := f.lookup(r.PathValue("schematic"))
	if err != nil || schematic == nil {
		return refusal{http.StatusNotFound, "schematic not found"}
	}
	canonical, err := schematic.Canonical()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, err = w.Write(canonical)
	return err
}

func (f *Factory) image(w http.ResponseWriter, r *http.Request) error {
	id, path := r.PathValue("schematic"), r.PathValue("path")
	schematic, err := f.lookup(id)
	if err != nil {
		return err
	}
	version, err := parseVersion(r.PathValue("version"))
	if err != nil {
		return err
	}
	if path != imagePath {
		return refusal{http.StatusBadRequest, fmt.Sprintf("invalid profile path: %q", path)}
	}
	if err := f.available(version, schematic); err != nil {
		return err
	}
	ova, err := buildOVA(version, id)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(ova)))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s"`, path))
	if r.Method == http.MethodHead {
		return nil
	}
	_, err = w.Write(ova)
	return err
}

// available reports whether the factory has a version, and for it all extensions of a schematic.
func (f *Factory) available(version string, schematic *Schematic) error {
	if !slices.Contains(f.options.Versions, version) {
		return refusal{http.StatusNotFound, fmt.Sprintf("version %s is not available", version)}
	}
	if schematic == nil {
		return nil
	}
	for _, extension := range schematic.Customization.SystemExtensions.OfficialExtensions {
		if !slices.Contains(f.options.Extensions, extension) {
			return refusal{http.StatusBadRequest,
				fmt.Sprintf("official extension %q is not available for Talos version v%s", extension, version)}
		}
	}
	return nil
}

func (f *Factory) versions(w http.ResponseWriter, r *http.Request) error {
	versions := make([]string, 0, len(f.options.Versions))
	if r.URL.Query().Get("broken") != "true" {
		for _, version := range f.options.Versions {
			versions = append(versions, "v"+version)
		}
	}
	return json.NewEncoder(w).Encode(versions)
}

// extensionInfo is an item of the list of extensions, as the factory's client reads it.
type extensionInfo struct {
	Name        string `json:"name"`
	Ref         string `json:"ref"`
	Digest      string `json:"digest"`
	Author      string `json:"author"`
	Description string `json:"description"`
}

func (f *Factory) extensions(w http.ResponseWriter, r *http.Request) error {
	version, err := parseVersion(r.PathValue("version"))
	if err != nil {
		return err
	}
	if err := f.available(version, nil); err != nil {
		return err
	}
	list := make([]extensionInfo, 0, len(f.options.Extensions))
	for _, name := range f.options.Extensions {
		ref := r.Host + "/" + name + ":v" + version
		list = append(list, extensionInfo{
			Name: name, Ref: ref, Digest: "sha256:" + identifier([]byte(ref)),
			Author: "Sidero Labs", Description: "Simulated by the lab; it has no content.",
		})
	}
	return json.NewEncoder(w).Encode(list)
}

// overlays is always empty: overlays are for single-board computers.
func (f *Factory) overlays(w http.ResponseWriter, r *http.Request) error {
	version, err := parseVersion(r.PathValue("version"))
	if err != nil {
		return err
	}
	if err := f.available(version, nil); err != nil {
		return err
	}
	_, err = io.WriteString(w, "[]\n")
	return err
}

// parseVersion takes a version with or without a leading v. The factory answers a malformed one
// with 500, which is kept here.
func parseVersion(text string) (string, error) {
	version := strings.TrimPrefix(text, "v")
	if !versionPattern.MatchString(version) {
		return "", fmt.Errorf("error parsing version: %q", text)
	}
	return version, nil
}

func identifier(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// epoch is the time of every file in an image, so that an image is always the same bytes.
var epoch = time.Unix(0, 0).UTC()

// installerPath is the repository of an installer: one of a platform's own, or the general one.
var installerPath = regexp.MustCompile(`^/?([a-z]+-)?installer/([0-9a-f]{64})$`)

// Installer says whether the factory makes an installer, as its registry does: the repository and the tag of an image. It gives
// the schematic; ok is false where the registry answers 404, for whatever reason.
func (f *Factory) Installer(repository, tag string) (schematic string, ok bool) {
	found := installerPath.FindStringSubmatch(repository)
	if found == nil {
		return "", false
	}
	id := found[2]
	known, err := f.lookup(id)
	if err != nil {
		return "", false
	}
	version, err := parseVersion(tag)
	if err != nil || !strings.HasPrefix(tag, "v") {
		return "", false
	}
	return id, f.available(version, known) == nil
}
