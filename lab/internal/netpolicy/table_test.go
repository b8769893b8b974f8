package netpolicy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	machine = "172.16.20.51"
	other   = "172.16.20.52"
	worker  = "172.16.20.61"
	outside = "203.0.113.7"
)

// pods by their addresses: "namespace/app", and what ports their containers name.
var pods = map[string]string{
	"10.244.0.10": "shop/web", "10.244.0.11": "shop/store", "10.244.1.10": "people/visitor", "10.244.1.11": "people/guest",
}

func objects(t *testing.T, policies string) Objects {
	t.Helper()

	made := Objects{
		Namespaces: []*corev1.Namespace{
			{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"name": "shop"}}},
			{ObjectMeta: metav1.ObjectMeta{Name: "people", Labels: map[string]string{"name": "people"}}},
		},
		Nodes: map[netip.Addr]Node{
			netip.MustParseAddr(machine): {Name: "node01", APIServer: true}, netip.MustParseAddr(other): {Name: "node02", APIServer: true},
			netip.MustParseAddr(worker): {Name: "worker01"},
		},
	}

	for address, name := range pods {
		namespace, app, _ := strings.Cut(name, "/")
		made.Pods = append(made.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: app, Labels: map[string]string{"app": app}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP},
			}}}},
			Status: corev1.PodStatus{PodIP: address},
		})
	}

	for i, text := range strings.Split(policies, "---\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}

		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: string(rune('a' + i))}}
		if err := yaml.UnmarshalStrict([]byte(text), &policy.Spec); err != nil {
			t.Fatal(err)
		}

		made.Policies = append(made.Policies, policy)
	}

	return made
}

func table(t *testing.T, policies string) *Table {
	t.Helper()

	made, err := New(objects(t, policies))
	if err != nil {
		t.Fatal(err)
	}

	return made
}

// address finds a pod's by its name.
func address(t *testing.T, name string) netip.Addr {
	t.Helper()

	for text, one := range pods {
		if one == name {
			return netip.MustParseAddr(text)
		}
	}

	return netip.MustParseAddr(name)
}

func TestAConnectionIsAllowedByTheRulesThatNameIt(t *testing.T) {
	const (
		denyIn  = "{podSelector: {}, policyTypes: [Ingress]}\n"
		denyOut = "{podSelector: {}, policyTypes: [Egress]}\n"
	)

	for _, test := range []struct {
		name     string
		policies string
		from, to string
		protocol corev1.Protocol
		port     uint16
		// by are the rules of both ends; nil is refused.
		by []string
	}{
		{"no policy is open", "", "people/visitor", "shop/web", corev1.ProtocolTCP, 80, []string{}},
		{"a policy without rules closes the way in", denyIn, "people/visitor", "shop/web", corev1.ProtocolTCP, 80, nil},
		{"from its own namespace too", denyIn, "shop/store", "shop/web", corev1.ProtocolTCP, 80, nil},
		{"and not the way out", denyIn, "shop/web", "people/guest", corev1.ProtocolTCP, 80, []string{}},
		{"a policy without rules closes the way out", denyOut, "shop/web", outside, corev1.ProtocolTCP, 443, nil},
		{"and not the way in", denyOut, "people/guest", "shop/web", corev1.ProtocolTCP, 80, []string{}},
		{"the policies of another namespace do not count", denyIn, "shop/web", "people/guest", corev1.ProtocolTCP, 80, []string{}},
		{"a pod reaches itself", denyIn + "---\n" + denyOut, "shop/web", "shop/web", corev1.ProtocolTCP, 80, []string{}},
		{"its machine reaches a pod", denyIn, machine, "shop/web", corev1.ProtocolTCP, 80, []string{}},
		{"another machine does not", denyIn, other, "shop/web", corev1.ProtocolTCP, 80, nil},
		{
			"another machine is let in by a rule without peers", "{podSelector: {}, ingress: [{ports: [{port: 9443}]}]}",
			other, "shop/web", corev1.ProtocolTCP, 9443, []string{"shop/a ingress[0]"},
		},
		{
			"but on its ports only", "{podSelector: {}, ingress: [{ports: [{port: 9443}]}]}",
			other, "shop/web", corev1.ProtocolTCP, 9444, nil,
		},
		{"an empty rule is everybody on all ports", "{podSelector: {}, ingress: [{}]}", outside, "shop/web", "ICMP", 0, []string{"shop/a ingress[0]"}},
		{
			"ICMP has no ports, and a rule with ports has no ICMP", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}",
			outside, "shop/web", "ICMP", 0, nil,
		},
		{
			"a selector of pods means the policy's own namespace", "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}",
			"people/visitor", "shop/web", corev1.ProtocolTCP, 80, nil,
		},
		{
			"and is met there", "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: store}}}]}]}",
			"shop/store", "shop/web", corev1.ProtocolTCP, 80, []string{"shop/a ingress[0]"},
		},
		{
			"a selector of namespaces means all their pods", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {name: people}}}]}]}",
			"people/guest", "shop/web", corev1.ProtocolTCP, 80, []string{"shop/a ingress[0]"},
		},
		{
			"both selectors of one peer must be met",
			"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {name: people}}, podSelector: {matchLabels: {app: visitor}}}]}]}",
			"people/guest", "shop/web", corev1.ProtocolTCP, 80, nil,
		},
		{
			"two peers are two ways in",
			"{podSelector: {}, ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchLabels: {name: people}}}]}]}",
			"people/guest", "shop/web", corev1.ProtocolTCP, 80, []string{"shop/a ingress[0]"},
		},
		{
			"an empty selector of namespaces means pods, and no machine", "{podSelector: {}, egress: [{to: [{namespaceSelector: {}}]}], policyTypes: [Egress]}",
			"shop/web", other, corev1.ProtocolTCP, 6443, nil,
		},
		{
			"a block of addresses means the outside", "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}], policyTypes: [Egress]}",
			"shop/web", outside, corev1.ProtocolTCP, 443, []string{"shop/a egress[0]"},
		},
		{
			"and not what it excepts",
			"{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [203.0.113.0/28]}}]}], policyTypes: [Egress]}",
			"shop/web", outside, corev1.ProtocolTCP, 443, nil,
		},
		{
			"nor a pod, whatever its address", "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}], policyTypes: [Egress]}",
			"shop/web", "people/guest", corev1.ProtocolTCP, 443, nil,
		},
		{
			"nor a machine", "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}], policyTypes: [Egress]}",
			"shop/web", other, corev1.ProtocolTCP, 443, nil,
		},
		{
			"a range has both its ends", "{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8080}]}]}",
			outside, "shop/web", corev1.ProtocolTCP, 8080, []string{"shop/a ingress[0]"},
		},
		{"and no more", "{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8080}]}]}", outside, "shop/web", corev1.ProtocolTCP, 8081, nil},
		{
			"a port's name is the called pod's", "{podSelector: {}, ingress: [{ports: [{port: http}]}]}",
			outside, "shop/web", corev1.ProtocolTCP, 8080, []string{"shop/a ingress[0]"},
		},
		{
			"also on the way out", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: dns, protocol: UDP}]}]}",
			"shop/web", "people/guest", corev1.ProtocolUDP, 53, []string{"shop/a egress[0]"},
		},
		{"a name that the pod does not have is no port", "{podSelector: {}, ingress: [{ports: [{port: https}]}]}", outside, "shop/web", corev1.ProtocolTCP, 8080, nil},
		{"a port of TCP is none of UDP", "{podSelector: {}, ingress: [{ports: [{port: 53}]}]}", outside, "shop/web", corev1.ProtocolUDP, 53, nil},
		{
			"a protocol without a port is all its ports", "{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}",
			outside, "shop/web", corev1.ProtocolUDP, 5353, []string{"shop/a ingress[0]"},
		},
		{
			"rules of all policies add up, and both ends are asked",
			denyIn + "---\n" + denyOut + "---\n" +
				"{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}, {to: [{podSelector: {}}]}]}\n---\n" +
				"{podSelector: {matchLabels: {app: store}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
			"shop/web", "shop/store", corev1.ProtocolTCP, 80, []string{"shop/c egress[0]", "shop/c egress[1]", "shop/d ingress[0]"},
		},
		{
			"one end is not enough",
			denyIn + "---\n{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{}]}", "shop/web", "shop/store", corev1.ProtocolTCP, 80, nil,
		},
		{
			"without policyTypes rules of egress count", "{podSelector: {}, egress: [{ports: [{port: 80}]}]}",
			"shop/web", outside, corev1.ProtocolTCP, 443, nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			packet := Packet{From: address(t, test.from), To: address(t, test.to), Protocol: test.protocol, Port: test.port}
			got := table(t, test.policies).Decide(packet, netip.MustParseAddr(machine))

			if got.Allowed() != (test.by != nil) {
				t.Fatalf("allowed %t: %+v", got.Allowed(), got)
			}

			if by := slices.Concat(got.Egress.By, got.Ingress.By); test.by != nil && !slices.Equal(by, test.by) {
				t.Errorf("allowed by %q, not by %q", by, test.by)
			}

			if (got.Why() == "") != got.Allowed() {
				t.Errorf("why: %q", got.Why())
			}
		})
	}
}

func TestWhatAnAddressIsDependsOnTheMachineThatAsks(t *testing.T) {
	made := table(t, "")

	for text, want := range map[string]Endpoint{
		machine: {Kind: Host, Name: "node01"}, other: {Kind: APIServer, Name: "node02"}, worker: {Kind: RemoteNode, Name: "worker01"},
		outside: {Kind: World, Address: outside}, "10.244.0.10": {Kind: Pod, Namespace: "shop", Name: "web"},
	} {
		got := made.Decide(Packet{From: netip.MustParseAddr(text), To: netip.MustParseAddr("10.244.0.11"), Protocol: corev1.ProtocolTCP, Port: 1}, netip.MustParseAddr(machine))
		if got.From != want {
			t.Errorf("%s: %+v", text, got.From)
		}
	}
}

func TestAPodOfItsMachinesNetworkOrOneThatIsOverIsNotSelected(t *testing.T) {
	for what, change := range map[string]func(*corev1.Pod){
		"host network": func(pod *corev1.Pod) { pod.Spec.HostNetwork = true },
		"over":         func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodSucceeded },
	} {
		given := objects(t, "{podSelector: {}}")
		for _, pod := range given.Pods {
			change(pod)
		}

		made, err := New(given)
		if err != nil {
			t.Fatal(err)
		}

		if got := made.Decide(Packet{From: address(t, outside), To: address(t, "shop/web"), Protocol: corev1.ProtocolTCP, Port: 1}, netip.Addr{}); !got.Allowed() {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func TestAPolicyThatCannotBeDecidedIsNotPassedOver(t *testing.T) {
	given := objects(t, "")
	given.Undecided = []Policy{{
		Name: "CiliumNetworkPolicy shop/dns", Egress: true, Selects: func(pod *corev1.Pod) bool { return pod.Name == "web" },
	}}

	made, err := New(given)
	if err != nil {
		t.Fatal(err)
	}

	out := made.Decide(Packet{From: address(t, "shop/web"), To: address(t, outside), Protocol: corev1.ProtocolTCP, Port: 443}, netip.Addr{})
	if out.Allowed() || !strings.Contains(out.Why(), "cannot decide CiliumNetworkPolicy shop/dns") {
		t.Errorf("%q %+v", out.Why(), out)
	}

	in := made.Decide(Packet{From: address(t, outside), To: address(t, "shop/web"), Protocol: corev1.ProtocolTCP, Port: 443}, netip.Addr{})
	if !in.Allowed() {
		t.Errorf("%q", in.Why())
	}
}

func TestWhatAMachineKnowsOfItsPodsCountsBeforeTheAPITellsIt(t *testing.T) {
	made := table(t, "{podSelector: {matchLabels: {app: new}}, policyTypes: [Egress]}")
	address := netip.MustParseAddr("10.244.0.99")
	packet := Packet{From: address, To: netip.MustParseAddr(outside), Protocol: corev1.ProtocolTCP, Port: 443}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "new", UID: "new", Labels: map[string]string{"app": "new"}}}

	if got := made.WithPods(map[netip.Addr]*corev1.Pod{address: pod}).Decide(packet, netip.Addr{}); got.Allowed() || got.From.Name != "new" {
		t.Errorf("%+v", got)
	}

	if got := made.Decide(packet, netip.Addr{}); got.From.Kind != World {
		t.Errorf("the table changed: %+v", got)
	}
}

func TestAPolicyThatSelectsNobodyIsKnownAsSuch(t *testing.T) {
	made := table(t, "{podSelector: {matchLabels: {app: web}}}\n---\n{podSelector: {matchLabels: {app: nobody}}}\n")

	got := made.Policies()
	if len(got) != 2 || got[0].Name != "shop/a" || len(got[0].Selects) != 1 || len(got[1].Selects) != 0 || got[0].Rules != 0 {
		t.Errorf("%+v", got)
	}
}
