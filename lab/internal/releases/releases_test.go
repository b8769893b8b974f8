package releases

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"platform.lab/lab/internal/programs"
)

// vendors is a server of this computer with files at the places where the vendors have theirs: host and path.
type vendors struct {
	*httptest.Server

	files map[string][]byte
	asked atomic.Int64
	// odd answers in place of a file.
	odd map[string]http.HandlerFunc
}

func newVendors(t *testing.T) *vendors {
	t.Helper()

	v := &vendors{files: map[string][]byte{}, odd: map[string]http.HandlerFunc{}}
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)

	return v
}

func (v *vendors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.asked.Add(1)

	place := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	if odd := v.odd[place]; odd != nil {
		odd(w, r)

		return
	}

	content, there := v.files[place]
	if !there {
		http.NotFound(w, r)

		return
	}

	_, _ = w.Write(content)
}

func (v *vendors) fetcher(t *testing.T) *Fetcher {
	t.Helper()

	return &Fetcher{
		Bin: t.TempDir(), Mirror: v.URL + "/", Patience: time.Minute,
		Step: func(_ string, step func() error) error { return step() }, Say: t.Logf,
	}
}

type entry struct {
	name, content, link string
}

// packed makes a .tar.gz.
func packed(t *testing.T, entries ...entry) []byte {
	t.Helper()

	var archive bytes.Buffer

	press := gzip.NewWriter(&archive)
	pack := tar.NewWriter(press)

	for _, one := range entries {
		header := &tar.Header{Name: one.name, Mode: 0o755, Size: int64(len(one.content)), Typeflag: tar.TypeReg}
		if one.link != "" {
			header.Typeflag, header.Linkname = tar.TypeSymlink, one.link
		}

		if err := pack.WriteHeader(header); err != nil {
			t.Fatal(err)
		}

		if _, err := pack.Write([]byte(one.content)); err != nil {
			t.Fatal(err)
		}
	}

	if err := errors.Join(pack.Close(), press.Close()); err != nil {
		t.Fatal(err)
	}

	return archive.Bytes()
}

func sha(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

// layout is where the vendors have their files, written down by hand: releases of version v1.2.3 for x86-64. A test that took
// the addresses from the table of programs would agree with any mistake in it.
var layout = map[string]struct {
	archive, member, checksums, form string
}{
	"kube-apiserver":          {"dl.k8s.io/release/v1.2.3/bin/linux/amd64/kube-apiserver", "", "dl.k8s.io/release/v1.2.3/bin/linux/amd64/kube-apiserver.sha256", "alone"},
	"kube-controller-manager": {"dl.k8s.io/release/v1.2.3/bin/linux/amd64/kube-controller-manager", "", "dl.k8s.io/release/v1.2.3/bin/linux/amd64/kube-controller-manager.sha256", "alone"},
	"kube-scheduler":          {"dl.k8s.io/release/v1.2.3/bin/linux/amd64/kube-scheduler", "", "dl.k8s.io/release/v1.2.3/bin/linux/amd64/kube-scheduler.sha256", "alone"},
	"kubectl":                 {"dl.k8s.io/release/v1.2.3/bin/linux/amd64/kubectl", "", "dl.k8s.io/release/v1.2.3/bin/linux/amd64/kubectl.sha256", "alone"},
	"etcd": {
		"github.com/etcd-io/etcd/releases/download/v1.2.3/etcd-v1.2.3-linux-amd64.tar.gz", "etcd-v1.2.3-linux-amd64/etcd",
		"github.com/etcd-io/etcd/releases/download/v1.2.3/SHA256SUMS", "lines",
	},
	"pulumi": {
		"github.com/pulumi/pulumi/releases/download/v1.2.3/pulumi-v1.2.3-linux-x64.tar.gz", "pulumi/pulumi",
		"github.com/pulumi/pulumi/releases/download/v1.2.3/SHA512SUMS", "sha512",
	},
	"talosctl": {
		"github.com/siderolabs/talos/releases/download/v1.2.3/talosctl-linux-amd64", "",
		"github.com/siderolabs/talos/releases/download/v1.2.3/sha256sum.txt", "lines",
	},
	"helm": {
		"get.helm.sh/helm-v1.2.3-linux-amd64.tar.gz", "linux-amd64/helm", "get.helm.sh/helm-v1.2.3-linux-amd64.tar.gz.sha256sum", "lines",
	},
	"coredns": {
		"github.com/coredns/coredns/releases/download/v1.2.3/coredns_1.2.3_linux_amd64.tgz", "coredns",
		"github.com/coredns/coredns/releases/download/v1.2.3/coredns_1.2.3_linux_amd64.tgz.sha256", "lines",
	},
	"traefik": {
		"github.com/traefik/traefik/releases/download/v1.2.3/traefik_v1.2.3_linux_amd64.tar.gz", "traefik",
		"github.com/traefik/traefik/releases/download/v1.2.3/traefik_v1.2.3_checksums.txt", "lines",
	},
	"argocd": {
		"github.com/argoproj/argo-cd/releases/download/v1.2.3/argocd-linux-amd64", "",
		"github.com/argoproj/argo-cd/releases/download/v1.2.3/cli_checksums.txt", "lines",
	},
	"kustomize": {
		"github.com/kubernetes-sigs/kustomize/releases/download/kustomize%2Fv1.2.3/kustomize_v1.2.3_linux_amd64.tar.gz", "kustomize",
		"github.com/kubernetes-sigs/kustomize/releases/download/kustomize%2Fv1.2.3/checksums.txt", "lines",
	},
	"omnictl": {
		"github.com/siderolabs/omni/releases/download/v1.2.3/omnictl-linux-amd64", "",
		"github.com/siderolabs/omni/releases/download/v1.2.3/sha256sum.txt", "lines",
	},
	"victoria-metrics": {
		"github.com/VictoriaMetrics/VictoriaMetrics/releases/download/v1.2.3/victoria-metrics-linux-amd64-v1.2.3.tar.gz", "victoria-metrics-prod",
		"github.com/VictoriaMetrics/VictoriaMetrics/releases/download/v1.2.3/victoria-metrics-linux-amd64-v1.2.3_checksums.txt", "lines",
	},
	"vmalert": {
		"github.com/VictoriaMetrics/VictoriaMetrics/releases/download/v1.2.3/vmutils-linux-amd64-v1.2.3.tar.gz", "vmalert-prod",
		"github.com/VictoriaMetrics/VictoriaMetrics/releases/download/v1.2.3/vmutils-linux-amd64-v1.2.3_checksums.txt", "lines",
	},
	"victoria-logs": {
		"github.com/VictoriaMetrics/VictoriaLogs/releases/download/v1.2.3/victoria-logs-linux-amd64-v1.2.3.tar.gz", "victoria-logs-prod",
		"github.com/VictoriaMetrics/VictoriaLogs/releases/download/v1.2.3/victoria-logs-linux-amd64-v1.2.3_checksums.txt", "lines",
	},
	"vlagent": {
		"github.com/VictoriaMetrics/VictoriaLogs/releases/download/v1.2.3/vlutils-linux-amd64-v1.2.3.tar.gz", "vlagent-prod",
		"github.com/VictoriaMetrics/VictoriaLogs/releases/download/v1.2.3/vlutils-linux-amd64-v1.2.3_checksums.txt", "lines",
	},
	"alertmanager": {
		"github.com/prometheus/alertmanager/releases/download/v1.2.3/alertmanager-1.2.3.linux-amd64.tar.gz", "alertmanager-1.2.3.linux-amd64/alertmanager",
		"github.com/prometheus/alertmanager/releases/download/v1.2.3/sha256sums.txt", "lines",
	},
}

// checksums writes a vendor's file, with another file's digest beside the wanted one.
func checksums(form, archive string, content []byte) []byte {
	file := filepath.Base(archive)

	switch form {
	case "alone":
		return []byte(sha(content))
	case "sha512":
		return fmt.Appendf(nil, "%x  other.zip\n%x  %s\n", sha512.Sum512(nil), sha512.Sum512(content), file)
	default:
		return fmt.Appendf(nil, "%s  other.zip\n%s *%s\n", sha(nil), sha(content), file)
	}
}

func TestEveryReleaseComesFromItsVendorsLayout(t *testing.T) {
	all, err := programs.Selected("../..", programs.Selection{Pods: true, Omni: true, Watching: true})
	if err != nil {
		t.Fatal(err)
	}

	server := newVendors(t)

	var wanted []Wanted

	for _, p := range all {
		if p.Release == nil {
			continue
		}

		place, known := layout[p.Name]
		if !known {
			t.Errorf("%s has a release that this test has no layout for", p.Name)

			continue
		}

		content := []byte("the program " + p.Name)
		if place.member != "" {
			content = packed(t, entry{name: "README.md", content: "read me"}, entry{name: "./" + place.member, content: "the program " + p.Name})
		}

		server.files[place.archive] = content
		server.files[place.checksums] = checksums(place.form, place.archive, content)
		wanted = append(wanted, Wanted{Name: p.Name, Version: "v1.2.3", Release: p.Release.Of("v1.2.3", "amd64")})
	}

	if len(wanted) != len(layout) {
		t.Errorf("%d programs have a release, and %d a layout", len(wanted), len(layout))
	}

	f := server.fetcher(t)
	if failed := f.Fetch(t.Context(), wanted); len(failed) > 0 {
		t.Fatal(failed)
	}

	for _, one := range wanted {
		file := filepath.Join(f.Bin, one.Name)

		content, err := os.ReadFile(file)
		if err != nil || string(content) != "the program "+one.Name {
			t.Errorf("%s: %q, %v", one.Name, content, err)
		}

		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s cannot be run: %v", one.Name, err)
		}

		if version := programs.Version(f.Bin, one.Name); version != "v1.2.3" {
			t.Errorf("%s has the version %q", one.Name, version)
		}

		if address, digest, fetched := programs.Fetched(f.Bin, one.Name); !fetched || address != one.Archive || !strings.HasPrefix(digest, "sha") {
			t.Errorf("%s: stamped %s %s", one.Name, address, digest)
		}
	}

	if left := parts(t, f.Bin); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// parts are files that an unfinished download leaves.
func parts(t *testing.T, bin string) []string {
	t.Helper()

	left, err := filepath.Glob(filepath.Join(bin, "*.part*"))
	if err != nil {
		t.Fatal(err)
	}

	return left
}

const (
	archivePlace  = "vendor.example/tool-v1.2.3-linux-amd64.tar.gz"
	checksumPlace = "vendor.example/checksums.txt"
)

var tool = Wanted{
	Name: "tool", Version: "v1.2.3",
	Release: programs.Release{Archive: "https://" + archivePlace, Checksums: "https://" + checksumPlace, Member: "tool/tool"},
}

// serve puts an archive and its checksums at their places.
func (v *vendors) serve(archive []byte) {
	v.files[archivePlace] = archive
	v.files[checksumPlace] = checksums("lines", archivePlace, archive)
}

func TestWhatIsNotAsItShouldBeIsNotTaken(t *testing.T) {
	good := packed(t, entry{name: "tool/tool", content: "the tool"})

	for name, c := range map[string]struct {
		serve func(*vendors)
		says  string
		// unavailable: another day it may be there; else something is wrong with what came.
		unavailable bool
	}{
		"another digest": {serve: func(v *vendors) {
			v.serve(good)
			v.files[archivePlace] = packed(t, entry{name: "tool/tool", content: "another tool"})
		}, says: "it was damaged or changed"},
		"no checksum for it": {serve: func(v *vendors) {
			v.serve(good)
			v.files[checksumPlace] = checksums("lines", "another.tar.gz", good)
		}, says: "it has no digest for tool-v1.2.3-linux-amd64.tar.gz"},
		"two checksums for it": {serve: func(v *vendors) {
			v.serve(good)
			v.files[checksumPlace] = append(checksums("lines", archivePlace, good), checksums("lines", archivePlace, nil)...)
		}, says: "it has 2 digests"},
		"a checksum of another kind": {serve: func(v *vendors) {
			v.serve(good)
			v.files[checksumPlace] = []byte("d41d8cd98f00b204e9800998ecf8427e  tool-v1.2.3-linux-amd64.tar.gz")
		}, says: "neither a SHA-256 nor a SHA-512"},
		"no file of checksums": {serve: func(v *vendors) {
			v.serve(good)
			delete(v.files, checksumPlace)
		}, says: checksumPlace + ": not available: expected the file, got \"404 Not Found\"", unavailable: true},
		"a version that is not there": {serve: func(v *vendors) {
			v.serve(good)
			delete(v.files, archivePlace)
		}, says: archivePlace + ": not available: expected the file, got \"404 Not Found\"", unavailable: true},
		"a server that fails": {serve: func(v *vendors) {
			v.serve(good)
			v.odd[archivePlace] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
		}, says: "502 Bad Gateway", unavailable: true},
		"a download that is cut off": {serve: func(v *vendors) {
			v.serve(good)
			v.odd[archivePlace] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(good)))
				_, _ = w.Write(good[:len(good)/2])
			}
		}, says: fmt.Sprintf("it ended after %d of %d bytes", len(good)/2, len(good)), unavailable: true},
		"a login page in its place": {serve: func(v *vendors) {
			v.serve(good)
			v.files[archivePlace] = []byte("<html>log in first</html>")
		}, says: "it was damaged or changed"},
		"a way that leaves https": {serve: func(v *vendors) {
			v.serve(good)
			v.odd[archivePlace] = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://vendor.example/tool.tar.gz", http.StatusFound)
			}
		}, says: "which is not https", unavailable: true},
		"no archive":        {serve: func(v *vendors) { v.serve([]byte("no archive")) }, says: "expected a .tar.gz"},
		"half an archive":   {serve: func(v *vendors) { v.serve(good[:len(good)/2]) }, says: "unexpected EOF"},
		"no program in it":  {serve: func(v *vendors) { v.serve(packed(t, entry{name: "tool/README", content: "x"})) }, says: "expected the file tool/tool in it"},
		"a link in its way": {serve: func(v *vendors) { v.serve(packed(t, entry{name: "tool/tool", link: "/etc/passwd"})) }, says: "tool/tool in it is not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newVendors(t)
			c.serve(server)

			f := server.fetcher(t)
			if err := os.WriteFile(filepath.Join(f.Bin, "tool"), []byte("the one before"), 0o600); err != nil {
				t.Fatal(err)
			}

			err := f.Fetch(t.Context(), []Wanted{tool})["tool"]
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, ErrUnavailable) != c.unavailable {
				t.Errorf("it says: %v", err)
			}

			if err != nil && !strings.Contains(err.Error(), "vendor.example/") {
				t.Errorf("it names no address: %v", err)
			}

			if content, _ := os.ReadFile(filepath.Join(f.Bin, "tool")); string(content) != "the one before" {
				t.Errorf("the program is %q now", content)
			}

			if _, _, fetched := programs.Fetched(f.Bin, "tool"); fetched || len(parts(t, f.Bin)) > 0 {
				t.Errorf("stamped, or left behind: %v", parts(t, f.Bin))
			}
		})
	}
}

func TestAnArchiveWritesNothingButItsProgram(t *testing.T) {
	server := newVendors(t)
	server.serve(packed(
		t,
		entry{name: "../../outside", content: "out"}, entry{name: "/tmp/outside", content: "out"}, entry{name: "tool", link: "../../.."},
		entry{name: "tool/../escape", content: "out"}, entry{name: "tool/tool", content: "the tool"}, entry{name: "tool/tool", content: "a second one"},
	))

	f := server.fetcher(t)
	outer := t.TempDir()
	f.Bin = filepath.Join(outer, "a", "b", "bin")

	if err := os.MkdirAll(f.Bin, 0o700); err != nil {
		t.Fatal(err)
	}

	if failed := f.Fetch(t.Context(), []Wanted{tool}); len(failed) > 0 {
		t.Fatal(failed)
	}

	var found []string

	err := filepath.WalkDir(outer, func(file string, one os.DirEntry, err error) error {
		if err == nil && !one.IsDir() {
			found = append(found, strings.TrimPrefix(file, f.Bin))
		}

		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	if wanted := []string{"/tool", "/tool.stamp", "/tool.version"}; !slices.Equal(found, wanted) {
		t.Errorf("written: %v", found)
	}

	if content, _ := os.ReadFile(filepath.Join(f.Bin, "tool")); string(content) != "the tool" {
		t.Errorf("the program is %q", content)
	}
}

func TestAServerThatSendsNothingMoreIsGivenUp(t *testing.T) {
	server := newVendors(t)
	server.serve(packed(t, entry{name: "tool/tool", content: "the tool"}))

	server.odd[archivePlace] = func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("the beginning"))
		_ = http.NewResponseController(w).Flush()

		<-r.Context().Done()
	}

	f := server.fetcher(t)
	f.Patience = 300 * time.Millisecond

	err := f.Fetch(t.Context(), []Wanted{tool})["tool"]
	if !errors.Is(err, errSilent) || !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

func TestAHostThatCannotBeReachedIsTriedOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	closed := listener.Addr().String()
	listener.Close()

	f := newVendors(t).fetcher(t)
	f.Mirror = "http://" + closed

	first := f.Fetch(t.Context(), []Wanted{tool})["tool"]
	if !errors.Is(first, ErrUnavailable) || !strings.Contains(first.Error(), "connection refused") {
		t.Errorf("it says: %v", first)
	}

	// Whatever comes to life there now: it has been tried.
	if err := f.Fetch(t.Context(), []Wanted{tool})["tool"]; err == nil || err.Error() != first.Error() {
		t.Errorf("it was tried again: %v", err)
	}
}

func TestWhoEndsTheCommandEndsTheDownloads(t *testing.T) {
	server := newVendors(t)
	server.serve(packed(t, entry{name: "tool/tool", content: "the tool"}))

	ctx, cancel := context.WithCancel(t.Context())
	server.odd[archivePlace] = func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}

	f := server.fetcher(t)
	if err := f.Fetch(ctx, []Wanted{tool})["tool"]; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	if left := parts(t, f.Bin); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTheLockIsBelievedAndNotTheVendor(t *testing.T) {
	good := packed(t, entry{name: "tool/tool", content: "the tool"})
	other := packed(t, entry{name: "tool/tool", content: "what somebody put there later"})
	digest := "sha256:" + sha(good)

	for name, c := range map[string]struct {
		lock   Lock
		served []byte
		says   string
	}{
		"the archive of the lock": {Lock{tool.Archive: digest}, good, ""},
		// Whoever has taken the vendor's place changes its checksums as well.
		"another archive, with fitting checksums": {Lock{tool.Archive: digest}, other, LockFile + " says " + digest},
		"an archive that it does not have":        {Lock{}, good, "is not in " + LockFile},
	} {
		t.Run(name, func(t *testing.T) {
			server := newVendors(t)
			server.serve(c.served)

			f := server.fetcher(t)
			f.Lock = c.lock

			err := f.Fetch(t.Context(), []Wanted{tool})["tool"]
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says: %v", err)
			}

			if errors.Is(err, ErrUnavailable) {
				t.Error("a wrong digest passes for a file that is not there")
			}
		})
	}
}

func TestTheLockHoldsWhatTheVendorsFilesSaid(t *testing.T) {
	server := newVendors(t)
	server.serve([]byte("an archive"))

	f := server.fetcher(t)

	lock, err := f.LockOf(t.Context(), []programs.Release{tool.Release})
	if err != nil {
		t.Fatal(err)
	}

	file := filepath.Join(t.TempDir(), "lock")
	if err := lock.Write(file); err != nil {
		t.Fatal(err)
	}

	read, err := ReadLock(file)
	if err != nil || !maps.Equal(read, Lock{tool.Archive: "sha256:" + sha([]byte("an archive"))}) {
		t.Errorf("%v, %v", read, err)
	}

	gone := tool.Release
	gone.Checksums = "https://vendor.example/gone.txt"

	if _, err := f.LockOf(t.Context(), []programs.Release{tool.Release, gone}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a lock without one of its files: %v", err)
	}
}

func TestALockThatCannotBeReadIsAnError(t *testing.T) {
	if lock, err := ReadLock(filepath.Join(t.TempDir(), "none")); lock != nil || err != nil {
		t.Errorf("without a lock: %v, %v", lock, err)
	}

	for _, text := range []string{"sha256:00  https://vendor.example/tool\n", "https://vendor.example/tool\n", "md5:00 https://vendor.example/tool\n"} {
		file := filepath.Join(t.TempDir(), "lock")
		if err := os.WriteFile(file, []byte(lockHead+text), 0o600); err != nil {
			t.Fatal(err)
		}

		if _, err := ReadLock(file); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTheLockIsOfThisTreesVersions(t *testing.T) {
	builder := &programs.Builder{Lab: "../..", Bin: t.TempDir(), Go: "go"}

	all, err := builder.AllReleases(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	addresses := map[string]bool{}

	for _, release := range all {
		addresses[release.Archive] = true

		for _, address := range []string{release.Archive, release.Checksums} {
			if !strings.HasPrefix(address, "https://") || strings.ContainsAny(address, "{}") {
				t.Errorf("%s is no vendor's address", address)
			}
		}
	}

	if len(addresses) != len(all) || len(all) < 2*len(layout) {
		t.Errorf("%d releases at %d addresses", len(all), len(addresses))
	}

	lock, err := ReadLock("../../releases.lock")
	if err != nil {
		t.Fatal(err)
	}

	for address := range lock {
		if !addresses[address] {
			t.Errorf("%s has %s, which no program is: run `make releases-lock`", LockFile, address)
		}
	}

	for address := range addresses {
		if lock != nil && lock[address] == "" {
			t.Errorf("%s does not have %s: run `make releases-lock`", LockFile, address)
		}
	}
}

func TestAMirrorIsAskedByHTTPSOrOnThisComputer(t *testing.T) {
	for mirror, good := range map[string]bool{
		"": true, "https://mirror.example.com/releases": true, "http://127.0.0.1:8080": true, "http://[::1]:8080/x": true,
		"http://mirror.example.com": false, "mirror.example.com": false, "ftp://mirror.example.com": false, "http://localhost.example.com": false,
	} {
		err := CheckMirror(mirror)
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), MirrorVariable) {
			t.Errorf("%q: %v", mirror, err)
		}
	}
}

func TestASecondCommandWaitsForTheFirst(t *testing.T) {
	bin := t.TempDir()

	// try asks for the same lock, and does not wait for it.
	try := func() error {
		file, err := os.Open(filepath.Join(bin, ".fetching"))
		if err != nil {
			return err
		}
		defer file.Close()

		return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}

	done, err := Alone(bin)
	if err != nil {
		t.Fatal(err)
	}

	if err := try(); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("beside the first: %v", err)
	}

	done()

	if err := try(); err != nil {
		t.Errorf("after the first: %v", err)
	}
}
