package machine

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/kubeapi"
	"platform.lab/lab/internal/simulated"
)

func TestAMethodThatNobodyWroteSaysSo(t *testing.T) {
	_, err := machineapi.UnimplementedMachineServiceServer{}.MetaWrite(t.Context(), nil)
	if err = explained("/machine.MachineService/MetaWrite", err); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), simulated.Mark) {
		t.Error(err)
	}

	own := status.Error(codes.Unimplemented, "kubeconfig is only available on control plane nodes")
	if got := explained("/machine.MachineService/Kubeconfig", own); !errors.Is(got, own) {
		t.Error(got)
	}

	if got := explained("/machine.MachineService/Version", nil); got != nil {
		t.Error(got)
	}
}

func TestTheSimulatedFilesAreThoseOfTheMachine(t *testing.T) {
	b := testBoot(t, "node01")
	b.id = "the-boot"
	b.hardware = Hardware{Name: "node01", MemoryMiB: 1024, DisksGiB: []int{10, 20}}
	b.machine.hardware = Hardware{Name: "node01", MemoryMiB: 2048} // it has grown while it runs

	for name, content := range map[string]string{disk.EtcdFolder + "/member/wal": "12345", disk.LogsFolder + "/machined.log": "{}\n"} {
		if err := disk.WriteFile(b.machine.disk.Path(name), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}

	all := b.files()

	for name, wanted := range map[string]string{
		bootIDPath: "the-boot\n", "/proc/sys/kernel/hostname": "node01\n", "/var/lib/etcd/member/wal": "12345", "/var/log/machined.log": "{}\n",
		"/proc/meminfo": "MemTotal:        2097152 kB",
	} {
		data, err := all.all[name].read()
		if err != nil || !strings.HasPrefix(string(data), wanted) {
			t.Errorf("%s: %q %v", name, data, err)
		}
	}

	for _, name := range []string{"/dev/sda", "/dev/sdb", "/etc/os-release", "/var/lib"} {
		if _, ok := all.all[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}

	if _, err := all.under("/nowhere"); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

func TestAFolderIsAsLargeAsWhatLiesInIt(t *testing.T) {
	b := testBoot(t, "node01")
	if err := disk.WriteFile(b.machine.disk.Path(disk.EtcdFolder, "member", "wal"), make([]byte, 100)); err != nil {
		t.Fatal(err)
	}

	found, err := b.files().under("/var/lib/etcd")
	if err != nil {
		t.Fatal(err)
	}

	last := sized(found)[len(found)-1]
	if last.path != "/var/lib/etcd" || last.size != 100 {
		t.Errorf("%+v", last)
	}
}

func TestTheKubeletHasLogsOfRealProgramsAndASentenceForTheOthers(t *testing.T) {
	n := newTestNode(t, "proxy")

	if code, body := ask(t, n, "/containerLogs/apps/web/large", "known"); code != http.StatusBadRequest || !strings.HasPrefix(body, simulated.Mark) {
		t.Errorf("%d %s", code, body)
	}

	if code, _ := ask(t, n, "/containerLogs/apps/nothing/large", "known"); code != http.StatusNotFound {
		t.Errorf("%d", code)
	}

	for _, path := range []string{"/exec/apps/web/large", "/attach/apps/web/large", "/portForward/apps/web", "/run/apps/web/large"} {
		if code, body := ask(t, n, path, "known"); code != http.StatusNotImplemented || !strings.Contains(body, `"message":"`+simulated.Mark) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}

	if code, body := ask(t, n, "/configz", "known"); code != http.StatusNotFound || !strings.HasPrefix(body, simulated.Mark) {
		t.Errorf("%d %s", code, body)
	}
}

func TestAProgramHasNoEarlierLog(t *testing.T) {
	n := newTestNode(t, "proxy")
	n.ControlPlane.pods["kube-apiserver"] = &staticPod{component: component{name: "kube-apiserver"}}

	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: kubeapi.SystemNamespace, Name: "kube-apiserver-node01"}}
	n.observe([]corev1.Pod{pod})

	if err := disk.WriteFile(n.Disk.Path(disk.LogsFolder, "kube-apiserver.log"), []byte("one\n")); err != nil {
		t.Fatal(err)
	}

	path := "/containerLogs/kube-system/kube-apiserver-node01/kube-apiserver"
	if code, body := ask(t, n, path, "known"); code != http.StatusOK || body != "one\n" {
		t.Errorf("%d %s", code, body)
	}

	wanted := `previous terminated container "kube-apiserver" in pod "kube-apiserver-node01" not found`
	if code, body := ask(t, n, path+"?previous=true", "known"); code != http.StatusBadRequest || !strings.Contains(body, wanted) {
		t.Errorf("%d %s", code, body)
	}
}

func TestTheTailOfALogIsSent(t *testing.T) {
	n := newTestNode(t, "proxy")
	source := n.Disk.Path("some.log")

	if err := os.WriteFile(source, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	for query, wanted := range map[string]string{"": "one\ntwo\nthree\n", "?tailLines=2": "two\nthree\n", "?tailLines=0": "", "?limitBytes=5": "one\nt"} {
		if got := logged(t, n, source, query); got != wanted {
			t.Errorf("%s: %q", query, got)
		}
	}
}

func logged(t *testing.T, n *node, source, query string) string {
	t.Helper()

	recorder := httptest.NewRecorder()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/containerLogs/a/b/c"+query, nil)
	if err == nil {
		err = n.streamLog(recorder, request, source)
	}

	if err != nil {
		t.Fatal(err)
	}

	return recorder.Body.String()
}

func TestAKindThatNothingFillsIsKnownAsThat(t *testing.T) {
	if _, err := newResources(t.Context()); err != nil {
		t.Fatal(err)
	}

	for kind, wanted := range map[string]bool{"LinkStatuses.net.talos.dev": true, "MachineStatuses.runtime.talos.dev": false, "Members.cluster.talos.dev": false} {
		if isUnkept(kind) != wanted {
			t.Errorf("%s: %v", kind, !wanted)
		}
	}
}

func TestOnlyAKernelsOwnFilesAreSaidToBeSimulated(t *testing.T) {
	if err := missing("stat", "/sys/fs/cgroup"); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), simulated.Mark) {
		t.Error(err)
	}

	if err := missing("stat", "/etc/nothing"); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "stat /etc/nothing: no such file or directory") {
		t.Error(err)
	}
}
