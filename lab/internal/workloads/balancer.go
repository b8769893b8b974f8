package workloads

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
)

// speakerName is the image of MetalLB's speakers as a run's summary has it.
const speakerName = "metallb-speaker"

var isCilium = labelled("kube-system", labels.Set{"k8s-app": "cilium"})

// speakersRun says whether MetalLB's speakers are processes. Then a LoadBalancer address is where they announce it, and the
// machines forward what comes for it; else it is on the lab's bridge.
func (c *cluster) speakersRun() bool {
	return isReal(c.options.Images, speakerName)
}

// runBalancer gives the machines what they forward of LoadBalancer addresses: the part of Cilium's data path that agents
// write on their own machine. A machine whose agent has gone keeps what it has, as BPF does; after a reboot it has nothing
// until its agent is ready.
func runBalancer(ctx context.Context, c *cluster) error {
	changed, err := on(ctx, c.pods(), c.objects.Core().V1().Services().Informer(), c.objects.Discovery().V1().EndpointSlices().Informer())
	if err != nil {
		return err
	}

	c.sweep(ctx, balancerName, changed, func(context.Context) error {
		pods, err := c.objects.Core().V1().Pods().Lister().List(labels.Everything())
		if err != nil {
			return err
		}

		services, err := c.objects.Core().V1().Services().Lister().List(labels.Everything())
		if err != nil {
			return err
		}

		endpointSlices, err := c.objects.Discovery().V1().EndpointSlices().Lister().List(labels.Everything())
		if err != nil {
			return err
		}

		slices.SortFunc(services, func(a, b *corev1.Service) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })

		var problems []error

		for _, pod := range pods {
			machine, err := netip.ParseAddr(pod.Status.HostIP)
			if err != nil || !isCilium(pod) || !isReady(pod) {
				continue
			}

			plan := planBalancer(services, endpointSlices, pod.Spec.NodeName, processes(pods, c.options.Images))
			problems = append(problems, c.options.Forward(machine, plan))
		}

		return errors.Join(problems...)
	})

	return nil
}

// processes are the addresses of pods that run as processes, with the names of their nodes.
func processes(pods []*corev1.Pod, images []programs.Image) map[netip.Addr]string {
	found := map[netip.Addr]string{}

	for _, pod := range pods {
		address, err := netip.ParseAddr(pod.Status.PodIP)
		if err != nil || slices.ContainsFunc(pod.Spec.Containers, func(one corev1.Container) bool {
			_, known := programs.ImageOf(images, one.Image)

			return !known
		}) {
			continue
		}

		found[address] = pod.Spec.NodeName
	}

	return found
}

// planBalancer is what one machine forwards. With externalTrafficPolicy Local what comes by the network goes to the machine's
// own endpoints only, and keeps the client's address.
func planBalancer(
	services []*corev1.Service, all []*discoveryv1.EndpointSlice, node string, processes map[netip.Addr]string,
) []network.Balanced {
	var plan []network.Balanced

	for _, service := range services {
		if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}

		for _, ingress := range service.Status.LoadBalancer.Ingress {
			address, err := netip.ParseAddr(ingress.IP)
			if err != nil {
				continue
			}

			for _, port := range service.Spec.Ports {
				one := network.Balanced{
					At: netip.AddrPortFrom(address, uint16(port.Port)), Protocol: network.TCP, //nolint:gosec // a port
					Sticky: service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP,
				}

				if port.Protocol == corev1.ProtocolUDP {
					one.Protocol = network.UDP
				} else if port.Protocol != corev1.ProtocolTCP && port.Protocol != "" {
					continue
				}

				own := service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal

				for _, backend := range endpointsOf(service, port, all) {
					if !own || backend.node == node {
						one.Endpoints = append(one.Endpoints, network.Endpoint{At: backend.at, Here: processes[backend.at.Addr()] == node})
					}
				}

				plan = append(plan, one)
			}
		}
	}

	return plan
}
