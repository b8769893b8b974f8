// Package netpolicy decides which connections a cluster's network policies allow, and by which rule. It is a function of
// objects alone: no network, no clock.
//
// It decides as Cilium does (pkg/k8s/network_policy.go and the page "Kubernetes Networking: Network Policies"): a pod that
// no policy selects is open; one that a policy selects lets through what a rule names; a connection needs both ends.
// Where Cilium is stricter than the text of NetworkPolicy it is so here: an ipBlock means addresses outside of the cluster,
// and so neither a pod nor a machine; a machine is let in by a rule without peers, and always by its own pods.
package netpolicy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Kind is what an address belongs to.
type Kind string

// The kinds: all but a pod are Cilium's reserved identities.
const (
	Pod        Kind = "pod"
	Host       Kind = "host"
	RemoteNode Kind = "remote-node"
	// APIServer is a machine that runs one: Cilium's identity kube-apiserver, which a remote node has too.
	APIServer Kind = "kube-apiserver"
	World     Kind = "world"
)

// Endpoint is one end of a connection.
type Endpoint struct {
	Kind Kind `json:"kind"`
	// Namespace and Name are a pod's; Name is a machine's too.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Address is only told of the world: others have a name.
	Address string `json:"address,omitempty"`
}

func (e Endpoint) String() string {
	switch e.Kind {
	case Pod:
		return e.Namespace + "/" + e.Name
	case World:
		return string(e.Kind) + " " + e.Address
	case Host, RemoteNode, APIServer:
	}

	return string(e.Kind) + " " + e.Name
}

// Packet is the first one of a connection, with the addresses that its ends have: those of Services are translated before.
type Packet struct {
	From, To netip.Addr
	// Protocol is a corev1.Protocol, or another word ("ICMP") that no port has.
	Protocol corev1.Protocol
	// Port is the destination's; 0 for a protocol without ports.
	Port uint16
}

// Node is a machine.
type Node struct {
	Name      string
	APIServer bool
}

// Policy is a policy of a kind that is known to select pods, but whose rules are not decided here: what it selects is
// refused, and not let through unseen.
type Policy struct {
	// Name is "Kind namespace/name".
	Name            string
	Selects         func(pod *corev1.Pod) bool
	Ingress, Egress bool
}

// Objects are what a Table is made of.
type Objects struct {
	Pods       []*corev1.Pod
	Namespaces []*corev1.Namespace
	Policies   []*networkingv1.NetworkPolicy
	Undecided  []Policy
	// Nodes are the machines by all their addresses.
	Nodes map[netip.Addr]Node
}

// Side is what one end's policies say of a connection.
type Side struct {
	// Isolated says that a policy selects the pod for this direction.
	Isolated bool
	// By are the rules that allow, as "namespace/policy ingress[0]"; in order. None where no policy selects the pod.
	By []string
	// Undecided is the name of a policy that the lab cannot decide; "" is none.
	Undecided string
}

// Allows says whether this end lets the connection through.
func (s Side) Allows() bool { return s.Undecided == "" && (!s.Isolated || len(s.By) > 0) }

// Verdict is a decision.
type Verdict struct {
	From, To        Endpoint
	Egress, Ingress Side
}

// Allowed says whether both ends let the connection through.
func (v Verdict) Allowed() bool { return v.Egress.Allows() && v.Ingress.Allows() }

// Why says in a few words why a connection is refused; "" when it is not.
func (v Verdict) Why() string {
	for _, one := range []struct {
		side Side
		pod  Endpoint
		word string
	}{{v.Egress, v.From, "egress"}, {v.Ingress, v.To, "ingress"}} {
		switch {
		case one.side.Undecided != "":
			return fmt.Sprintf("the lab cannot decide %s, which selects %s: what it says of %s is not allowed here", one.side.Undecided, one.pod, one.word)
		case !one.side.Allows():
			return fmt.Sprintf("no policy allows this %s of %s", one.word, one.pod)
		}
	}

	return ""
}

// Table is objects prepared for decisions. It does not change.
type Table struct {
	pods       map[netip.Addr]*corev1.Pod
	namespaces map[string]labels.Set
	nodes      map[netip.Addr]Node
	policies   []compiled
	undecided  []Policy
}

// compiled is a policy with its selectors parsed.
type compiled struct {
	name, namespace string
	selects         labels.Selector
	isolates        map[networkingv1.PolicyType]bool
	rules           map[networkingv1.PolicyType][]rule
}

type rule struct {
	name  string
	peers []peer // none: everybody
	ports []networkingv1.NetworkPolicyPort
}

// peer is a block of addresses, or pods.
type peer struct {
	block           netip.Prefix
	except          []netip.Prefix
	namespaces      labels.Selector // nil: the policy's own
	pods            labels.Selector
	policyNamespace string
}

// New prepares objects. A selector or a block that cannot be read is an error that names its policy; the API server
// accepts none such.
func New(objects Objects) (*Table, error) {
	t := &Table{
		pods: map[netip.Addr]*corev1.Pod{}, namespaces: map[string]labels.Set{}, nodes: maps.Clone(objects.Nodes), undecided: objects.Undecided,
	}

	for _, namespace := range objects.Namespaces {
		t.namespaces[namespace.Name] = namespace.Labels
	}

	for _, pod := range objects.Pods {
		t.addPod(pod)
	}

	for _, policy := range objects.Policies {
		one, err := compile(policy)
		if err != nil {
			return nil, fmt.Errorf("NetworkPolicy %s/%s: %w", policy.Namespace, policy.Name, err)
		}

		t.policies = append(t.policies, one)
	}

	slices.SortFunc(t.policies, func(a, b compiled) int { return strings.Compare(a.name, b.name) })

	return t, nil
}

// addPod keeps a pod by its addresses. One in its machine's network has the machine's identity; one that is over has no
// address any more.
func (t *Table) addPod(pod *corev1.Pod) {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return
	}

	for _, one := range append([]corev1.PodIP{{IP: pod.Status.PodIP}}, pod.Status.PodIPs...) {
		if address, err := netip.ParseAddr(one.IP); err == nil {
			t.pods[address] = pod
		}
	}
}

func compile(policy *networkingv1.NetworkPolicy) (compiled, error) {
	made := compiled{
		name: policy.Namespace + "/" + policy.Name, namespace: policy.Namespace,
		isolates: map[networkingv1.PolicyType]bool{}, rules: map[networkingv1.PolicyType][]rule{},
	}

	var err error
	if made.selects, err = metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector); err != nil {
		return made, fmt.Errorf("spec.podSelector: %w", err)
	}

	// The API server writes policyTypes; without them Ingress counts always, Egress where there are rules.
	for _, kind := range policy.Spec.PolicyTypes {
		made.isolates[kind] = true
	}

	if len(policy.Spec.PolicyTypes) == 0 {
		made.isolates[networkingv1.PolicyTypeIngress] = true
		made.isolates[networkingv1.PolicyTypeEgress] = len(policy.Spec.Egress) > 0
	}

	for i, one := range policy.Spec.Ingress {
		made.add(networkingv1.PolicyTypeIngress, fmt.Sprintf("ingress[%d]", i), one.From, one.Ports, &err)
	}

	for i, one := range policy.Spec.Egress {
		made.add(networkingv1.PolicyTypeEgress, fmt.Sprintf("egress[%d]", i), one.To, one.Ports, &err)
	}

	return made, err
}

// add keeps the first problem in err.
func (c *compiled) add(kind networkingv1.PolicyType, name string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, err *error) {
	made := rule{name: c.name + " " + name, ports: ports}

	for _, given := range peers {
		one, problem := parsePeer(given, c.namespace)
		if problem != nil && *err == nil {
			*err = fmt.Errorf("spec.%s: %w", name, problem)
		}

		made.peers = append(made.peers, one)
	}

	c.rules[kind] = append(c.rules[kind], made)
}

func parsePeer(given networkingv1.NetworkPolicyPeer, namespace string) (made peer, err error) {
	made.policyNamespace = namespace

	if block := given.IPBlock; block != nil {
		if made.block, err = netip.ParsePrefix(block.CIDR); err != nil {
			return made, err
		}

		for _, text := range block.Except {
			except, err := netip.ParsePrefix(text)
			if err != nil {
				return made, err
			}

			made.except = append(made.except, except)
		}

		return made, nil
	}

	made.pods = labels.Everything()

	if given.NamespaceSelector != nil {
		if made.namespaces, err = metav1.LabelSelectorAsSelector(given.NamespaceSelector); err != nil {
			return made, err
		}
	}

	if given.PodSelector != nil {
		made.pods, err = metav1.LabelSelectorAsSelector(given.PodSelector)
	}

	return made, err
}

// Summary is what a policy is, without its rules.
type Summary struct {
	Name string
	// Rules is how many it has; one without only closes.
	Rules int
	// Selects are the addresses of its pods.
	Selects []netip.Addr
}

// Policies are all of them, by name.
func (t *Table) Policies() []Summary {
	var all []Summary

	for _, policy := range t.policies {
		one := Summary{Name: policy.name}
		for _, rules := range policy.rules {
			one.Rules += len(rules)
		}

		for address, pod := range t.pods {
			if pod.Namespace == policy.namespace && policy.selects.Matches(labels.Set(pod.Labels)) {
				one.Selects = append(one.Selects, address)
			}
		}

		all = append(all, one)
	}

	return all
}

// Undecided are the names of the policies that are not decided here.
func (t *Table) Undecided() []string {
	var names []string
	for _, policy := range t.undecided {
		names = append(names, policy.Name)
	}

	slices.Sort(names)

	return names
}

// WithPods is the table with some pods in place of those that it has of the same addresses: what a machine knows before the
// API does.
func (t *Table) WithPods(pods map[netip.Addr]*corev1.Pod) *Table {
	made := *t
	made.pods = maps.Clone(t.pods)

	for address, pod := range pods {
		// The API's is newer, when it is the same pod: its labels may have changed.
		if known := made.pods[address]; known == nil || known.UID != pod.UID {
			made.pods[address] = pod
		}
	}

	return &made
}

// Decide says whether a connection is allowed. `on` is the address of the machine where it is decided.
func (t *Table) Decide(packet Packet, on netip.Addr) Verdict {
	from, to := t.pods[packet.From], t.pods[packet.To]
	v := Verdict{From: t.endpoint(packet.From, on), To: t.endpoint(packet.To, on)}

	// A pod reaches itself, also by its Service; and its own machine reaches it, for the probes (Cilium's allow-localhost).
	if (from != nil && from == to) || (to != nil && v.From.Kind == Host) {
		return v
	}

	if from != nil {
		v.Egress = t.side(networkingv1.PolicyTypeEgress, from, to, packet, packet.To, v.To.Kind)
	}

	if to != nil {
		v.Ingress = t.side(networkingv1.PolicyTypeIngress, to, from, packet, packet.From, v.From.Kind)
	}

	return v
}

func (t *Table) endpoint(address, on netip.Addr) Endpoint {
	if pod := t.pods[address]; pod != nil {
		return Endpoint{Kind: Pod, Namespace: pod.Namespace, Name: pod.Name}
	}

	node, known := t.nodes[address]

	switch {
	case !known:
		return Endpoint{Kind: World, Address: address.String()}
	case address == on || (on.IsValid() && t.nodes[on].Name == node.Name):
		return Endpoint{Kind: Host, Name: node.Name}
	case node.APIServer:
		return Endpoint{Kind: APIServer, Name: node.Name}
	default:
		return Endpoint{Kind: RemoteNode, Name: node.Name}
	}
}

// side asks the policies that select `pod`; the other end is a pod, or an address of another kind.
func (t *Table) side(kind networkingv1.PolicyType, pod, other *corev1.Pod, packet Packet, address netip.Addr, otherKind Kind) Side {
	var found Side

	for _, policy := range t.policies {
		if pod.Namespace != policy.namespace || !policy.isolates[kind] || !policy.selects.Matches(labels.Set(pod.Labels)) {
			continue
		}

		found.Isolated = true

		// A port's name is one of the pod that is called.
		called := pod
		if kind == networkingv1.PolicyTypeEgress {
			called = other
		}

		for _, one := range policy.rules[kind] {
			if t.names(one.peers, other, address, otherKind) && allowsPort(one.ports, called, packet) {
				found.By = append(found.By, one.name)
			}
		}
	}

	for _, policy := range t.undecided {
		counts := policy.Ingress
		if kind == networkingv1.PolicyTypeEgress {
			counts = policy.Egress
		}

		if counts && policy.Selects(pod) {
			found.Isolated, found.Undecided = true, policy.Name
		}
	}

	return found
}

// names says whether one of the peers is the other end; no peers are everybody.
func (t *Table) names(peers []peer, other *corev1.Pod, address netip.Addr, kind Kind) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(one peer) bool {
		switch {
		case one.block.IsValid():
			return kind == World && one.block.Contains(address) && !slices.ContainsFunc(one.except, func(except netip.Prefix) bool {
				return except.Contains(address)
			})
		case other == nil || !one.pods.Matches(labels.Set(other.Labels)):
			return false
		case one.namespaces == nil:
			return other.Namespace == one.policyNamespace
		default:
			set, known := t.namespaces[other.Namespace]

			return known && one.namespaces.Matches(set)
		}
	})
}

// allowsPort says whether a rule's ports name the packet's; no ports are all, of every protocol.
func allowsPort(ports []networkingv1.NetworkPolicyPort, called *corev1.Pod, packet Packet) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(one networkingv1.NetworkPolicyPort) bool {
		protocol := corev1.ProtocolTCP
		if one.Protocol != nil {
			protocol = *one.Protocol
		}

		if protocol != packet.Protocol {
			return false
		}

		if one.Port == nil {
			return true
		}

		if number := one.Port.IntValue(); one.Port.StrVal == "" {
			last := number
			if one.EndPort != nil {
				last = int(*one.EndPort)
			}

			return number <= int(packet.Port) && int(packet.Port) <= last
		}

		return hasPort(called, one.Port.StrVal, protocol, packet.Port)
	})
}

// hasPort says whether a pod calls one of its ports so.
func hasPort(pod *corev1.Pod, name string, protocol corev1.Protocol, number uint16) bool {
	if pod == nil {
		return false
	}

	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, port := range container.Ports {
			same := port.Protocol == protocol || (port.Protocol == "" && protocol == corev1.ProtocolTCP)
			if same && port.Name == name && port.ContainerPort == int32(number) {
				return true
			}
		}
	}

	return false
}
