package machine

import (
	"log/slog"
	"os"
	"sync"

	"platform.lab/lab/internal/machine/disk"
)

// machine is a VM's hardware: power and disk. What runs on it between power on and power off is a boot.
type machine struct {
	fleet *Fleet
	disk  disk.Disk
	log   *slog.Logger

	mu       sync.Mutex
	hardware Hardware
	boot     *boot
	jobs     []func()
	working  bool
}

func newMachine(f *Fleet, folder string, hardware Hardware) *machine {
	return &machine{fleet: f, disk: disk.Disk(folder), hardware: hardware, log: f.options.Log.With("machine", hardware.Name)}
}

// do runs a job after all jobs given before; it returns at once.
func (m *machine) do(job func()) {
	m.mu.Lock()
	defer m.mu.Unlock()

	m.jobs = append(m.jobs, job)

	if !m.working {
		m.working = true

		go m.work()
	}
}

// finish runs a job like do, and returns when it is done. A job of the same machine must not call it.
func (m *machine) finish(job func()) {
	done := make(chan struct{})

	m.do(func() {
		defer close(done)

		job()
	})
	<-done
}

func (m *machine) work() {
	for {
		m.mu.Lock()
		if len(m.jobs) == 0 {
			m.working = false
			m.mu.Unlock()

			return
		}

		job := m.jobs[0]
		m.jobs = m.jobs[1:]
		m.mu.Unlock()

		job()
	}
}

func (m *machine) current() *boot {
	m.mu.Lock()
	defer m.mu.Unlock()

	return m.boot
}

func (m *machine) setBoot(b *boot) {
	m.mu.Lock()
	defer m.mu.Unlock()

	m.boot = b
}

func (m *machine) setHardware(hardware Hardware) {
	m.mu.Lock()
	defer m.mu.Unlock()

	m.hardware = hardware
}

func (m *machine) vm() Hardware {
	m.mu.Lock()
	defer m.mu.Unlock()

	return m.hardware
}

func (m *machine) name() string { return m.vm().Name }

// powerOn is a job: start the machine unless it is on.
func (m *machine) powerOn() {
	if m.current() != nil {
		return
	}

	if err := os.MkdirAll(m.disk.Path(disk.LogsFolder), 0o700); err != nil {
		m.log.Error("the machine cannot start", "error", err)

		return
	}

	b, err := newBoot(m)
	if err != nil {
		m.log.Error("the machine cannot start", "error", err)

		return
	}

	m.log.Info("power on")
	m.setBoot(b)
	b.Go(b.run)
}

// powerOff is a job: kill everything that runs on the machine.
func (m *machine) powerOff() {
	b := m.current()
	if b == nil {
		return
	}

	b.halt()
	m.setBoot(nil)
	m.log.Info("power off")
}

// restart ends a boot and begins the next one, unless the power was switched meanwhile.
// `between` runs while nothing runs on the machine.
func (m *machine) restart(b *boot, between func()) {
	m.do(func() {
		if m.current() != b {
			return
		}

		m.powerOff()
		between()
		m.powerOn()
	})
}

// guestPowerOff ends a boot for good, as the guest asked for, and tells the hypervisor.
func (m *machine) guestPowerOff(b *boot, between func()) {
	m.do(func() {
		if m.current() != b {
			return
		}

		m.powerOff()
		between()

		if tell := m.fleet.options.GuestPoweredOff; tell != nil {
			tell(m.vm().ID)
		}
	})
}

// installation is what the disk knows of Talos: as stored, or that of a disk fresh from the OVA.
func (m *machine) installation() (disk.Installation, error) {
	image := m.vm().Image

	return m.disk.Installation(disk.Installation{
		Installed: m.fleet.options.InstallDelay == 0, Image: image,
	})
}

// changeInstallation changes what the next boot starts; what runs stays what it is.
func (m *machine) changeInstallation(change func(*disk.Installation)) error {
	stored, err := m.installation()
	if err != nil {
		return err
	}

	change(&stored)

	return m.disk.SaveInstallation(stored)
}
