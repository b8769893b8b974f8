package factory

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/vmdk"
)

const (
	plain      = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
	guestAgent = "903b2da78f99adef03cbbd4df6714563823f63218508800751560d3bc3557e40"
)

const guestAgentDocument = "customization:\n  systemExtensions:\n    officialExtensions: [siderolabs/vmtoolsd-guest-agent]\n"

func serve(t *testing.T, options Options) *httptest.Server {
	t.Helper()
	if options.Versions == nil {
		options.Versions = []string{"1.13.8", "1.13.9"}
	}
	handler, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func get(t *testing.T, server *httptest.Server, path string) (int, string) {
	t.Helper()
	response, err := server.Client().Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// The identifiers are those of the image factory's own tests and documentation.
func TestASchematicHasTheIdentifierOfTheRealFactory(t *testing.T) {
	for document, want := range map[string]string{
		"{}":                "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba",
		"customization: {}": plain,
		guestAgentDocument:  guestAgent,
		`{"customization": {"extraKernelArgs": ["noapic", "nolapic"], "systemExtensions": {}}}`:          "9cba8e32753f91a16c1837ab8abf356af021706ef284aef07380780177d9a06c",
		`{"customization": {"meta": [{"key": 10, "value": "foo"}], "extraKernelArgs": []}}`:              "d308a2a5ee2277bed5fbaa104fcbc8d59122abfa737df987a95b4ca763459a7f",
		`{"overlay": {"name": "rpi_generic", "image": "siderolabs/sbc-raspberrypi"},"customization":{}}`: "ee21ef4a5ef808a9b7484cc0dda0f25075021691c8c09a276591eedb638ea1f9",
		`{"customization":{"secureboot": {"includeWellKnownCertificates": true}}}`:                       "fa8e05f142a851d3ee568eb0a8e5841eaf6b0ebc8df9a63df16ac5ed2c04f3e6",
		`{"customization":{"diskImage": {"sectorSize": 4096}}}`:                                          "92833e9ddd9bb9e11b2464fa5525429f01866306d52ebd882ee08d7918f6d1ea",
	} {
		schematic, err := Parse([]byte(document))
		if err != nil {
			t.Errorf("%s: %v", document, err)
			continue
		}
		if id, err := schematic.ID(); err != nil || id != want {
			t.Errorf("%s: got %s, %v, want %s", document, id, err, want)
		}
	}
}

func TestARegisteredSchematicHasAnImage(t *testing.T) {
	server := serve(t, Options{})
	if status, body := get(t, server, "/image/"+guestAgent+"/v1.13.9/vmware-amd64.ova"); status != http.StatusNotFound ||
		body != `schematic ID "`+guestAgent+"\" not found\n" {
		t.Fatalf("before it is registered: %d %s", status, body)
	}

	response, err := server.Client().Post(server.URL+"/schematics", "application/yaml", strings.NewReader(guestAgentDocument))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ ID, Schematic string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusCreated || answer.ID != guestAgent {
		t.Fatalf("got %d %q", response.StatusCode, answer.ID)
	}
	if status, body := get(t, server, "/schematics/"+guestAgent); status != http.StatusOK || body != answer.Schematic {
		t.Fatalf("the document read back: %d %q, want %q", status, body, answer.Schematic)
	}
	if status, _ := get(t, server, "/image/"+guestAgent+"/v1.13.9/vmware-amd64.ova"); status != http.StatusOK {
		t.Fatalf("after it is registered: %d", status)
	}
}

func TestAnImageDescribesItselfAndIsAlwaysTheSameBytes(t *testing.T) {
	server := serve(t, Options{Schematics: [][]byte{[]byte(guestAgentDocument)}})
	path := "/image/" + guestAgent + "/v1.13.9/vmware-amd64.ova"
	_, ova := get(t, server, path)
	if _, again := get(t, server, path); again != ova {
		t.Error("two downloads differ")
	}

	files := map[string][]byte{}
	var order []string
	for archive := tar.NewReader(strings.NewReader(ova)); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name], order = content, append(order, header.Name)
	}
	if got := strings.Join(order, " "); got != "disk.ovf disk.mf disk.vmdk" {
		t.Fatalf("files in the image: %s", got)
	}
	for _, name := range []string{"disk.ovf", "disk.vmdk"} {
		if line := "SHA256(" + name + ")= " + identifier(files[name]); !strings.Contains(string(files["disk.mf"]), line) {
			t.Errorf("the manifest lacks %s:\n%s", line, files["disk.mf"])
		}
	}
	info, err := vmdk.Seek(bytes.NewReader(files["disk.vmdk"]))
	if err != nil || len(info.Descriptor.Extent) != 1 || info.Capacity != diskCapacityMiB*mebibyte {
		t.Errorf("the disk: %+v, %v", info, err)
	}

	envelope, err := ovf.Unmarshal(bytes.NewReader(files["disk.ovf"]))
	if err != nil {
		t.Fatal(err)
	}
	if size := int(envelope.References[0].Size); size != len(files["disk.vmdk"]) {
		t.Errorf("ovf:size is %d, the disk has %d bytes", size, len(files["disk.vmdk"]))
	}
	hardware := envelope.VirtualSystem.VirtualHardware[0]
	extra := map[string]string{}
	for _, config := range hardware.ExtraConfig {
		extra[config.Key] = config.Value
	}
	if extra[ExtraConfigVersion] != "1.13.9" || extra[ExtraConfigSchematic] != guestAgent || extra["disk.EnableUUID"] != "true" {
		t.Errorf("extra configuration: %v", extra)
	}
	if *hardware.System.VirtualSystemType != "vmx-15" || *envelope.VirtualSystem.OperatingSystem.OSType != "other3xLinux64Guest" {
		t.Error("the virtual hardware is not Talos'")
	}
}

func TestBadRequestsGetTheFactorysAnswers(t *testing.T) {
	server := serve(t, Options{Registered: []string{plain}, Schematics: [][]byte{
		[]byte("customization: {systemExtensions: {officialExtensions: [siderolabs/no-such]}}"),
	}})
	unknown, err := Parse([]byte("customization: {systemExtensions: {officialExtensions: [siderolabs/no-such]}}"))
	if err != nil {
		t.Fatal(err)
	}
	withUnknown, err := unknown.ID()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/image/" + plain + "/v1.13/vmware-amd64.ova":    {500, "internal server error\n"},
		"/image/" + plain + "/v9.9.9/vmware-amd64.ova":   {404, "version 9.9.9 is not available\n"},
		"/image/" + plain + "/v1.13.9/metal-amd64.floop": {400, "invalid profile path: \"metal-amd64.floop\"\n"},
		"/image/" + withUnknown + "/1.13.9/vmware-amd64.ova": {400,
			"official extension \"siderolabs/no-such\" is not available for Talos version v1.13.9\n"},
		"/version/v9.9.9/extensions/official": {404, "version 9.9.9 is not available\n"},
	} {
		if status, body := get(t, server, path); status != want.status || body != want.body {
			t.Errorf("%s: got %d %q, want %d %q", path, status, body, want.status, want.body)
		}
	}
	response, err := server.Client().Post(server.URL+"/schematics", "application/yaml", strings.NewReader("customisation: {}"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "customisation") {
		t.Errorf("an unknown key: got %d %s", response.StatusCode, body)
	}
}

func TestTheListsAreThoseTheTalosProviderReads(t *testing.T) {
	server := serve(t, Options{})
	if _, body := get(t, server, "/versions"); body != "[\"v1.13.8\",\"v1.13.9\"]\n" {
		t.Errorf("versions: %s", body)
	}
	_, body := get(t, server, "/version/v1.13.9/extensions/official")
	var list []extensionInfo
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != len(OfficialExtensions) || !strings.HasPrefix(list[0].Digest, "sha256:") {
		t.Errorf("extensions: %+v", list)
	}
	if _, body := get(t, server, "/version/v1.13.9/overlays/official"); body != "[]\n" {
		t.Errorf("overlays: %s", body)
	}
}

func TestAHeadRequestHasTheSizeAndNoBody(t *testing.T) {
	server := serve(t, Options{Registered: []string{plain}})
	path := "/image/" + plain + "/v1.13.9/vmware-amd64.ova"
	_, ova := get(t, server, path)
	response, err := server.Client().Head(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.ContentLength != int64(len(ova)) {
		t.Errorf("got %d and %d bytes, want %d", response.StatusCode, response.ContentLength, len(ova))
	}
}

func TestRegisteredSchematicsOutliveTheFactory(t *testing.T) {
	dir := t.TempDir()
	first, err := New(Options{Versions: []string{"1.13.9"}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Register([]byte(guestAgentDocument)); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, serve(t, Options{Dir: dir}), "/schematics/"+guestAgent); status != http.StatusOK {
		t.Errorf("got %d", status)
	}
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	versions := []string{"1.13.9"}
	for _, options := range []Options{
		{}, {Versions: []string{"v1.13.9"}},
		{Versions: versions, Registered: []string{"abc"}}, {Versions: versions, Schematics: [][]byte{nil}},
	} {
		if _, err := New(options); err == nil {
			t.Errorf("%+v was accepted", options)
		}
	}
}

func TestAnInstallerIsThereWhereTheImageIs(t *testing.T) {
	f, err := New(Options{Versions: []string{"1.13.9"}})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := f.Register([]byte("customization: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	odd, err := f.Register([]byte("customization:\n    systemExtensions:\n        officialExtensions:\n            - siderolabs/unknown\n"))
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		repository, tag string
		ok              bool
	}{
		{"vmware-installer/" + plain, "v1.13.9", true},
		{"installer/" + plain, "v1.13.9", true},
		{"vmware-installer/" + plain, "v1.13.10", false},
		{"vmware-installer/" + plain, "1.13.9", false},
		{"vmware-installer/" + strings.Repeat("0", 64), "v1.13.9", false},
		{"vmware-installer/" + odd, "v1.13.9", false},
		{"image/" + plain, "v1.13.9", false},
	} {
		schematic, ok := f.Installer(test.repository, test.tag)
		if ok != test.ok || (ok && schematic != plain) {
			t.Errorf("%s:%s: %q %v", test.repository, test.tag, schematic, ok)
		}
	}
}
