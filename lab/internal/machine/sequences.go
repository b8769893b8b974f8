package machine

import (
	"errors"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"

	"platform.lab/lab/internal/machine/ciliummetrics"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/machine/kubeprism"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/talosaccess"
	"platform.lab/lab/internal/machine/talosapi"
	"platform.lab/lab/internal/machine/vip"
)

const stopGrace = 10 * time.Second

// startEverything is the end of Talos' boot sequence: all services, and "running" once they are up.
// Before a control plane's etcd is bootstrapped or has joined, the machine is still booting.
func (b *boot) startEverything() {
	b.Go(b.announce)
	b.services.Running("cri", "syslogd", "auditd")
	b.Go(kubeprism.Machine{Lifetime: b.Lifetime, Active: b.Active, Network: b.network, Discovery: b.machine.fleet.discovery}.Run)
	b.Go(b.node.Run)
	b.Go(ciliummetrics.Machine{
		Lifetime: b.Lifetime, Listen: b.network.Listen, Dial: b.network.Dial, Pods: b.node.PodsNow, Nodes: b.node.Others, Log: b.Log,
	}.Run)

	if b.IsControlPlane() {
		b.services.Running("trustd")
		b.Go(b.etcd.Run)
		b.Go(b.plane.Run)
		b.Go(vip.Machine{Lifetime: b.Lifetime, Active: b.Active, Network: b.network, Services: b.services, Etcd: b.etcd}.Run)
		b.Go(talosaccess.Machine{
			Lifetime: b.Lifetime, Active: b.Active, Network: b.network, Services: b.services, Etcd: b.etcd, ControlPlane: b.plane,
		}.Run)
	}

	b.Go(func() {
		for !b.services.AllUp() {
			if !b.Sleep(lifetime.Tick) || b.IsStopping() {
				return
			}
		}

		b.setStage(runtime.MachineStageRunning)
		b.events.Sequence("boot", machineapi.SequenceEvent_STOP)
	})
}

// announce tells the other machines of the cluster that this one is there.
func (b *boot) announce() {
	for ; !b.IsStopping(); b.Sleep(time.Second) {
		if provider := b.Provider(); provider != nil && b.network.Address().IsValid() {
			b.machine.fleet.discovery.Announce(provider.Cluster().ID(), b.resources.Member())
		}
	}
}

// install models the installation of a machine that booted from an ISO.
func (b *boot) install() {
	b.setStage(runtime.MachineStageInstalling)

	if !b.Sleep(b.options().InstallDelay) {
		return
	}

	b.LogError("installation", b.changeMeta(func(m *disk.Installation) { m.Installed = true }))
	b.setStage(runtime.MachineStageRebooting)
	b.machine.restart(b, func() {})
}

// sequence runs one of Talos' sequences that end the system: the stage, whatever has to be done with all
// services up, their graceful stop, and the end.
func (b *boot) sequence(name, actor string, stage runtime.MachineStage, first func(), end func()) {
	b.mu.Lock()
	if b.rebooting {
		b.mu.Unlock()

		return
	}

	b.rebooting = true
	b.mu.Unlock()

	b.Go(func() {
		if !b.Sleep(talosapi.ReplyTime) {
			return
		}

		b.events.Actor(actor)
		b.events.Sequence(name, machineapi.SequenceEvent_START)
		b.setStage(stage)
		first()
		b.stopServices()
		b.sink.Drain()
		end()
	})
}

// stopServices stops the kubelet, the static pods and etcd in this order; the VIP is given up first.
func (b *boot) stopServices() {
	b.events.Task("stopAllServices", machineapi.TaskEvent_START)
	b.StopServices()
	b.plane.Stop(controlplane.Grace)
	b.etcd.Stop(stopGrace)
	b.services.Finished("kubelet", "etcd", "trustd", "cri")
	b.events.Task("stopAllServices", machineapi.TaskEvent_STOP)
}

func nothing() {}

// Reboot ends the system and begins it again.
func (b *boot) Reboot(actor string) {
	b.sequence("reboot", actor, runtime.MachineStageRebooting, nothing, func() { b.machine.restart(b, nothing) })
}

// Shutdown ends the system and switches the machine off.
func (b *boot) Shutdown(actor string) {
	b.sequence("shutdown", actor, runtime.MachineStageShuttingDown, nothing, func() { b.machine.guestPowerOff(b, nothing) })
}

// Upgrade installs another image; the machine comes back with it.
func (b *boot) Upgrade(actor string, image hardware.Image, staged bool) {
	name := "upgrade"
	if b.InMaintenance() {
		name = "maintenanceUpgrade"
	} else if staged {
		name = "stageUpgrade"
	}

	b.sequence(name, actor, runtime.MachineStageUpgrading, nothing, func() {
		if !staged && !b.Sleep(b.options().InstallDelay) {
			return
		}

		b.LogError("upgrade", b.Install(image))
		b.machine.restart(b, nothing)
	})
}

// Rollback starts the image in the other place of the boot loader.
func (b *boot) Rollback() error {
	var missing error

	err := b.machine.changeInstallation(func(stored *disk.Installation) {
		if stored.Previous.TalosVersion == "" {
			missing = errors.New("cannot rollback to \"\", label does not exist")

			return
		}

		stored.Revert()
	})
	if err := errors.Join(missing, err); err != nil {
		return err
	}

	b.Reboot("")

	return nil
}

// Reset wipes partitions (no label: the whole disk), then reboots or powers off.
func (b *boot) Reset(actor string, graceful, reboot bool, labels []string) {
	first := nothing
	if graceful {
		first = b.leaveCluster
	}

	// The sequence that waits for a configuration lets only a reboot and an upgrade take its place (runtime/sequencer.go).
	if b.InMaintenance() {
		b.events.Actor(actor)
		b.events.Publish(&machineapi.SequenceEvent{Sequence: "reset", Action: machineapi.SequenceEvent_NOOP, Error: &common.Error{
			Code: common.Code_LOCKED, Message: "sequence not started: locked",
		}})
		b.Log.Error("reset failed: locked")

		return
	}

	wipe := func() { b.LogError("wipe", b.machine.disk.Wipe(labels...)) }

	b.sequence("reset", actor, runtime.MachineStageResetting, first, func() {
		if reboot {
			b.machine.restart(b, wipe)
		} else {
			b.machine.guestPowerOff(b, wipe)
		}
	})
}

// leaveCluster is the graceful part of a reset: etcd forgets the member, discovery the machine.
func (b *boot) leaveCluster() {
	if b.IsControlPlane() {
		b.LogError("etcd leave", b.etcd.Leave(b.Context()))
	}

	if provider := b.Provider(); provider != nil && provider.Cluster() != nil {
		b.machine.fleet.discovery.Forget(provider.Cluster().ID(), b.hardware.ID)
	}
}
