package workloads

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// runProxy is the data path of Services, as long as something in the cluster would provide it: ClusterIPs work
// while a Cilium agent (or kube-proxy) runs, LoadBalancer addresses while a MetalLB speaker is simulated too.
func runProxy(ctx context.Context, c *cluster) error {
	changed, err := on(ctx, c.pods(), c.objects.Core().V1().Services().Informer(), c.objects.Discovery().V1().EndpointSlices().Informer())
	if err != nil {
		return err
	}

	proxy := &proxy{cluster: c, addresses: map[netip.Addr]place{}, frontends: map[netip.AddrPort]*frontend{}, datagrams: map[netip.AddrPort]*relay{}}
	defer proxy.close()

	c.sweep(ctx, "service-proxy", changed, proxy.reconcile)

	return nil
}

// proxyPlan is what the proxy answers to.
type proxyPlan struct {
	addresses map[netip.Addr]place
	// backends of each address and port; one without backends refuses connections.
	backends map[netip.AddrPort][]netip.AddrPort
	// sticky are those of Services whose clients stay with one endpoint (sessionAffinity: ClientIP).
	sticky map[netip.AddrPort]bool
	// datagrams are the same as backends for UDP.
	datagrams map[netip.AddrPort][]netip.AddrPort
}

// planProxy reads Services and EndpointSlices as kube-proxy does, ports of TCP and UDP.
func planProxy(services []*corev1.Service, slices []*discoveryv1.EndpointSlice, balanced bool) proxyPlan {
	plan := proxyPlan{
		addresses: map[netip.Addr]place{}, backends: map[netip.AddrPort][]netip.AddrPort{}, datagrams: map[netip.AddrPort][]netip.AddrPort{},
		sticky: map[netip.AddrPort]bool{},
	}

	for _, service := range services {
		if service.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}

		own := map[netip.Addr]place{}

		for _, text := range service.Spec.ClusterIPs {
			if address, err := netip.ParseAddr(text); err == nil { // "None" is a headless Service
				own[address] = onLoopback
			}
		}

		for _, ingress := range service.Status.LoadBalancer.Ingress {
			if address, err := netip.ParseAddr(ingress.IP); err == nil && balanced {
				own[address] = onBridge
			}
		}

		for address, where := range own {
			plan.addresses[address] = where

			for _, port := range service.Spec.Ports {
				at := netip.AddrPortFrom(address, uint16(port.Port)) //nolint:gosec // a port

				switch port.Protocol {
				case corev1.ProtocolTCP, "":
					plan.backends[at] = backendsOf(service, port, slices)
					plan.sticky[at] = service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
				case corev1.ProtocolUDP:
					plan.datagrams[at] = backendsOf(service, port, slices)
				case corev1.ProtocolSCTP:
				}
			}
		}
	}

	return plan
}

// refuseInside leaves the addresses that are known inside of the cluster only without endpoints: the machines translate those
// themselves, and what a machine does not is refused.
func (p *proxyPlan) refuseInside() {
	inside := func(at netip.AddrPort, _ []netip.AddrPort) bool { return p.addresses[at.Addr()] == onLoopback }

	maps.DeleteFunc(p.backends, inside)
	maps.DeleteFunc(p.datagrams, inside)
}

// backendsOf are the places of endpointsOf.
func backendsOf(service *corev1.Service, port corev1.ServicePort, all []*discoveryv1.EndpointSlice) []netip.AddrPort {
	var backends []netip.AddrPort
	for _, one := range endpointsOf(service, port, all) {
		backends = append(backends, one.at)
	}

	return backends
}

// backend is an endpoint of a Service, and the node that it is on.
type backend struct {
	at   netip.AddrPort
	node string
}

// endpointsOf are the ready endpoints of one port of a Service: its slices name the port as the Service does.
func endpointsOf(service *corev1.Service, port corev1.ServicePort, all []*discoveryv1.EndpointSlice) []backend {
	var backends []backend

	protocol := port.Protocol
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}

	for _, slice := range all {
		if slice.Namespace != service.Namespace || slice.Labels[discoveryv1.LabelServiceName] != service.Name {
			continue
		}

		for _, target := range slice.Ports {
			if target.Port == nil || (target.Name != nil && *target.Name != port.Name) || (target.Name == nil && port.Name != "") ||
				(target.Protocol == nil && protocol != corev1.ProtocolTCP) || (target.Protocol != nil && *target.Protocol != protocol) {
				continue
			}

			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}

				for _, text := range e.Addresses {
					if address, err := netip.ParseAddr(text); err == nil {
						one := backend{at: netip.AddrPortFrom(address, uint16(*target.Port))} //nolint:gosec // a port
						if e.NodeName != nil {
							one.node = *e.NodeName
						}

						backends = append(backends, one)
					}
				}
			}
		}
	}

	slices.SortFunc(backends, func(a, b backend) int { return a.at.Compare(b.at) })

	return slices.CompactFunc(backends, func(a, b backend) bool { return a.at == b.at })
}

// proxy is what is there of the plan.
type proxy struct {
	cluster   *cluster
	addresses map[netip.Addr]place
	frontends map[netip.AddrPort]*frontend
	datagrams map[netip.AddrPort]*relay
}

func (p *proxy) reconcile(ctx context.Context) error {
	plan, err := p.plan()
	if err != nil {
		return err
	}

	var problems []error

	for at, running := range p.frontends {
		if len(plan.backends[at]) == 0 {
			running.close()
			delete(p.frontends, at)
		}
	}

	for at, running := range p.datagrams {
		if len(plan.datagrams[at]) == 0 {
			running.close()
			delete(p.datagrams, at)
		}
	}

	for address, where := range p.addresses {
		if wanted, there := plan.addresses[address]; !there || wanted != where {
			problems = append(problems, p.cluster.addresses.release(address, where))
			delete(p.addresses, address)
		}
	}

	for address, where := range plan.addresses {
		if _, there := p.addresses[address]; there {
			continue
		}

		if err := p.cluster.addresses.hold(address, where); err != nil {
			problems = append(problems, err)

			continue
		}

		p.addresses[address] = where
	}

	for at, backends := range plan.backends {
		if len(backends) > 0 {
			problems = append(problems, p.open(ctx, at, backends, plan.sticky[at]))
		}
	}

	for at, backends := range plan.datagrams {
		if len(backends) > 0 {
			problems = append(problems, p.relay(ctx, at, backends))
		}
	}

	return errors.Join(problems...)
}

func (p *proxy) plan() (proxyPlan, error) {
	pods, err := p.cluster.objects.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		return proxyPlan{}, err
	}

	runs := func(selects func(*corev1.Pod) bool) bool {
		return slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return isReady(pod) && selects(pod) })
	}

	if !runs(isCilium) && !runs(labelled("kube-system", labels.Set{"k8s-app": "kube-proxy"})) {
		return proxyPlan{}, nil
	}

	services, err := p.cluster.objects.Core().V1().Services().Lister().List(labels.Everything())
	if err != nil {
		return proxyPlan{}, err
	}

	endpointSlices, err := p.cluster.objects.Discovery().V1().EndpointSlices().Lister().List(labels.Everything())
	if err != nil {
		return proxyPlan{}, err
	}

	// Speakers that are processes announce the addresses themselves, and the machines forward them: see runBalancer.
	speaks := !p.cluster.speakersRun() && runs(labelled("", labels.Set{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"}))

	plan := planProxy(services, endpointSlices, speaks)

	switch {
	case len(p.cluster.options.Images) == 0:
		plan.datagrams = nil // simulated pods answer nothing: a question is refused at once, and not lost
	case slices.ContainsFunc(pods, isAgent):
		plan.refuseInside()
	}

	return plan, nil
}

func (p *proxy) open(ctx context.Context, at netip.AddrPort, backends []netip.AddrPort, sticky bool) error {
	if running := p.frontends[at]; running != nil {
		running.sticky.Store(sticky)
		running.backends.Store(&backends)

		return nil
	}

	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		return fmt.Errorf("a Service's address: %w", err)
	}

	opened := &frontend{listener: listener}
	opened.sticky.Store(sticky)
	opened.backends.Store(&backends)
	ctx, opened.cancel = context.WithCancel(ctx)
	p.frontends[at] = opened

	opened.wait.Go(func() { opened.accept(ctx) })

	return nil
}

func (p *proxy) close() {
	for _, running := range p.frontends {
		running.close()
	}

	for _, running := range p.datagrams {
		running.close()
	}

	for address, where := range p.addresses {
		if err := p.cluster.addresses.release(address, where); err != nil {
			p.cluster.log.Warn("an address stays", "error", err)
		}
	}
}

// frontend is one address and port of a Service.
type frontend struct {
	listener net.Listener
	backends atomic.Pointer[[]netip.AddrPort]
	turn     atomic.Uint64
	sticky   atomic.Bool
	cancel   context.CancelFunc
	wait     sync.WaitGroup
}

func (f *frontend) close() {
	f.cancel()
	f.listener.Close()
	f.wait.Wait()
}

func (f *frontend) accept(ctx context.Context) {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}

		f.wait.Go(func() { f.forward(ctx, conn.(*net.TCPConn)) }) //nolint:forcetypeassert // a TCP listener's
	}
}

// forward gives a connection to the next endpoint that accepts; with none the client sees a reset.
func (f *frontend) forward(ctx context.Context, client *net.TCPConn) {
	server := f.dial(ctx, client.RemoteAddr())
	if server == nil {
		_ = client.SetLinger(0)
		client.Close()

		return
	}

	stop := context.AfterFunc(ctx, func() {
		client.Close()
		server.Close()
	})
	defer stop()

	var both sync.WaitGroup

	for _, pair := range [][2]*net.TCPConn{{client, server}, {server, client}} {
		both.Go(func() {
			if _, err := io.Copy(pair[0], pair[1]); err != nil {
				pair[1].Close()
			}

			_ = pair[0].CloseWrite()
		})
	}

	both.Wait()
	client.Close()
	server.Close()
}

// dialTime is what an endpoint has to accept a connection.
const dialTime = 3 * time.Second

// dial tries the endpoints from the next one on; for a client that stays with one, from a number made of its address.
func (f *frontend) dial(ctx context.Context, client net.Addr) *net.TCPConn {
	backends := *f.backends.Load()
	dialer := net.Dialer{Timeout: dialTime}
	turn := f.turn.Add(1)

	if from, ok := client.(*net.TCPAddr); ok && f.sticky.Load() {
		sum := fnv.New64a()
		_, _ = sum.Write(from.IP)
		turn = sum.Sum64() % uint64(len(backends))
	}

	for i := range backends {
		at := backends[(turn+uint64(i))%uint64(len(backends))]

		if conn, err := dialer.DialContext(ctx, "tcp", at.String()); err == nil {
			return conn.(*net.TCPConn) //nolint:forcetypeassert // a TCP connection
		}
	}

	return nil
}
