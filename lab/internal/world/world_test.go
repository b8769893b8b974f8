package world

import (
	"encoding/json"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestATakenPortIsNamedWithItsAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := netip.MustParseAddrPort(taken.Addr().String())
	_, err = listen(address, nil)
	if err == nil || !strings.Contains(err.Error(), address.String()) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}

func TestTheEndOfALogIsACrashsBeginning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := "one\ntwo\npanic: oh\n" + strings.Repeat("goroutine\n", 100)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(path, 2); got != "panic: oh\ngoroutine" {
		t.Errorf("got %q", got)
	}
}

func TestTheEndOfAQuietLogIsItsLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(path, 2); got != "two\nthree" {
		t.Errorf("got %q", got)
	}
}

func TestAnUnknownFaultIsRefusedWithTheKnownOnes(t *testing.T) {
	if err := CheckFaults([]string{FaultDatastore, faultSilent + "node01"}); err != nil {
		t.Error(err)
	}
	err := CheckFaults([]string{"gremlins"})
	if err == nil || !strings.Contains(err.Error(), "gremlins") || !strings.Contains(err.Error(), FaultPassword) {
		t.Errorf("got %v", err)
	}
}

func TestTheRepositorysHostIsOneOfTheWorldsNames(t *testing.T) {
	var s Settings
	s.Site.Vcenter, s.Site.ImageFactory = "vcenter.example.internal", "factory.talos.dev"
	without := names(s)
	text := `{"services": {"argocd": {"repositoryUrl": "https://git.example.com:8443/team/platform", "revision": "main"}}}`
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	got := names(s)
	if len(got) != len(without)+1 || !servers.Contains(got["git.example.com"]) {
		t.Errorf("got %v", got)
	}
}

func TestTheStorageHasOneNameWithTheBucketInItOrWithout(t *testing.T) {
	for style, wanted := range map[string]string{"true": "s3.example.com", "false": "etcd.s3.example.com"} {
		var s Settings
		s.Site.Vcenter, s.Site.ImageFactory = "vcenter.example.internal", "factory.talos.dev"
		without := names(s)
		text := `{"services": {"backup": {"endpoint": "https://s3.example.com:9000", "bucket": "etcd", "region": "r", "pathStyle": ` + style + `}}}`
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		if got := names(s); len(got) != len(without)+1 || !servers.Contains(got[wanted]) {
			t.Errorf("%s: got %v", style, got)
		}
	}
}

func TestThePublishedPluginsAreNoneAllOrThoseThatAreNamed(t *testing.T) {
	for choice, wanted := range map[string]map[string]bool{
		"stand-in":              {"kubernetes": false, "talos": false, "vsphere": false},
		"published":             {"kubernetes": true, "talos": true, "vsphere": true},
		"vsphere,talos,vsphere": {"kubernetes": false, "talos": true, "vsphere": true},
	} {
		if got, err := PublishedPlugins(choice); err != nil || !maps.Equal(got, wanted) {
			t.Errorf("%s: %v, %v", choice, got, err)
		}
	}
	for _, choice := range []string{"", "aws", "vsphere, talos", "vsphere,"} {
		if got, err := PublishedPlugins(choice); err == nil || !strings.Contains(err.Error(), strconv.Quote(choice)) {
			t.Errorf("%q: %v, %v", choice, got, err)
		}
	}
}

// The engine looks at entries of its plugin folder that are folders, not at links to one.
func TestAPublishedPluginIsAFolderOfItsOwnWithLinksToTheFiles(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "plugins", "resource-vsphere-v4.18.2")
	if err := os.WriteFile(filepath.Join(source, "pulumi-resource-vsphere"), []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := linkFiles(source, target); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(target)
	if err != nil || !info.IsDir() {
		t.Errorf("%v, %v", info, err)
	}
	if text, err := os.ReadFile(filepath.Join(target, "pulumi-resource-vsphere")); err != nil || string(text) != "program" {
		t.Errorf("%s, %v", text, err)
	}
}
