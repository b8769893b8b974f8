//go:build lab

package machine

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/talosapi"
)

const (
	harmless = `machine: {nodeLabels: {lab/rack: one}, sysctls: {vm.max_map_count: "262144"}}`
	flagged  = harmless + "\n---\n" + `cluster: {apiServer: {extraArgs: {v: "1"}}}`
	rebooted = flagged + "\n---\n" + `machine: {udev: {rules: ["SUBSYSTEM==\"net\""]}}`
)

// TestAClusterLivesThroughItsOperations is one long story: each step needs the ones before it.
func TestAClusterLivesThroughItsOperations(t *testing.T) {
	newWorld(t).tell(
		chapter{"three control planes come up from their applied configurations", threeControlPlanes},
		chapter{"a second bootstrap is refused", secondBootstrap},
		chapter{"a label and a sysctl restart nothing", liveChange},
		chapter{"an API server flag restarts that API server only", flagChange},
		chapter{"an invalid configuration and a change that needs a reboot are refused in Talos' words", refusals},
		chapter{"a role may do what Talos lets it do", roles},
		chapter{"a change that needs a reboot takes the machine away and back", rebootChange},
		chapter{"nodes become ready with their Cilium agent", ciliumAgents},
		chapter{"a worker joins by its bootstrap token", workerJoins},
		chapter{"an upgrade changes the version with the reboot", upgrade},
		chapter{"the VIP moves at once from a machine that reboots", plannedFailover},
		chapter{"the VIP comes back after a power loss", unplannedFailover},
		chapter{"a machine without its cable does not answer", cable},
		chapter{"a reset machine joins again", resetOne},
		chapter{"the cluster comes back from a snapshot", recovery},
		chapter{"what runs beside a cluster ends with its last control plane", destruction},
	)
}

func threeControlPlanes(w *world) {
	for number := 1; number <= 3; number++ {
		w.startup(number)
	}

	w.apply(1, machinetype.TypeControlPlane)
	w.bootstrap(1)
	w.apply(2, machinetype.TypeControlPlane)
	w.apply(3, machinetype.TypeControlPlane)
	w.allThree()
	w.Logf("%s\n%s", w.talosctl(1, "etcd", "members"), w.kubectl("get", "nodes,pods", "-A", "-o", "wide"))
}

// bootstrap begins the cluster and waits for the API behind the VIP.
func (w *world) bootstrap(number int, arguments ...string) {
	w.Helper()
	w.until("bootstrap is possible", func() bool {
		_, err := w.tryTalosctl(number, append([]string{"bootstrap"}, arguments...)...)

		return err == nil
	})
	// After a recovery the election still holds the members of before, until their sessions end: 60 s.
	w.until("the API answers through the VIP", func() bool {
		if _, err := w.tryTalosctl(number, "kubeconfig", "--force", filepath.Join(w.folder, "kubeconfig")); err != nil {
			return false
		}

		return w.apiAnswers()
	})
	// The API server makes the system's namespaces a moment after its first answer.
	w.until("kube-system is there", func() bool {
		_, err := w.try("kubectl", "get", "namespace", "kube-system")

		return err == nil
	})
}

func (w *world) apiAnswers() bool {
	_, err := w.try("kubectl", "--request-timeout=1s", "get", "--raw", "/version")

	return err == nil
}

func (w *world) allThree() {
	w.Helper()
	w.until("three etcd voters", func() bool { return w.voters(1) == 3 })
	w.until("three control planes", func() bool { return w.planeReady(1) && w.planeReady(2) && w.planeReady(3) })
	w.until("three registered nodes", func() bool {
		output, err := w.try("kubectl", "get", "nodes", "-l", "node-role.kubernetes.io/control-plane", "-o", "name")

		return err == nil && strings.Count(output, "node/") == 3
	})
}

func secondBootstrap(w *world) {
	if output, err := w.tryTalosctl(2, "bootstrap"); err == nil || !strings.Contains(output, "AlreadyExists") {
		w.Errorf("not AlreadyExists: %s", output)
	}
}

func liveChange(w *world) {
	before := w.pids(1)
	output := w.talosctl(1, "apply-config", "-f", w.config(1, machinetype.TypeControlPlane, harmless))

	if !strings.Contains(output, "Applied configuration without a reboot") {
		w.Errorf("talosctl says: %s", output)
	}

	w.until("the label is on the node", func() bool {
		return strings.Contains(w.kubectlSays("get", "nodes", "-l", "lab/rack=one", "-o", "name"), "node/node01")
	})

	if value := w.talosctl(1, "read", "/proc/sys/vm/max_map_count"); strings.TrimSpace(value) != "262144" {
		w.Errorf("the sysctl is %q", value)
	}

	if after := w.pids(1); !maps.Equal(before, after) {
		w.Errorf("programs restarted: %v, then %v", before, after)
	}
}

func flagChange(w *world) {
	before, others := w.pids(1), w.pids(2)
	w.talosctl(1, "apply-config", "-f", w.config(1, machinetype.TypeControlPlane, strings.Split(flagged, "\n---\n")...))
	w.until("another API server runs", func() bool {
		return w.planeReady(1) && w.pids(1)["kube-apiserver"] != before["kube-apiserver"]
	})

	after := w.pids(1)
	// The machine's controller manager and scheduler may miss their API server for too long and end by themselves.
	if after["etcd"] != before["etcd"] || !maps.Equal(others, w.pids(2)) {
		w.Errorf("other programs restarted: %v, then %v; on node02 %v, then %v", before, after, others, w.pids(2))
	}

	w.until("the mirror pod shows the flag", func() bool {
		return strings.Contains(w.kubectlSays("-n", "kube-system", "get", "pod", "kube-apiserver-node01", "-o", "jsonpath={.spec.containers[0].args}"), `"--v=1"`)
	})
}

func refusals(w *world) {
	path := w.config(1, machinetype.TypeControlPlane, strings.Split(rebooted, "\n---\n")...)

	output, err := w.tryTalosctl(1, "apply-config", "--mode=no-reboot", "-f", path)
	if err == nil || !strings.Contains(output, "this config change can't be applied in immediate mode") {
		w.Errorf("no-reboot: %s", output)
	}

	output = w.talosctl(1, "apply-config", "--dry-run", "-f", path)
	if !strings.Contains(output, "Applied configuration with a reboot (skipped in dry-run)") || !strings.Contains(output, "SUBSYSTEM") {
		w.Errorf("dry run: %s", output)
	}

	broken := filepath.Join(w.folder, "broken.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}

	if err := os.WriteFile(broken, []byte(strings.Replace(string(data), "dnsDomain: cluster.local", "dnsDomain: cluster.local\n        podSubnets: [nonsense]", 1)), 0o600); err != nil {
		w.Fatal(err)
	}

	if output, err := w.tryTalosctl(1, "apply-config", "-f", broken); err == nil {
		w.Errorf("a broken configuration was taken: %s", output)
	}
}

func roles(w *world) {
	reader := filepath.Join(w.folder, "reader")
	w.talosctl(1, "config", "new", "--roles=os:reader", reader)

	if output, err := w.tryTalosctl(1, "--talosconfig", reader, "etcd", "members"); err != nil {
		w.Errorf("a reader may list members: %s", output)
	}

	for _, forbidden := range [][]string{{"reboot", "--wait=false"}, {"get", "machineconfig"}, {"read", "/proc/sys/kernel/random/boot_id"}} {
		output, err := w.tryTalosctl(1, append([]string{"--talosconfig", reader}, forbidden...)...)
		if err == nil || !strings.Contains(output, "not authorized") {
			w.Errorf("a reader may not %v: %s", forbidden, output)
		}
	}

	if output, err := w.tryTalosctl(1, "get", "disks", "--insecure"); err == nil {
		w.Errorf("a caller without a certificate is let in: %s", output)
	}
}

func (w *world) bootID(number int) string {
	output, err := w.tryTalosctl(number, "read", "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}

	return output
}

// cameBack waits until a machine has another boot ID and all is well again.
func (w *world) cameBack(number int, before string) {
	w.Helper()
	w.until(name(number)+" is back", func() bool {
		after := w.bootID(number)

		return after != "" && after != before
	})
	w.until(name(number)+" is a control plane again", func() bool { return w.planeReady(number) && w.voters(number) == 3 })
}

// probe counts the API's failures through the VIP while something happens.
func (w *world) probe(what string, during func()) {
	w.Helper()

	var (
		stop             atomic.Bool
		asked, failed    int
		begun, lastFault time.Time
		longest          time.Duration
		done             = make(chan struct{})
	)

	go func() {
		defer close(done)

		for !stop.Load() {
			asked++

			if w.apiAnswers() {
				begun = time.Time{}
			} else {
				failed++
				lastFault = time.Now()

				if begun.IsZero() {
					begun = lastFault
				}

				longest = max(longest, lastFault.Sub(begun))
			}

			time.Sleep(50 * time.Millisecond)
		}
	}()

	during()
	stop.Store(true)
	<-done
	w.step("%s: %d of %d calls through the VIP failed, longest gap %.1f s", what, failed, asked, longest.Seconds())
}

func rebootChange(w *world) {
	before := w.bootID(1)

	w.probe("reboot of node01", func() {
		output := w.talosctl(1, "apply-config", "-f", w.config(1, machinetype.TypeControlPlane, strings.Split(rebooted, "\n---\n")...))
		if !strings.Contains(output, "Applied configuration with a reboot") {
			w.Errorf("talosctl says: %s", output)
		}

		w.cameBack(1, before)
	})
}

const ciliumDaemonSet = `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: cilium, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: cilium}}
  template:
    metadata: {labels: {k8s-app: cilium}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers: [{name: cilium-agent, image: "quay.example/cilium/cilium:v1"}]
`

func ciliumAgents(w *world) {
	path := filepath.Join(w.folder, "cilium.yaml")
	if err := os.WriteFile(path, []byte(ciliumDaemonSet), 0o600); err != nil {
		w.Fatal(err)
	}

	if w.status(1).Ready {
		w.Error("node01 is ready without a network")
	}

	w.kubectl("apply", "-f", path)
	w.until("all machines are ready", func() bool { return w.status(1).Ready && w.status(2).Ready && w.status(3).Ready })
	w.until("CoreDNS runs", func() bool {
		return strings.Count(w.kubectlSays("-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns"), "Running") == 2
	})
	w.Log(w.talosctl(1, "health", "--wait-timeout=1m"))
	w.Log(w.talosctl(1, "health", "--server=false", "--wait-timeout=1m", "--control-plane-nodes", strings.Join([]string{address(1), address(2), address(3)}, ",")))
}

func workerJoins(w *world) {
	w.startup(4)
	w.apply(4, machinetype.TypeWorker)
	w.until("the worker is ready", func() bool { return w.status(4).Ready })
	w.Log(w.kubectl("get", "nodes", "-o", "wide"))

	if output, err := w.tryTalosctl(4, "etcd", "members"); err == nil || !strings.Contains(output, "only available on control plane") {
		w.Errorf("etcd members of a worker: %s", output)
	}
}

func upgrade(w *world) {
	before := w.bootID(2)
	w.talosctl(2, "upgrade", "--image", "factory.example/vmware-installer/0000:v1.13.10", "--drain=false", "--timeout=2m")
	w.cameBack(2, before)

	if version := w.talosctl(2, "version", "--short"); !strings.Contains(version, "v1.13.10") {
		w.Errorf("the version is %s", version)
	}
}

func (w *world) holder() int {
	for number := 1; number <= 3; number++ {
		if w.status(number).VIP != "" {
			return number
		}
	}

	return 0
}

func plannedFailover(w *world) {
	holder := w.holder()
	before := w.bootID(holder)

	w.probe(fmt.Sprintf("reboot of the VIP's holder %s", name(holder)), func() {
		w.talosctl(holder, "reboot", "--wait=false")
		w.cameBack(holder, before)
	})

	if w.holder() == holder {
		w.Errorf("the VIP is still on %s", name(holder))
	}
}

func unplannedFailover(w *world) {
	holder := w.holder()
	w.fleet.PowerOff(w.hardware(holder).ID)
	w.until("the API does not answer", func() bool { return !w.apiAnswers() })
	w.until("the VIP is elsewhere", func() bool { return w.holder() != 0 })
	w.until("the API answers", w.apiAnswers)
	w.fleet.PowerOn(w.hardware(holder))
	w.cameBack(holder, "")
}

func cable(w *world) {
	fault := filepath.Join(w.folder, "machines", faultsFolder, name(2))
	if err := disk.WriteFile(fault, nil); err != nil {
		w.Fatal(err)
	}

	w.until("it does not answer", func() bool {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(address(2), strconv.Itoa(talosapi.Port)), time.Second)
		if err == nil {
			conn.Close()
		}

		return err != nil
	})

	if err := os.Remove(fault); err != nil {
		w.Fatal(err)
	}

	w.until("it answers again", func() bool { return w.bootID(2) != "" })
	w.until("three etcd voters", func() bool { return w.voters(2) == 3 })
}

func resetOne(w *world) {
	before := w.bootID(3)
	w.talosctl(3, "reset", "--graceful=true", "--reboot", "--system-labels-to-wipe=EPHEMERAL", "--wait=false")
	w.cameBack(3, before)
}

func recovery(w *world) {
	w.kubectl("create", "configmap", "before-the-disaster")

	snapshot := filepath.Join(w.folder, "etcd.snapshot")
	w.talosctl(1, "etcd", "snapshot", snapshot)

	before := map[int]string{}
	for number := 1; number <= 3; number++ {
		before[number] = w.bootID(number)
		w.talosctl(number, "reset", "--graceful=false", "--reboot", "--system-labels-to-wipe=EPHEMERAL", "--wait=false")
	}

	for number := 1; number <= 3; number++ {
		w.until(name(number)+" is back", func() bool {
			after := w.bootID(number)

			return after != "" && after != before[number]
		})
	}

	w.bootstrap(1, "--recover-from="+snapshot)
	w.allThree()
	w.kubectl("get", "configmap", "before-the-disaster")
	w.until("all machines are ready", func() bool {
		return w.status(1).Ready && w.status(2).Ready && w.status(3).Ready && w.status(4).Ready
	})
}

func destruction(w *world) {
	// The recovery was a beginning again.
	w.until("it runs", func() bool { return w.beside.Load() == 2 && w.ended.Load() == 1 })

	for number := 1; number <= 3; number++ {
		if w.ended.Load() != 1 {
			w.Errorf("it ended before machine %d was destroyed", number)
		}

		w.fleet.Destroy(w.hardware(number).ID)
		w.until(name(number)+" is gone", func() bool { return w.status(number).Name == "" })
	}

	w.until("it has ended", func() bool { return w.ended.Load() == 2 })
}
