package workloads

import (
	"net/netip"
	"reflect"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
)

// balancerSlice has an endpoint on node01 and one on node02.
func balancerSlice() *discoveryv1.EndpointSlice {
	slice := testSlice("a", 8080, true, "10.244.0.254")
	other := testSlice("b", 8080, true, "10.244.1.254").Endpoints[0]
	slice.Endpoints[0].NodeName, other.NodeName = pointer("node01"), pointer("node02")
	slice.Endpoints = append(slice.Endpoints, other)

	return slice
}

func TestExternalTrafficPolicyLocalSendsWhatComesFromOutsideToTheMachinesOwnEndpoints(t *testing.T) {
	here := network.Endpoint{At: netip.MustParseAddrPort("10.244.0.254:8080"), Here: true}
	there := network.Endpoint{At: netip.MustParseAddrPort("10.244.1.254:8080")}
	processes := map[netip.Addr]string{here.At.Addr(): "node01", there.At.Addr(): "node02"}

	for policy, outside := range map[corev1.ServiceExternalTrafficPolicy][]network.Endpoint{
		corev1.ServiceExternalTrafficPolicyLocal: {here}, corev1.ServiceExternalTrafficPolicyCluster: {here, there},
	} {
		service := testService()
		service.Spec.ExternalTrafficPolicy = policy
		service.Spec.Ports = service.Spec.Ports[:1]

		got := planBalancer([]*corev1.Service{service}, []*discoveryv1.EndpointSlice{balancerSlice()}, "node01", processes)
		wanted := []network.Balanced{{
			At: netip.MustParseAddrPort(balancerIP + ":8081"), Protocol: network.TCP, Endpoints: outside,
		}}

		if !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s: %+v", policy, got)
		}
	}
}

func TestOnlyServicesOfTypeLoadBalancerAreForwardedByTheMachines(t *testing.T) {
	service := testService()
	service.Spec.Type = corev1.ServiceTypeClusterIP

	if got := planBalancer([]*corev1.Service{service}, nil, "node01", nil); len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

func TestAMachineForwardsWhileItsOwnAgentIsReady(t *testing.T) {
	b := newBench(t, testService(), balancerSlice())

	var mu sync.Mutex

	given := map[netip.Addr][]network.Balanced{}

	b.cluster.options.Images = []programs.Image{{Repository: "quay.io/metallb/speaker", Part: speakerName}}
	b.cluster.options.Forward = func(machine netip.Addr, services []network.Balanced) error {
		mu.Lock()
		defer mu.Unlock()

		given[machine] = services

		return nil
	}

	b.start(runBalancer)

	agent := readyPod("kube-system", "cilium-x", "172.16.20.51", map[string]string{"k8s-app": "cilium"})
	agent.Status.HostIP = "172.16.20.51"

	if _, err := b.client.CoreV1().Pods("kube-system").Create(b.Context(), agent, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	b.until("what it forwards", func() bool {
		mu.Lock()
		defer mu.Unlock()

		services := given[netip.MustParseAddr("172.16.20.51")]

		return len(given) == 1 && len(services) == 2 && len(services[0].Endpoints) == 2 && services[1].Protocol == network.UDP
	})
}
