package pods

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/network"
)

// errNetworkNotReady are the kubelet's words.
var errNetworkNotReady = errors.New("network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized")

// sandbox is a pod's network, and the files that tell of it.
type sandbox struct {
	address  netip.Addr
	hostname string
	// own is nil for a pod in the machine's network.
	own     *network.Namespace
	machine Network
	release func() error
}

func (w *worker) newSandbox(pod *corev1.Pod) (*sandbox, error) {
	made := &sandbox{machine: w.r.Network, hostname: hostnameOf(pod), release: func() error { return nil }}

	if pod.Spec.HostNetwork {
		made.address, made.hostname = w.r.Network.Address(), w.r.nodeNow().Name
	} else {
		if !w.r.networkReady() {
			return nil, errNetworkNotReady
		}

		if err := w.plug(pod, made); err != nil {
			return nil, err
		}
	}

	if err := w.writeNames(pod, made); err != nil {
		return nil, errors.Join(err, made.close())
	}

	return made, nil
}

// plug gives the sandbox a network namespace and an address.
func (w *worker) plug(pod *corev1.Pod, made *sandbox) error {
	address, err := w.r.assign(pod.UID)
	if err != nil {
		return err
	}

	own, err := w.r.Network.NewPod(linkOf(pod.UID), address, w.r.Network.Address())
	if err == nil {
		err = w.r.Routed(pod, address, true)
	}

	if err != nil {
		if own != nil {
			err = errors.Join(err, w.r.Network.RemovePod(own))
		}

		w.r.release(address)

		return err
	}

	made.address, made.own = address, own
	made.release = func() error {
		err := errors.Join(w.r.Routed(pod, address, false), w.r.Network.RemovePod(own))
		w.r.release(address)

		return err
	}

	return nil
}

func (s *sandbox) close() error { return s.release() }

// start starts a command in the pod's network.
func (s *sandbox) start(cmd *exec.Cmd) error {
	if s.own == nil {
		return s.machine.Start(cmd)
	}

	return s.own.Start(cmd)
}

// dial reaches a port of the pod from inside of it.
func (s *sandbox) dial(ctx context.Context, protocol, address string) (net.Conn, error) {
	if s.own == nil {
		return s.machine.DialContext(ctx, protocol, address)
	}

	return s.own.DialContext(ctx, protocol, address)
}

func hostnameOf(pod *corev1.Pod) string {
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}

	// The kernel's limit, as the kubelet keeps it.
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}

	return name
}

// Files of a pod's folder that every container gets.
const (
	hostsFile    = "etc-hosts"
	resolvFile   = "resolv.conf"
	hostnameFile = "hostname"
)

// writeNames writes /etc/hosts, /etc/resolv.conf and /etc/hostname of the pod, as the kubelet and the runtime do.
func (w *worker) writeNames(pod *corev1.Pod, made *sandbox) error {
	folder := w.r.folderOf(pod)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}

	domain, dns := w.r.Cluster()

	for name, text := range map[string]string{
		hostsFile:    hostsOf(pod, made, domain),
		resolvFile:   resolvOf(pod, domain, dns, w.r.Network.Resolvers()),
		hostnameFile: made.hostname + "\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil { // everybody may read it
			return err
		}
	}

	return nil
}

func hostsOf(pod *corev1.Pod, made *sandbox, domain string) string {
	var text strings.Builder

	text.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")

	names := made.hostname
	if pod.Spec.Subdomain != "" {
		names = fmt.Sprintf("%s.%s.%s.svc.%s\t%s", made.hostname, pod.Spec.Subdomain, pod.Namespace, domain, made.hostname)
	}

	fmt.Fprintf(&text, "%s\t%s\n", made.address, names)

	for _, alias := range pod.Spec.HostAliases {
		fmt.Fprintf(&text, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}

	return text.String()
}

// resolvOf is /etc/resolv.conf by the pod's dnsPolicy and dnsConfig.
func resolvOf(pod *corev1.Pod, domain string, dns []string, own []netip.Addr) string {
	var servers, searches, options []string

	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}

	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		for _, server := range own {
			servers = append(servers, server.String())
		}
	case corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, "":
		servers = slices.Clone(dns)
		searches = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		options = []string{"ndots:5"}
	}

	if more := pod.Spec.DNSConfig; more != nil {
		servers = append(servers, more.Nameservers...)
		searches = append(searches, more.Searches...)

		for _, option := range more.Options {
			text := option.Name
			if option.Value != nil {
				text += ":" + *option.Value
			}

			options = slices.DeleteFunc(options, func(one string) bool { return strings.Split(one, ":")[0] == option.Name })
			options = append(options, text)
		}
	}

	var text strings.Builder
	if len(searches) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(searches, " "))
	}

	for _, server := range servers {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}

	if len(options) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(options, " "))
	}

	return text.String()
}
