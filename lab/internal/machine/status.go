package machine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"

	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/process"
)

// Status is a machine as the lab shows it.
type Status struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	Hostname     string          `json:"hostname"`
	Address      string          `json:"address"`
	SideroLink   string          `json:"sideroLink,omitempty"`
	PoweredOn    bool            `json:"poweredOn"`
	Stage        string          `json:"stage"`
	Ready        bool            `json:"ready"`
	Unmet        []string        `json:"unmet"`
	Etcd         string          `json:"etcd"`
	TalosVersion string          `json:"talosVersion"`
	VIP          string          `json:"vip"`
	Processes    []ProcessStatus `json:"processes"`
	Log          string          `json:"log"`
}

// ProcessStatus is a program that runs on a machine.
type ProcessStatus struct {
	Name        string `json:"name"`
	PID         int    `json:"pid"`
	ResidentKiB int    `json:"residentKiB"`
	Restarts    int    `json:"restarts"`
	Log         string `json:"log"`
}

// Status are all machines in the order of their names.
func (f *Fleet) Status() []Status {
	f.mu.Lock()

	var all []*machine
	for _, m := range f.machines {
		all = append(all, m)
	}

	f.mu.Unlock()

	slices.SortFunc(all, func(a, b *machine) int { return strings.Compare(a.name(), b.name()) })

	list := []Status{} // none is an empty list, not null
	for _, m := range all {
		list = append(list, m.status())
	}

	return list
}

func (m *machine) status() Status {
	hardware := m.vm()
	s := Status{ID: hardware.ID, Name: hardware.Name, Stage: "off", Log: m.disk.Path(disk.LogsFolder)}

	b := m.current()
	if b == nil {
		return s
	}

	s.PoweredOn, s.Hostname, s.TalosVersion, s.Etcd = true, b.network.Hostname(), b.TalosVersion(), b.services.State("etcd")
	s.Stage = b.currentStage().String()

	if b.currentStage() == runtime.MachineStageUnknown {
		s.Stage = "starting"
	}

	if address := b.network.Address(); address.IsValid() {
		s.Address = address.String()
	}

	if address, _ := b.network.SideroLink(); address.IsValid() {
		s.SideroLink = address.Addr().String()
	}

	if provider := b.Provider(); provider != nil {
		if vip, ok := guestnetwork.VirtualIP(provider); ok && b.network.HasAddress(vip.String()) {
			s.VIP = vip.String()
		}

		for _, condition := range b.resources.UnmetConditions() {
			s.Unmet = append(s.Unmet, fmt.Sprintf("%s: %s", condition.Name, condition.Reason))
		}
	}

	s.Ready = s.Stage == runtime.MachineStageRunning.String() && len(s.Unmet) == 0
	s.Processes = b.processes()

	return s
}

func (b *boot) processes() []ProcessStatus {
	var running []*process.Process
	if p := b.etcd.Running(); p != nil {
		running = append(running, p)
	}

	for _, pod := range b.plane.Snapshot() {
		running = append(running, pod.Process)
	}

	var list []ProcessStatus

	for _, p := range running {
		_, restarts := p.StartTime()
		list = append(list, ProcessStatus{Name: p.Name, PID: p.PID(), ResidentKiB: process.ResidentKiB(p.PID()), Restarts: restarts, Log: p.LogPath})
	}

	return list
}
