package workloads

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"platform.lab/lab/internal/datapath"
	"platform.lab/lab/internal/netpolicy"
	"platform.lab/lab/internal/network"
)

// kernel stands for a machine's packet filter.
type kernel struct {
	decide func(network.Connection) bool

	mu       sync.Mutex
	services network.Services
	forgets  func(network.Connection) bool
}

func (k *kernel) HoldPods(_ context.Context, decide func(network.Connection) bool) error {
	k.decide = decide

	return nil
}

func (k *kernel) SetServices(services network.Services) error {
	k.mu.Lock()
	defer k.mu.Unlock()

	k.services = services

	return nil
}

func (k *kernel) Forget(which func(network.Connection) bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()

	k.forgets = which

	return nil
}

func (k *kernel) ends(c network.Connection) bool {
	k.mu.Lock()
	defer k.mu.Unlock()

	return k.forgets != nil && k.forgets(c)
}

func (k *kernel) translates(at string) []netip.AddrPort {
	k.mu.Lock()
	defer k.mu.Unlock()

	for _, service := range k.services.All {
		if service.At == netip.MustParseAddrPort(at) {
			return service.Endpoints
		}
	}

	return nil
}

const (
	visitorAddress = "10.244.0.250"
	shopAddress    = "10.244.0.1"
)

var visit = network.Connection{
	Protocol: network.TCP, From: netip.MustParseAddrPort(visitorAddress + ":40000"), To: netip.MustParseAddrPort(shopAddress + ":80"),
}

// policed is a cluster with a machine on which `people/visitor` runs as a process; the shop is a simulated pod.
func policed(t *testing.T) (*bench, *kernel) {
	t.Helper()

	agent := readyPod("kube-system", "cilium", "172.16.20.51", map[string]string{"k8s-app": "cilium"})
	agent.Spec.HostNetwork = true
	b := newBench(t,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "people"}},
		readyPod("shop", "shop", shopAddress, map[string]string{"app": "shop"}), agent,
	)
	b.options.DataPath, b.options.Flows = &datapath.Machines{}, NewFlows(t.TempDir())

	k := &kernel{}
	machine := b.options.DataPath.Begin(t.Context(), k, func() netip.Addr { return netip.MustParseAddr("172.16.20.51") })

	if err := machine.Plug(readyPod("people", "visitor", "", map[string]string{"app": "visitor"}), visit.From.Addr()); err != nil {
		t.Fatal(err)
	}

	b.start(runNetworkPolicies)
	b.heard("networkpolicies", "namespaces")

	return b, k
}

func (b *bench) policy(namespace, name string, spec networkingv1.NetworkPolicySpec) {
	b.Helper()

	object := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}
	if _, err := b.client.NetworkingV1().NetworkPolicies(namespace).Create(b.Context(), object, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}

// told are the flows and policies of the files.
func (b *bench) told() (seen []Flow, used []PolicyUse) {
	b.Helper()

	folder := b.options.Flows.folder

	lines, err := os.ReadFile(filepath.Join(folder, FlowsFile))
	if err != nil {
		return nil, nil
	}

	for line := range strings.Lines(string(lines)) {
		var one Flow
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			b.Fatal(err)
		}

		seen = append(seen, one)
	}

	policies, err := os.ReadFile(filepath.Join(folder, PoliciesFile))
	if err == nil {
		err = json.Unmarshal(policies, &used)
	}

	if err != nil {
		b.Fatal(err)
	}

	return seen, used
}

func TestAPolicyThatComesLaterCountsAtOnceAndEndsWhatItDoesNotAllow(t *testing.T) {
	b, k := policed(t)
	b.until("somebody decides, and nothing is closed", func() bool { return k.decide(visit) })

	if k.ends(visit) {
		t.Error("an allowed connection ends")
	}

	b.policy("shop", "default-deny", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}})
	b.until("the new policy counts", func() bool { return !k.decide(visit) })
	b.until("what it does not allow ends", func() bool { return k.ends(visit) })

	b.policy("shop", "visitors", networkingv1.NetworkPolicySpec{
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}}}},
	})
	b.until("another one opens the way", func() bool { return k.decide(visit) })
	b.until("the files tell of it", func() bool { seen, _ := b.told(); return len(seen) == 3 })

	seen, used := b.told()

	if seen[0].Verdict != "allowed" || !slices.Equal(seen[0].Open, []string{"egress", "ingress"}) {
		t.Errorf("first: %+v", seen[0])
	}

	if seen[1].Verdict != "refused" || seen[1].Why != "no policy allows this ingress of shop/shop" {
		t.Errorf("second: %+v", seen[1])
	}

	if !slices.Equal(seen[2].Ingress, []string{"shop/visitors ingress[0]"}) || seen[2].From.Name != "visitor" || seen[2].Count != 1 || seen[2].Port != 80 {
		t.Errorf("third: %+v", seen[2])
	}

	want := []PolicyUse{
		{Name: "shop/default-deny", Selects: "simulated"}, {Name: "shop/visitors", Rules: 1, Allowed: 1, Selects: "simulated"},
	}
	if !slices.Equal(used, want) {
		t.Errorf("%+v", used)
	}
}

func TestMachinesAreToldTheServicesAndNothingGoesPastThem(t *testing.T) {
	b, k := policed(t)
	b.until("somebody decides", func() bool { return k.decide(visit) })
	b.service("shop", "shop", "10.96.0.7", shopAddress)
	b.until("the translation", func() bool { return slices.Equal(k.translates("10.96.0.7:80"), []netip.AddrPort{visit.To}) })

	toService := visit
	toService.To = netip.MustParseAddrPort("10.96.0.7:80")
	b.until("untranslated nothing passes", func() bool { return !k.decide(toService) })

	empty := visit
	empty.To = netip.MustParseAddrPort("10.96.0.8:80")

	b.service("shop", "empty", "10.96.0.8")
	b.until("who calls nobody is told so", func() bool { return k.decide(empty) })
}

// service makes a Service for port 80 of some addresses.
func (b *bench) service(namespace, name, address string, endpoints ...string) {
	b.Helper()

	_, err := b.client.CoreV1().Services(namespace).Create(b.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{ClusterIPs: []string{address}, Ports: []corev1.ServicePort{{Name: "web", Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}

	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		Ports:      []discoveryv1.EndpointPort{{Name: pointer("web"), Port: pointer(int32(80))}},
	}
	for _, text := range endpoints {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{text}})
	}

	if _, err := b.client.DiscoveryV1().EndpointSlices(namespace).Create(b.Context(), slice, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}

func TestAPolicyOfCiliumsOwnKindAllowsNothingAndIsNamed(t *testing.T) {
	b, k := policed(t)
	b.define(ciliumPolicies, ciliumClusterPolicies)
	b.until("somebody decides", func() bool { return k.decide(visit) })
	b.heard("ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies")

	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": map[string]any{"namespace": "people", "name": "names"},
		"spec": map[string]any{
			"endpointSelector": map[string]any{"matchLabels": map[string]any{"k8s:app": "visitor"}},
			"egress":           []any{map[string]any{"toFQDNs": []any{map[string]any{"matchName": "example.com"}}}},
		},
	}}

	resource := schema.ParseGroupResource(ciliumPolicies).WithVersion("v2")
	if _, err := b.custom.Resource(resource).Namespace("people").Create(b.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("it closes", func() bool { return !k.decide(visit) })
	b.until("the files name it", func() bool {
		_, used := b.told()

		return slices.ContainsFunc(used, func(one PolicyUse) bool { return one.Undecided && one.Name == "CiliumNetworkPolicy people/names" })
	})
}

func TestASelectorOfCiliumIsReadWithoutItsSources(t *testing.T) {
	pod := readyPod("people", "visitor", "", map[string]string{"app": "visitor"})

	for name, test := range map[string]struct {
		labels  map[string]any
		selects bool
	}{
		"its label":            {map[string]any{"k8s:app": "visitor"}, true},
		"from any source":      {map[string]any{"any:app": "visitor"}, true},
		"without a source":     {map[string]any{"app": "visitor"}, true},
		"another value":        {map[string]any{"app": "shop"}, false},
		"its namespace":        {map[string]any{"k8s:io.kubernetes.pod.namespace": "people"}, true},
		"another namespace":    {map[string]any{"k8s:io.kubernetes.pod.namespace": "shop"}, false},
		"what cannot be read":  {map[string]any{"reserved:host": ""}, true},
		"a namespace's labels": {map[string]any{"k8s:io.cilium.k8s.namespace.labels.team": "a"}, true},
	} {
		spec := map[string]any{"endpointSelector": map[string]any{"matchLabels": test.labels}}
		if got := selectsOf(spec, "")(pod); got != test.selects {
			t.Errorf("%s: %t", name, got)
		}
	}

	if selectsOf(map[string]any{}, "shop")(pod) {
		t.Error("a policy of another namespace selects it")
	}
}

func TestAMachineThatRunsAnAPIServerIsKnownAsSuch(t *testing.T) {
	plane := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node01", Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""}}}
	plane.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "node01"}, {Type: corev1.NodeInternalIP, Address: "172.16.20.51"}}

	got := nodesByAddress([]*corev1.Node{plane})
	if len(got) != 1 || got[netip.MustParseAddr("172.16.20.51")] != (netpolicy.Node{Name: "node01", APIServer: true}) {
		t.Errorf("%v", got)
	}
}
