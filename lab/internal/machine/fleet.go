// Package machine is the lab's simulated hardware with Talos on it: one simulated machine a VM, each in
// a network namespace of its own, serving the real machine API and running real etcd and Kubernetes
// control plane programs, started from the machine configuration that was applied to it.
//
// Simulated: the boot (a delay), Talos' services (goroutines) and their logs but etcd's, the kubelet (registers
// its node, reports on it and serves port 10250; what pods use is invented), discovery and trustd (within the
// process), and pods (simulated by KWOK). Real: configuration loading and validation, PKI, TLS and roles, etcd
// membership, the control plane, the VIP's election, requests for certificates, who may ask the kubelet, and the link by which
// a machine joins who manages it (SideroLink).
//
// Here are the fleet, power, and a system's boot and sequences. Every part of a running system is a package below, and
// says in its type Machine what it needs of the machine; none knows this package.
package machine

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/datapath"
	"platform.lab/lab/internal/machine/discovery"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/kwok"
	"platform.lab/lab/internal/machine/talosapi"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
)

// Options say how a fleet's machines are built.
type Options struct {
	// Bridge is the port group that all machines' first cards are plugged into.
	Bridge *network.Bridge
	// Switches are the port groups of further cards, by name.
	Switches map[string]*network.Bridge
	// Dir holds a folder per machine (its disk) and the faults.
	Dir string
	// Bin is the folder of etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok.
	Bin string
	// BootDelay is the time from power on (or reboot) until the machine API answers.
	BootDelay time.Duration
	// InstallDelay, when not zero, models a machine that booted from an ISO: its first configuration
	// installs Talos and reboots. A machine made from the OVA has Talos on its disk: no installation.
	InstallDelay time.Duration
	// Images are those whose pods run as processes; none: all pods are simulated.
	Images []programs.Image
	// DataPath is told of the machines and of their pods, and holds them to network policies; nil: nobody does.
	DataPath *datapath.Machines
	// Self is the lab's program, which Images need; Trust the file of authorities that their programs trust.
	Self  []string
	Trust string
	// Environment is added to that of the control plane's programs (KEY=VALUE).
	Environment []string
	// KWOKStages is KWOK's folder of pod stages (kustomize/stage/pod/fast). Empty: no pod ever runs.
	KWOKStages string
	// NodeReady replaces the rule that says when a node's network is ready; see kubelet.networkReady.
	NodeReady func(ctx context.Context, node *corev1.Node) bool
	// OnCluster runs beside KWOK: it is called when a cluster's pods begin to run, and returns when the
	// context ends, which it does with the cluster's last control plane or when the cluster begins again.
	OnCluster func(ctx context.Context, cluster Cluster)
	// PodLog finds the log file of a pod's container whose program somebody else runs for real; "" of all others.
	PodLog func(cluster string, pod *corev1.Pod, container string) string
	// Fetch finds the image behind the name of an installer; nil takes what the name says.
	Fetch func(ctx context.Context, name string) (Image, error)
	// GuestPoweredOff is told when a machine switched itself off (talosctl shutdown, reset without reboot).
	GuestPoweredOff func(id string)
	Log             *slog.Logger
}

// Hardware is a VM as its machine sees it.
type Hardware = hardware.VM

// Image is what the VM's disk was made from.
type Image = hardware.Image

// Cluster is what Options.OnCluster gets to know of a cluster whose pods have begun to run.
type Cluster = kwok.Cluster

// Fleet is all machines of a datacenter.
type Fleet struct {
	ctx       context.Context //nolint:containedctx // machines live as long as their fleet, whoever switches them on
	options   Options
	discovery *discovery.Service
	kwok      *kwok.Runner

	mu       sync.Mutex
	machines map[string]*machine
	closed   bool
}

// NewFleet makes an empty fleet; nothing runs before a machine is powered on. With the context all machines lose their
// power; Close has to be called all the same.
func NewFleet(ctx context.Context, options Options) *Fleet {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}

	f := &Fleet{ctx: ctx, options: options, machines: map[string]*machine{}}
	f.discovery = discovery.New(f.changed)
	f.kwok = kwok.NewRunner(kwok.Settings{
		Dir: options.Dir, Bin: options.Bin, Stages: options.KWOKStages, Images: options.Images, Environment: options.Environment, Discovery: f.discovery,
		Configurations: f.configurations, OnCluster: options.OnCluster, Log: options.Log,
	})

	return f
}

// PowerOn starts the machine, or takes over its hardware when it is on already.
func (f *Fleet) PowerOn(hardware Hardware) {
	if m := f.machine(hardware); m != nil {
		m.do(m.powerOn)
	}
}

// PowerOff cuts the machine's power, and returns when none of its programs is left.
func (f *Fleet) PowerOff(id string) {
	if m := f.find(id); m != nil {
		m.finish(m.powerOff)
	}
}

// Reconfigure changes a machine's hardware; the guest sees it after its next start, but a further network card or disk at once.
func (f *Fleet) Reconfigure(hardware Hardware) {
	m := f.machine(hardware)
	if m == nil {
		return
	}

	if b := m.current(); b != nil {
		b.network.PlugCards(hardware.Networks)
		b.Changed()
	}
}

// Destroy cuts the machine's power and throws its disk away, and returns when both are gone.
func (f *Fleet) Destroy(id string) {
	m := f.find(id)
	if m == nil {
		return
	}

	m.finish(func() {
		m.powerOff()

		if err := os.RemoveAll(string(m.disk)); err != nil {
			m.log.Error("disk not removed", "error", err)
		}

		f.kwok.Gone(id)

		f.mu.Lock()
		defer f.mu.Unlock()

		delete(f.machines, id)
	})
}

// Close cuts every machine's power and returns when none of their processes is left.
func (f *Fleet) Close() {
	f.mu.Lock()
	f.closed = true
	all := slices.Collect(maps.Values(f.machines))
	f.mu.Unlock()

	var wait sync.WaitGroup
	for _, m := range all {
		wait.Go(func() { m.finish(m.powerOff) })
	}

	wait.Wait()
	f.kwok.Close()
}

// machine finds or makes the machine of a VM and gives it the VM's present hardware; nil after Close.
func (f *Fleet) machine(hardware Hardware) *machine {
	f.mu.Lock()
	defer f.mu.Unlock()

	if f.closed {
		return nil
	}

	m := f.machines[hardware.ID]
	if m == nil {
		m = newMachine(f, filepath.Join(f.options.Dir, hardware.ID), hardware)
		f.machines[hardware.ID] = m
	}

	m.setHardware(hardware)

	return m
}

func (f *Fleet) find(id string) *machine {
	f.mu.Lock()
	defer f.mu.Unlock()

	return f.machines[id]
}

// boots are the running systems of all machines that are on, in the order of their names.
func (f *Fleet) boots() []*boot {
	f.mu.Lock()
	all := slices.Collect(maps.Values(f.machines))
	f.mu.Unlock()

	var running []*boot

	for _, m := range all {
		if b := m.current(); b != nil {
			running = append(running, b)
		}
	}

	slices.SortFunc(running, func(a, b *boot) int { return strings.Compare(a.machine.name(), b.machine.name()) })

	return running
}

// SetBalanced gives a machine what it forwards of LoadBalancer addresses; one that is off takes nothing.
func (f *Fleet) SetBalanced(address netip.Addr, services []network.Balanced) error {
	for _, b := range f.boots() {
		if b.network.Address() == address {
			return b.network.SetBalanced(services)
		}
	}

	return nil
}

// changed tells all machines that are on that another one is there, or is no more.
func (f *Fleet) changed() {
	for _, b := range f.boots() {
		b.Changed()
	}
}

// configurations are those of all machines that are on; nil for one in maintenance mode.
func (f *Fleet) configurations() []config.Provider {
	var all []config.Provider
	for _, b := range f.boots() {
		all = append(all, b.Provider())
	}

	return all
}

// apis are the APIs of all machines that are on.
func (f *Fleet) apis() []*talosapi.Machine {
	var all []*talosapi.Machine
	for _, b := range f.boots() {
		all = append(all, b.api)
	}

	return all
}
