package workloads

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"platform.lab/lab/internal/datapath"
	"platform.lab/lab/internal/netpolicy"
	"platform.lab/lab/internal/network"
)

const networkPolicies = "network-policies"

// The kinds of Cilium's own policies.
const (
	ciliumPolicies        = "ciliumnetworkpolicies.cilium.io"
	ciliumClusterPolicies = "ciliumclusterwidenetworkpolicies.cilium.io"
)

// protocols are the names of those that have ports.
var protocols = map[byte]corev1.Protocol{network.TCP: corev1.ProtocolTCP, network.UDP: corev1.ProtocolUDP, 132: corev1.ProtocolSCTP}

// runNetworkPolicies decides for the machines' data paths, and tells them the cluster's Services. Nothing passes from or to
// a pod that runs as processes before it does.
func runNetworkPolicies(ctx context.Context, c *cluster) error {
	held := &holder{cluster: c, machines: c.options.DataPath, flows: c.options.Flows}

	return together(ctx, held.run, held.readCilium, held.flows.run)
}

// holder knows the cluster's policies and what they have decided.
type holder struct {
	cluster  *cluster
	machines *datapath.Machines
	flows    *Flows

	current   atomic.Pointer[known]
	undecided atomic.Pointer[[]netpolicy.Policy]
	again     atomic.Pointer[signal]

	mu sync.Mutex // of merging
}

// known is what a decision stands on: what the API says, and the same with what the machines know of their pods.
type known struct {
	table, merged *netpolicy.Table
	version       int
	// services are the addresses of Services, with whether something answers there.
	services map[netip.AddrPort]bool
}

func (h *holder) run(ctx context.Context) error {
	objects := h.cluster.objects
	policies, namespaces := objects.Networking().V1().NetworkPolicies(), objects.Core().V1().Namespaces()

	changed, err := on(ctx, h.cluster.pods(), objects.Core().V1().Nodes().Informer(), policies.Informer(), namespaces.Informer(),
		objects.Core().V1().Services().Informer(), objects.Discovery().V1().EndpointSlices().Informer())
	if err != nil {
		return err
	}

	h.again.Store(&changed)

	decides := false

	h.cluster.sweep(ctx, networkPolicies, changed, func(ctx context.Context) error {
		if err := h.read(); err != nil {
			return err
		}

		if !decides {
			h.machines.Decide(ctx, h.decide)

			decides = true
		}

		return h.machines.Recheck(func(at *datapath.Machine, asked network.Connection) bool {
			verdict, service := h.verdict(at, asked)

			return service || verdict.Allowed()
		})
	})

	return nil
}

// read makes the table anew, and tells the machines what to translate: to an address of a Service whose agents run, from inside
// of the cluster, whether a speaker announces it or not.
func (h *holder) read() error {
	objects := h.cluster.objects

	pods, err := h.cluster.objects.Core().V1().Pods().Lister().List(labels.Everything())
	namespaces, wrong := objects.Core().V1().Namespaces().Lister().List(labels.Everything())
	err = errors.Join(err, wrong)
	policies, wrong := objects.Networking().V1().NetworkPolicies().Lister().List(labels.Everything())
	err = errors.Join(err, wrong)
	machines, wrong := objects.Core().V1().Nodes().Lister().List(labels.Everything())
	err = errors.Join(err, wrong)
	services, wrong := objects.Core().V1().Services().Lister().List(labels.Everything())
	err = errors.Join(err, wrong)
	endpoints, wrong := objects.Discovery().V1().EndpointSlices().Lister().List(labels.Everything())

	if err = errors.Join(err, wrong); err != nil {
		return err
	}

	given := netpolicy.Objects{Pods: pods, Namespaces: namespaces, Policies: policies, Nodes: nodesByAddress(machines)}
	if undecided := h.undecided.Load(); undecided != nil {
		given.Undecided = *undecided
	}

	table, err := netpolicy.New(given)
	if err != nil {
		return err
	}

	made := &known{table: table, version: -1, services: map[netip.AddrPort]bool{}}

	var (
		plan   proxyPlan
		ranges []netip.Prefix
	)

	if slices.ContainsFunc(pods, isAgent) {
		plan, ranges = planProxy(services, endpoints, true), h.cluster.serviceRanges
	}

	told := h.machines.SetServices(network.Services{All: translations(plan), Ranges: ranges})

	for _, all := range []map[netip.AddrPort][]netip.AddrPort{plan.backends, plan.datagrams} {
		for at, backends := range all {
			made.services[at] = made.services[at] || len(backends) > 0
		}
	}

	h.current.Store(made)

	merged, _ := h.merged()
	h.flows.learn(merged, h.machines.Has)

	return told
}

func nodesByAddress(nodes []*corev1.Node) map[netip.Addr]netpolicy.Node {
	found := map[netip.Addr]netpolicy.Node{}

	for _, node := range nodes {
		_, plane := node.Labels["node-role.kubernetes.io/control-plane"]

		for _, one := range node.Status.Addresses {
			if address, err := netip.ParseAddr(one.Address); err == nil {
				found[address] = netpolicy.Node{Name: node.Name, APIServer: plane}
			}
		}
	}

	return found
}

// merged is the table now, with the pods as their machines have them.
func (h *holder) merged() (*netpolicy.Table, *known) {
	h.mu.Lock()
	defer h.mu.Unlock()

	current := h.current.Load()
	if current.merged != nil && current.version == h.machines.Version() {
		return current.merged, current
	}

	pods, version := h.machines.Pods()
	renewed := &known{table: current.table, merged: current.table.WithPods(pods), version: version, services: current.services}

	h.current.CompareAndSwap(current, renewed) // another one was read meanwhile: it is merged by who asks next

	return renewed.merged, renewed
}

// verdict decides; `service` says that the connection is for an address of a Service where nothing answers: the client
// is told so, whatever the policies say.
func (h *holder) verdict(at *datapath.Machine, asked network.Connection) (verdict netpolicy.Verdict, service bool) {
	table, current := h.merged()
	if answered, is := current.services[asked.To]; is && !answered {
		return verdict, true
	}

	return table.Decide(packetOf(asked), at.Address()), false
}

func packetOf(asked network.Connection) netpolicy.Packet {
	packet := netpolicy.Packet{From: asked.From.Addr(), To: asked.To.Addr(), Protocol: protocols[asked.Protocol], Port: asked.To.Port()}
	if asked.Protocol == network.ICMP {
		packet.Protocol = "ICMP"
	}

	return packet
}

// decide answers for the machines.
func (h *holder) decide(at *datapath.Machine, asked network.Connection) bool {
	_, current := h.merged()
	if answered := current.services[asked.To]; answered {
		return false // its translation is on its way to this machine; the client asks again
	}

	verdict, service := h.verdict(at, asked)
	if service {
		return true
	}

	// Between two machines both are asked: the caller's has told it.
	if at.Has(asked.From.Addr()) || !h.machines.Has(asked.From.Addr()) {
		h.flows.record(verdict, packetOf(asked), time.Now())
	}

	return verdict.Allowed()
}

// isAgent says whether a pod is the agent that would translate, and runs.
func isAgent(pod *corev1.Pod) bool {
	return isReady(pod) && labelled(ciliumSystemNamespace, labels.Set{"k8s-app": "cilium"})(pod)
}

// translations are a plan as machines carry it out, in a stable order.
func translations(plan proxyPlan) []network.Service {
	var all []network.Service

	for protocol, backends := range map[byte]map[netip.AddrPort][]netip.AddrPort{network.TCP: plan.backends, network.UDP: plan.datagrams} {
		for at, endpoints := range backends {
			all = append(all, network.Service{Protocol: protocol, At: at, Endpoints: endpoints, Sticky: plan.sticky[at]})
		}
	}

	slices.SortFunc(all, func(a, b network.Service) int {
		if a.At != b.At {
			return a.At.Compare(b.At)
		}

		return int(a.Protocol) - int(b.Protocol)
	})

	return all
}

// readCilium learns of Cilium's own policies, which are not decided here.
func (h *holder) readCilium(ctx context.Context) error {
	kinds := []string{ciliumPolicies, ciliumClusterPolicies}

	return h.cluster.whileServed(ctx, networkPolicies, "v2", kinds, func(ctx context.Context, informers customInformers) error {
		changed, err := on(ctx, slices.Collect(maps.Values(informers))...)
		if err != nil {
			return err
		}

		h.cluster.sweep(ctx, networkPolicies, changed, func(context.Context) error {
			var found []netpolicy.Policy

			for _, kind := range kinds {
				for _, object := range listed(informers[kind]) {
					found = append(found, undecidedOf(object)...)
				}
			}

			h.undecided.Store(&found)

			if again := h.again.Load(); again != nil {
				again.raise()
			}

			return nil
		})

		return nil
	})
}

// undecidedOf are the policies in an object of Cilium: its spec, and its specs.
func undecidedOf(object *unstructured.Unstructured) []netpolicy.Policy {
	name := object.GetKind() + " " + strings.TrimPrefix(object.GetNamespace()+"/"+object.GetName(), "/")
	specs, _, _ := unstructured.NestedSlice(object.Object, "specs")

	if spec, found, _ := unstructured.NestedMap(object.Object, "spec"); found {
		specs = append(specs, spec)
	}

	var all []netpolicy.Policy

	for _, one := range specs {
		spec, ok := one.(map[string]any)
		if !ok {
			continue
		}

		has := func(keys ...string) bool {
			return slices.ContainsFunc(keys, func(key string) bool { _, there := spec[key]; return there })
		}
		if has("nodeSelector") {
			continue // it is for machines
		}

		all = append(all, netpolicy.Policy{
			Name: name, Ingress: has("ingress", "ingressDeny"), Egress: has("egress", "egressDeny"), Selects: selectsOf(spec, object.GetNamespace()),
		})
	}

	return all
}

// selectsOf reads an endpointSelector. One that cannot be read selects all pods that it may.
func selectsOf(spec map[string]any, namespace string) func(*corev1.Pod) bool {
	selector := labels.Everything()
	raw, _, _ := unstructured.NestedMap(spec, "endpointSelector")

	var wanted metav1.LabelSelector
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &wanted) == nil && withoutSources(&wanted) {
		if parsed, err := metav1.LabelSelectorAsSelector(&wanted); err == nil {
			selector = parsed
		}
	}

	return func(pod *corev1.Pod) bool {
		if namespace != "" && pod.Namespace != namespace {
			return false
		}

		set := labels.Set{namespaceLabel: pod.Namespace}
		maps.Copy(set, pod.Labels)

		return selector.Matches(set)
	}
}

// namespaceLabel is Cilium's label of a pod's namespace.
const namespaceLabel = "io.kubernetes.pod.namespace"

// withoutSources takes the sources from the keys of a selector ("k8s:app"); false for one with other labels than a pod's.
func withoutSources(selector *metav1.LabelSelector) bool {
	plain := func(key string) (string, bool) {
		source, rest, has := strings.Cut(key, ":")
		if !has {
			rest = key
		}

		return rest, (!has || source == "k8s" || source == "any") && !strings.HasPrefix(rest, "io.cilium.")
	}
	ours := true

	named := map[string]string{}

	for key, value := range selector.MatchLabels {
		name, known := plain(key)
		named[name], ours = value, ours && known
	}

	selector.MatchLabels = named

	for i, one := range selector.MatchExpressions {
		name, known := plain(one.Key)
		selector.MatchExpressions[i].Key, ours = name, ours && known
	}

	return ours
}
