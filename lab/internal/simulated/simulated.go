// Package simulated is the one place of what the lab answers when somebody asks for what it does not do: one
// sentence that begins with Mark, names what is simulated, and says what to do instead.
package simulated

import (
	"maps"
	"slices"
	"strings"
)

// Mark begins every answer of this package; the lab's tests look for it.
const Mark = "not in the lab: "

func sentence(what, instead string) string { return Mark + what + "; " + instead }

// answer is what is simulated, and what to do instead.
type answer struct{ what, instead string }

// methods are those of a machine's API that a simulated machine has not, by service and name.
var methods = map[string]answer{
	"machine.MachineService/PacketCapture":                 {"a simulated machine captures no packets", "`talosctl netstat` shows its real connections"},
	"machine.MachineService/Restart":                       {"a simulated machine restarts no single container", "`talosctl service etcd restart` and `talosctl reboot` work"},
	"machine.MachineService/ServiceStart":                  {"services of a simulated machine are not started by hand", "`talosctl service etcd restart` and `talosctl reboot` work"},
	"machine.MachineService/ServiceStop":                   {"services of a simulated machine are not stopped by hand", "`talosctl service etcd restart`, `talosctl reboot` and `talosctl shutdown` work"},
	"machine.DebugService/ContainerRun":                    {"a simulated machine runs no containers of images", "`talosctl dmesg`, `logs`, `ls`, `read`, `processes` and `netstat` look into it"},
	"machine.ImageService/Import":                          {"a simulated machine stores no images", "`talosctl image list` names those that its pods use"},
	"machine.ImageService/Remove":                          {"a simulated machine stores no images", "`talosctl image list` names those that its pods use"},
	"machine.ImageService/Verify":                          {"a simulated machine stores no images", "`talosctl image list` names those that its pods use"},
	"machine.LifecycleService/Install":                     {"a simulated machine is installed from the OVA", "`talosctl upgrade` installs another version"},
	"storage.StorageService/BlockDeviceWipe":               {"a simulated disk has no blocks to wipe", "`talosctl reset --system-labels-to-wipe EPHEMERAL` empties its partitions"},
	"inspect.InspectService/ControllerRuntimeDependencies": {"a simulated machine does not run Talos' controllers", "`talosctl get rd` lists the resources that it keeps"},
}

// Method answers for a gRPC method "/package.Service/Method" of the machine API.
func Method(full string) string {
	name := strings.TrimPrefix(full, "/")
	if known, ok := methods[name]; ok {
		return sentence(known.what, known.instead)
	}

	return sentence("a simulated machine does not answer "+name, "docs/first-minutes.md shows what it does answer")
}

// Resource answers for a COSI resource type that Talos has and a simulated machine does not keep.
func Resource(kind string) string {
	return sentence("a simulated machine keeps no "+kind, "`talosctl get machinestatus`, `members`, `addresses`, `services`, `disks` and `machineconfig` show what it keeps")
}

// Log answers for a service of Talos that is simulated.
func Log(service string) string {
	return sentence("the service "+service+" is simulated and logs nothing", "`talosctl dmesg` and the logs of machined, kubelet, etcd and the control plane show what happened")
}

// File answers for a file that a kernel of a machine's own would have.
func File(name string) string {
	return sentence("a simulated machine has no kernel of its own, and so no "+name, "`talosctl stats`, `memory`, `processes` and `netstat` show what is known")
}

// Pod answers for a call of the kubelet that needs a program in a pod, as "logs" or "exec".
func Pod(call string) string {
	return sentence("pods are simulated and run no programs, so there is nothing for "+call,
		"`kubectl describe` and `kubectl get events` show what happened; etcd, the API servers, controller managers and schedulers are real: `kubectl logs --namespace kube-system`, `talosctl logs`")
}

// Process answers for a call of the kubelet that a pod which runs as processes does not take, as "attach".
func Process(call string) string {
	return sentence("a pod that runs as processes takes no "+call, "`kubectl logs`, `exec` and `port-forward` work on it")
}

// Debugger says of an ephemeral container of such a pod that it does not run.
func Debugger() string {
	return sentence("no image runs beside a pod's processes, so there is no container for kubectl debug", "`kubectl exec` runs this computer's own tools in the pod")
}

// StaticPod answers for a call of the kubelet that the real programs of a control plane do not take.
func StaticPod(call string) string {
	return sentence("the control plane's programs run without containers, so there is nothing for "+call, "`kubectl logs` and `talosctl logs` show their real logs")
}

// Ingress answers for every host behind Traefik.
func Ingress() string {
	return sentence("Traefik and the pods behind it are simulated: this answer comes from the lab, not from Traefik",
		"address and certificate are as in production; `kubectl get ingressroutes,httproutes --all-namespaces` shows what Traefik would route")
}

// Login answers to who wants to log in through Dex.
func Login() string {
	return sentence("Dex is a stand-in and nobody logs in at GitHub or GitLab", "the tests look with a session that they sign themselves; `kubectl get applications --namespace argocd` shows what Argo CD syncs")
}

// Tool answers for a program that people know and the lab has not; false for one that it knows nothing of.
func Tool(name string) (string, bool) {
	known, ok := tools[name]

	return sentence(known.what, known.instead), ok
}

// Tools are the names that Tool answers for.
func Tools() []string { return slices.Sorted(maps.Keys(tools)) }

var tools = map[string]answer{
	"argocd": {"the argocd command is not built", "`kubectl get applications --namespace argocd` shows what Argo CD syncs"},
	"cilium": {"Cilium's agents are simulated, so the cilium command has nothing to look into", "`kubectl get pods --namespace kube-system` and `helm list --all-namespaces` show what was installed"},
	"cmctl":  {"cert-manager's command is not built", "`kubectl get certificates,certificaterequests --all-namespaces` and `kubectl describe` show what it issued"},
	"hubble": {"Cilium's agents are simulated, so there are no flows for hubble", "`talosctl netstat` shows the machines' real connections"},
}

// Kubelet answers for any other path of the kubelet's API.
func Kubelet(path string) string {
	return sentence("the simulated kubelet does not answer "+path, "/pods, /metrics, /metrics/resource and the logs of static pods are there")
}
