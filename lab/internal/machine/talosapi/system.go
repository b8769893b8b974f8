package talosapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/protobuf/types/known/emptypb"
)

// The figures of the CPUs are the lab's own, of all machines together: a simulated machine has no kernel that counts.

func (*machineService) LoadAvg(context.Context, *emptypb.Empty) (*machineapi.LoadAvgResponse, error) {
	kernel, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}

	load, err := kernel.LoadAvg()
	if err != nil {
		return nil, err
	}

	return &machineapi.LoadAvgResponse{Messages: []*machineapi.LoadAvg{{Load1: load.Load1, Load5: load.Load5, Load15: load.Load15}}}, nil
}

func (*machineService) SystemStat(ctx context.Context, _ *emptypb.Empty) (*machineapi.SystemStatResponse, error) {
	kernel, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}

	stat, err := kernel.Stat()
	if err != nil {
		return nil, err
	}

	b := at(ctx)
	out := &machineapi.SystemStat{
		BootTime: uint64(b.Begun.Unix()), CpuTotal: cpuStat(stat.CPUTotal), IrqTotal: stat.IRQTotal, ContextSwitches: stat.ContextSwitches, //nolint:gosec // a time
		ProcessCreated: stat.ProcessCreated, ProcessRunning: stat.ProcessesRunning, ProcessBlocked: stat.ProcessesBlocked,
		SoftIrqTotal: stat.SoftIRQTotal, SoftIrq: &machineapi.SoftIRQStat{},
	}

	for i := range b.Hardware.CPUs {
		out.Cpu = append(out.Cpu, cpuStat(stat.CPU[int64(i%max(1, len(stat.CPU)))]))
	}

	return &machineapi.SystemStatResponse{Messages: []*machineapi.SystemStat{out}}, nil
}

func cpuStat(s procfs.CPUStat) *machineapi.CPUStat {
	return &machineapi.CPUStat{
		User: s.User, Nice: s.Nice, System: s.System, Idle: s.Idle, Iowait: s.Iowait, Irq: s.IRQ, SoftIrq: s.SoftIRQ, Steal: s.Steal,
		Guest: s.Guest, GuestNice: s.GuestNice,
	}
}

// CPUFreqStats has no CPUs in it: a virtual machine cannot see their frequency.
func (*machineService) CPUFreqStats(context.Context, *emptypb.Empty) (*machineapi.CPUFreqStatsResponse, error) {
	return &machineapi.CPUFreqStatsResponse{Messages: []*machineapi.CPUsFreqStats{{}}}, nil
}

func (*machineService) CPUInfo(ctx context.Context, _ *emptypb.Empty) (*machineapi.CPUInfoResponse, error) {
	out := &machineapi.CPUsInfo{}
	for i := range at(ctx).Hardware.CPUs {
		out.CpuInfo = append(out.CpuInfo, &machineapi.CPUInfo{
			Processor: uint32(i), VendorId: "simulated", ModelName: "simulated", CpuCores: 1, Siblings: 1, CoreId: "0", PhysicalId: fmt.Sprint(i),
		})
	}

	return &machineapi.CPUInfoResponse{Messages: []*machineapi.CPUsInfo{out}}, nil
}

// DiskStats names the disks. Their counters stay zero: nothing counts what is read and written.
func (*machineService) DiskStats(ctx context.Context, _ *emptypb.Empty) (*machineapi.DiskStatsResponse, error) {
	out := &machineapi.DiskStats{Total: &machineapi.DiskStat{}}
	for _, device := range at(ctx).Resources.Devices.List() {
		out.Devices = append(out.Devices, &machineapi.DiskStat{Name: device.Name})
	}

	return &machineapi.DiskStatsResponse{Messages: []*machineapi.DiskStats{out}}, nil
}

// inside reads /proc of the machine's own network namespace.
func (b *Machine) inside(read func(procfs.FS) error) error {
	return b.Network.Do(func() error {
		own, err := procfs.NewFS("/proc/thread-self")
		if err != nil {
			return err
		}

		return read(own)
	})
}

func (*machineService) NetworkDeviceStats(ctx context.Context, _ *emptypb.Empty) (*machineapi.NetworkDeviceStatsResponse, error) {
	out := &machineapi.NetworkDeviceStats{}

	err := at(ctx).inside(func(own procfs.FS) error {
		devices, err := own.NetDev()
		if err != nil {
			return err
		}

		out.Total = netDev(devices.Total())
		for _, name := range slices.Sorted(maps.Keys(devices)) {
			out.Devices = append(out.Devices, netDev(devices[name]))
		}

		return nil
	})
	if err != nil {
		return nil, err
	}

	return &machineapi.NetworkDeviceStatsResponse{Messages: []*machineapi.NetworkDeviceStats{out}}, nil
}

func netDev(line procfs.NetDevLine) *machineapi.NetDev {
	return &machineapi.NetDev{
		Name: line.Name, RxBytes: line.RxBytes, RxPackets: line.RxPackets, RxErrors: line.RxErrors, RxDropped: line.RxDropped, RxFifo: line.RxFIFO,
		RxFrame: line.RxFrame, RxCompressed: line.RxCompressed, RxMulticast: line.RxMulticast, TxBytes: line.TxBytes, TxPackets: line.TxPackets,
		TxErrors: line.TxErrors, TxDropped: line.TxDropped, TxFifo: line.TxFIFO, TxCollisions: line.TxCollisions, TxCarrier: line.TxCarrier,
		TxCompressed: line.TxCompressed,
	}
}

// Netstat shows the real sockets of the machine's network namespace.
func (*machineService) Netstat(ctx context.Context, in *machineapi.NetstatRequest) (*machineapi.NetstatResponse, error) {
	b := at(ctx)
	out := &machineapi.Netstat{}
	owners := b.socketOwners()
	wanted := in.GetL4Proto()

	err := b.inside(func(own procfs.FS) error {
		for _, table := range []struct {
			name   string
			wanted bool
			read   func() ([]socket, error)
		}{
			{"tcp", wanted.GetTcp(), func() ([]socket, error) { lines, err := own.NetTCP(); return sockets(lines), err }},    //nolint:staticcheck // the kernel's table is what Talos answers from
			{"tcp6", wanted.GetTcp6(), func() ([]socket, error) { lines, err := own.NetTCP6(); return sockets(lines), err }}, //nolint:staticcheck // the same
			{"udp", wanted.GetUdp(), func() ([]socket, error) { lines, err := own.NetUDP(); return sockets(procfs.NetTCP(lines)), err }},
			{"udp6", wanted.GetUdp6(), func() ([]socket, error) { lines, err := own.NetUDP6(); return sockets(procfs.NetTCP(lines)), err }},
		} {
			if !table.wanted {
				continue
			}

			lines, err := table.read()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}

			for _, line := range lines {
				if filtered(in.GetFilter(), line) {
					continue
				}

				out.Connectrecord = append(out.Connectrecord, line.record(table.name, owners))
			}
		}

		return nil
	})
	if err != nil {
		return nil, err
	}

	return &machineapi.NetstatResponse{Messages: []*machineapi.Netstat{out}}, nil
}

// socket is a line of /proc/net/tcp and its like.
type socket struct {
	local, remote         string
	localPort, remotePort uint32
	state                 int32
	send, receive         uint64
	user                  uint32
	inode                 uint64
}

func sockets(lines procfs.NetTCP) []socket {
	var list []socket
	for _, line := range lines {
		list = append(list, socket{
			local: line.LocalAddr.String(), remote: line.RemAddr.String(), localPort: uint32(line.LocalPort), remotePort: uint32(line.RemPort), //nolint:gosec // ports
			state: int32(line.St), send: line.TxQueue, receive: line.RxQueue, user: uint32(line.UID), inode: line.Inode, //nolint:gosec // small numbers
		})
	}

	return list
}

func (s socket) record(protocol string, owners map[string]*machineapi.ConnectRecord_Process) *machineapi.ConnectRecord {
	owner := owners[fmt.Sprintf("socket:[%d]", s.inode)]
	if owner == nil {
		owner = &machineapi.ConnectRecord_Process{}
	}

	return &machineapi.ConnectRecord{
		L4Proto: protocol, Localip: s.local, Localport: s.localPort, Remoteip: s.remote, Remoteport: s.remotePort,
		State: machineapi.ConnectRecord_State(s.state), Txqueue: s.send, Rxqueue: s.receive, Uid: s.user, Inode: s.inode, Process: owner,
	}
}

// filtered says whether a socket is none of those that are asked for: without a peer it listens.
func filtered(filter machineapi.NetstatRequest_Filter, line socket) bool {
	listens := line.remotePort == 0

	return filter == machineapi.NetstatRequest_CONNECTED && listens || filter == machineapi.NetstatRequest_LISTENING && !listens
}

// socketOwners are the processes behind sockets, by the socket's number: "socket:[1234]" in /proc/PID/fd.
func (b *Machine) socketOwners() map[string]*machineapi.ConnectRecord_Process {
	owners := map[string]*machineapi.ConnectRecord_Process{}

	for _, pid := range append(b.pids(), os.Getpid()) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue // it ended
		}

		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			continue
		}

		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:") {
				owners[target] = &machineapi.ConnectRecord_Process{Pid: uint32(pid), Name: strings.TrimSpace(string(name))} //nolint:gosec // a process
			}
		}
	}

	return owners
}
