package vsphereplugin

// The settings of a virtual machine that are plain values of its configuration: one row each, with the default and
// whether a change needs the machine to be powered off, as virtual_machine_config_structure.go of the Terraform
// provider has them.

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/vmware/govmomi/vim25/types"

	"platform.lab/lab/internal/plugins"
)

type (
	configInfo = types.VirtualMachineConfigInfo
	configSpec = types.VirtualMachineConfigSpec
)

// machineSetting ties a property to its place in what vCenter reports and in what it is told.
type machineSetting struct {
	field
	offline bool // a change needs the machine powered off
	read    func(*configInfo) any
	write   func(*configSpec, attributes)
}

// flag, word and number are the three kinds of rows.
func flag(name string, fallback any, offline bool, from func(*configInfo) *bool, to func(*configSpec) **bool) machineSetting {
	return machineSetting{field{name: name, kind: boolean, fallback: fallback}, offline,
		func(c *configInfo) any { return value(from(c)) },
		func(s *configSpec, a attributes) { *to(s) = types.NewBool(a.flag(name)) }}
}

func word[T ~string](f field, offline bool, from func(*configInfo) T, to func(*configSpec) *T) machineSetting {
	return machineSetting{f, offline,
		func(c *configInfo) any { return string(from(c)) },
		func(s *configSpec, a attributes) { *to(s) = T(a.text(f.name)) }}
}

func number[T int32 | int64](f field, offline bool, from func(*configInfo) T, to func(*configSpec, T)) machineSetting {
	return machineSetting{f, offline,
		func(c *configInfo) any { return int(from(c)) },
		func(s *configSpec, a attributes) { to(s, T(a.number(f.name))) }}
}

func machineSettings() []machineSetting {
	tools := func(c *configInfo) *types.ToolsConfigInfo {
		if c.Tools == nil {
			return &types.ToolsConfigInfo{}
		}
		return c.Tools
	}
	boot := func(c *configInfo) *types.VirtualMachineBootOptions {
		if c.BootOptions == nil {
			return &types.VirtualMachineBootOptions{}
		}
		return c.BootOptions
	}
	settings := []machineSetting{
		word(field{name: "name", kind: text, required: true}, false,
			func(c *configInfo) string { return c.Name }, func(s *configSpec) *string { return &s.Name }),
		word(field{name: "annotation", kind: text, computed: true}, false,
			func(c *configInfo) string { return c.Annotation }, func(s *configSpec) *string { return &s.Annotation }),
		word(field{name: "guestId", kind: text, computed: true}, true,
			func(c *configInfo) string { return c.GuestId }, func(s *configSpec) *string { return &s.GuestId }),
		word(field{name: "alternateGuestName", kind: text}, true,
			func(c *configInfo) string { return c.AlternateGuestName },
			func(s *configSpec) *string { return &s.AlternateGuestName }),
		word(field{name: "firmware", kind: text, fallback: "bios", oneOf: []string{"bios", "efi"}}, true,
			func(c *configInfo) string { return c.Firmware }, func(s *configSpec) *string { return &s.Firmware }),
		word(field{name: "swapPlacementPolicy", kind: text, fallback: "inherit", oneOf: []string{"inherit", "vmDirectory", "hostLocal"}},
			true, func(c *configInfo) string { return c.SwapPlacement }, func(s *configSpec) *string { return &s.SwapPlacement }),
		word(field{name: "latencySensitivity", kind: text, fallback: "normal", oneOf: []string{"low", "normal", "medium", "high"}}, false,
			func(c *configInfo) types.LatencySensitivitySensitivityLevel {
				if c.LatencySensitivity == nil {
					return types.LatencySensitivitySensitivityLevelNormal // vCenter leaves the default out
				}
				return c.LatencySensitivity.Level
			},
			func(s *configSpec) *types.LatencySensitivitySensitivityLevel { return &s.LatencySensitivity.Level }),
		word(field{name: "hvMode", kind: text, computed: true, oneOf: []string{"hvAuto", "hvOn", "hvOff"}}, true,
			func(c *configInfo) string { return c.Flags.VirtualExecUsage },
			func(s *configSpec) *string { return &s.Flags.VirtualExecUsage }),
		word(field{name: "eptRviMode", kind: text, computed: true, oneOf: []string{"automatic", "on", "off"}}, true,
			func(c *configInfo) string { return c.Flags.VirtualMmuUsage },
			func(s *configSpec) *string { return &s.Flags.VirtualMmuUsage }),
		word(field{name: "toolsUpgradePolicy", kind: text, fallback: "manual", oneOf: []string{"manual", "upgradeAtPowerCycle"}}, true,
			func(c *configInfo) string { return tools(c).ToolsUpgradePolicy },
			func(s *configSpec) *string { return &s.Tools.ToolsUpgradePolicy }),

		// numCpus and memory: whether a change needs a power cycle depends on hot add, see needsPowerOff.
		number(field{name: "numCpus", kind: integer, fallback: 1, least: atLeast(1)}, false,
			func(c *configInfo) int32 { return c.Hardware.NumCPU }, func(s *configSpec, n int32) { s.NumCPUs = n }),
		number(field{name: "memory", kind: integer, fallback: 1024, least: atLeast(1)}, false,
			func(c *configInfo) int32 { return c.Hardware.MemoryMB }, func(s *configSpec, n int32) { s.MemoryMB = int64(n) }),
		number(field{name: "numCoresPerSocket", kind: integer, fallback: 1}, true,
			func(c *configInfo) int32 {
				if value(c.Hardware.AutoCoresPerSocket) {
					return 0
				}
				return max(value(c.Hardware.NumCoresPerSocket), 1)
			},
			func(s *configSpec, n int32) { s.NumCoresPerSocket = &n }),
		number(field{name: "bootDelay", kind: integer}, false,
			func(c *configInfo) int64 { return boot(c).BootDelay },
			func(s *configSpec, n int64) { s.BootOptions.BootDelay = n }),
		number(field{name: "bootRetryDelay", kind: integer, fallback: 10000}, false,
			func(c *configInfo) int64 { return boot(c).BootRetryDelay },
			func(s *configSpec, n int64) { s.BootOptions.BootRetryDelay = n }),

		flag("bootRetryEnabled", nil, false, func(c *configInfo) *bool { return boot(c).BootRetryEnabled },
			func(s *configSpec) **bool { return &s.BootOptions.BootRetryEnabled }),
		flag("efiSecureBootEnabled", nil, true, func(c *configInfo) *bool { return boot(c).EfiSecureBootEnabled },
			func(s *configSpec) **bool { return &s.BootOptions.EfiSecureBootEnabled }),
		flag("enableDiskUuid", nil, true, func(c *configInfo) *bool { return c.Flags.DiskUuidEnabled },
			func(s *configSpec) **bool { return &s.Flags.DiskUuidEnabled }),
		flag("enableLogging", nil, true, func(c *configInfo) *bool { return c.Flags.EnableLogging },
			func(s *configSpec) **bool { return &s.Flags.EnableLogging }),
		flag("vbsEnabled", nil, true, func(c *configInfo) *bool { return c.Flags.VbsEnabled },
			func(s *configSpec) **bool { return &s.Flags.VbsEnabled }),
		flag("vvtdEnabled", nil, true, func(c *configInfo) *bool { return c.Flags.VvtdEnabled },
			func(s *configSpec) **bool { return &s.Flags.VvtdEnabled }),
		flag("cpuHotAddEnabled", nil, true, func(c *configInfo) *bool { return c.CpuHotAddEnabled },
			func(s *configSpec) **bool { return &s.CpuHotAddEnabled }),
		flag("cpuHotRemoveEnabled", nil, true, func(c *configInfo) *bool { return c.CpuHotRemoveEnabled },
			func(s *configSpec) **bool { return &s.CpuHotRemoveEnabled }),
		flag("memoryHotAddEnabled", nil, true, func(c *configInfo) *bool { return c.MemoryHotAddEnabled },
			func(s *configSpec) **bool { return &s.MemoryHotAddEnabled }),
		flag("nestedHvEnabled", nil, true, func(c *configInfo) *bool { return c.NestedHVEnabled },
			func(s *configSpec) **bool { return &s.NestedHVEnabled }),
		flag("cpuPerformanceCountersEnabled", nil, true, func(c *configInfo) *bool { return c.VPMCEnabled },
			func(s *configSpec) **bool { return &s.VPMCEnabled }),

		// Since vSphere 7.0.1 the once-only setting is the one called Allowed.
		flag("syncTimeWithHost", true, false, func(c *configInfo) *bool { return tools(c).SyncTimeWithHostAllowed },
			func(s *configSpec) **bool { return &s.Tools.SyncTimeWithHostAllowed }),
		flag("syncTimeWithHostPeriodically", nil, false, func(c *configInfo) *bool { return tools(c).SyncTimeWithHost },
			func(s *configSpec) **bool { return &s.Tools.SyncTimeWithHost }),
		flag("runToolsScriptsAfterPowerOn", true, true, func(c *configInfo) *bool { return tools(c).AfterPowerOn },
			func(s *configSpec) **bool { return &s.Tools.AfterPowerOn }),
		flag("runToolsScriptsAfterResume", true, true, func(c *configInfo) *bool { return tools(c).AfterResume },
			func(s *configSpec) **bool { return &s.Tools.AfterResume }),
		flag("runToolsScriptsBeforeGuestReboot", nil, true, func(c *configInfo) *bool { return tools(c).BeforeGuestReboot },
			func(s *configSpec) **bool { return &s.Tools.BeforeGuestReboot }),
		flag("runToolsScriptsBeforeGuestShutdown", true, true, func(c *configInfo) *bool { return tools(c).BeforeGuestShutdown },
			func(s *configSpec) **bool { return &s.Tools.BeforeGuestShutdown }),
		flag("runToolsScriptsBeforeGuestStandby", true, true, func(c *configInfo) *bool { return tools(c).BeforeGuestStandby },
			func(s *configSpec) **bool { return &s.Tools.BeforeGuestStandby }),

		// A reservation that is locked to the memory's size only makes sense where the two are equal.
		{field{name: "memoryReservationLockedToMax", kind: boolean}, false,
			func(c *configInfo) any { return value(c.MemoryReservationLockedToMax) },
			func(s *configSpec, a attributes) {
				if a.number("memory") != a.number("memoryReservation") {
					s.MemoryReservationLockedToMax = types.NewBool(false)
				} else if a.flag("memoryReservationLockedToMax") {
					s.MemoryReservationLockedToMax = types.NewBool(true)
				}
			}},
	}
	settings = append(settings, allocationSettings("cpu",
		func(c *configInfo) *types.ResourceAllocationInfo { return c.CpuAllocation },
		func(s *configSpec) *types.ResourceAllocationInfo { return s.CpuAllocation })...)
	return append(settings, allocationSettings("memory",
		func(c *configInfo) *types.ResourceAllocationInfo { return c.MemoryAllocation },
		func(s *configSpec) *types.ResourceAllocationInfo { return s.MemoryAllocation })...)
}

// allocationSettings are the shares, the limit and the reservation of processors (MHz) or memory (MB).
func allocationSettings(what string, from func(*configInfo) *types.ResourceAllocationInfo,
	to func(*configSpec) *types.ResourceAllocationInfo) []machineSetting {
	read := func(c *configInfo) types.ResourceAllocationInfo {
		a := value(from(c))
		if a.Shares == nil {
			a.Shares = &types.SharesInfo{Level: types.SharesLevelNormal}
		}
		if a.Limit == nil {
			a.Limit = types.NewInt64(-1)
		}
		return a
	}
	return []machineSetting{
		word(field{name: what + "ShareLevel", kind: text, fallback: "normal", oneOf: []string{"low", "normal", "high", "custom"}}, false,
			func(c *configInfo) types.SharesLevel { return read(c).Shares.Level },
			func(s *configSpec) *types.SharesLevel { return &to(s).Shares.Level }),
		number(field{name: what + "ShareCount", kind: integer, computed: true, least: atLeast(0)}, false,
			func(c *configInfo) int32 { return read(c).Shares.Shares },
			func(s *configSpec, n int32) { to(s).Shares.Shares = n }),
		number(field{name: what + "Limit", kind: integer, fallback: -1, least: atLeast(-1)}, false,
			func(c *configInfo) int64 { return *read(c).Limit },
			func(s *configSpec, n int64) { to(s).Limit = &n }),
		number(field{name: what + "Reservation", kind: integer, least: atLeast(0)}, false,
			func(c *configInfo) int64 { return value(read(c).Reservation) },
			func(s *configSpec, n int64) { to(s).Reservation = &n }),
	}
}

// machineSpec is the whole configuration of a machine, except extraConfig and its devices.
func machineSpec(a attributes) configSpec {
	spec := configSpec{
		Tools: &types.ToolsConfigInfo{}, Flags: &types.VirtualMachineFlagInfo{},
		BootOptions: &types.VirtualMachineBootOptions{}, LatencySensitivity: &types.LatencySensitivity{},
		CpuAllocation:    &types.ResourceAllocationInfo{Shares: &types.SharesInfo{}},
		MemoryAllocation: &types.ResourceAllocationInfo{Shares: &types.SharesInfo{}},
	}
	for _, s := range machineSettings() {
		s.write(&spec, a)
	}
	spec.VmProfile = profile(a.text("storagePolicyId"))
	return spec
}

// extraConfigChanges tells vCenter what differs; an entry goes away when it is set to nothing.
func extraConfigChanges(old, wanted attributes) []types.BaseOptionValue {
	var changes []types.BaseOptionValue
	for _, key := range plugins.SortedKeys(old) {
		if _, stays := wanted[key]; !stays {
			changes = append(changes, &types.OptionValue{Key: key, Value: ""})
		}
	}
	for _, key := range plugins.SortedKeys(wanted) {
		if before, was := old[key]; !was || before != wanted[key] {
			changes = append(changes, &types.OptionValue{Key: key, Value: wanted.text(key)})
		}
	}
	return changes
}

// changedSettings are the plain settings that differ.
func changedSettings(old, wanted attributes) []machineSetting {
	var changed []machineSetting
	for _, s := range machineSettings() {
		if !equal(s.field, encode(old[s.name]), encode(wanted[s.name])) {
			changed = append(changed, s)
		}
	}
	return changed
}

// needsPowerOff decides by the settings the machine has now: hot add must be on already to be used.
func needsPowerOff(old, wanted attributes) bool {
	for _, s := range changedSettings(old, wanted) {
		if s.offline {
			return true
		}
	}
	cpus, memory := wanted.number("numCpus")-old.number("numCpus"), wanted.number("memory")-old.number("memory")
	return cpus > 0 && !old.flag("cpuHotAddEnabled") ||
		cpus < 0 && !old.flag("cpuHotRemoveEnabled") ||
		memory > 0 && !old.flag("memoryHotAddEnabled") ||
		memory < 0 ||
		wanted.number("hardwareVersion") > old.number("hardwareVersion") ||
		len(extraConfigChanges(old.block("extraConfig"), wanted.block("extraConfig"))) > 0 &&
			wanted.flag("extraConfigRebootRequired")
}

// hardwareVersion is the number in "vmx-15".
func hardwareVersion(version string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(version, "vmx-"))
	return n
}

// planMachine refuses what can be seen to fail before anything is touched.
func planMachine(old, wanted property.Map) error {
	if n := wanted.Get("networkInterfaces"); n.IsNull() || n.IsArray() && n.AsArray().Len() == 0 {
		return fmt.Errorf("network_interface parameter is required when not deploying from ovf template")
	}
	if old.Len() == 0 && wanted.Get("datastoreId").IsNull() {
		return fmt.Errorf("one of datastore_id datastore_cluster_id must be specified")
	}
	is, will := decodeMap(old).number("hardwareVersion"), decodeMap(wanted).number("hardwareVersion")
	if will != 0 && will < is {
		return fmt.Errorf("cannot downgrade virtual machine hardware version, current: %d, target: %d", is, will)
	}
	if disks := wanted.Get("disks"); disks.IsComputed() {
		return nil
	} else if disks.IsNull() {
		if old.Len() > 0 {
			return nil // computed: the disks stay what they are
		}
		return fmt.Errorf("there must be at least one disk specified")
	}
	return planDisks(decodeMap(old).blocks("disks"), wanted.Get("disks").AsArray())
}

// planDisks vets the disks one by one and as a whole.
func planDisks(old []attributes, wanted property.Array) error {
	labels, units := map[string]bool{}, map[int]bool{}
	for i, v := range wanted.All {
		disk := decodeMap(mapOf(v))
		label, unit := disk.text("label"), disk.number("unitNumber")
		switch {
		case labels[label]:
			return fmt.Errorf("disk: duplicate name %s", label)
		case units[unit]:
			return fmt.Errorf("disk: duplicate SCSI unit_number %d", unit)
		case unit > 14:
			return fmt.Errorf("disk.%d: unit_number on disk %q too high (%d) - maximum value is 14 with 1 SCSI controller(s)", i, label, unit)
		case disk.number("size") < 1 && !mapOf(v).Get("size").IsComputed():
			return fmt.Errorf("disk.%d: size for disk %q: required option not set", i, label)
		case disk.flag("eagerlyScrub") && disk.flag("thinProvisioned"):
			return fmt.Errorf("disk.%d: %s: eagerly_scrub and thin_provisioned cannot both be set to true", i, label)
		}
		labels[label], units[unit] = true, true
		for n, o := range old {
			if o.text("label") == label && disk.number("size") < o.number("size") && !mapOf(v).Get("size").IsComputed() {
				return fmt.Errorf("disk.%d: virtual disk %q: virtual disks cannot be shrunk (old: %d new: %d)", n, label,
					o.number("size"), disk.number("size"))
			}
		}
	}
	if wanted.Len() == 0 {
		return fmt.Errorf("there must be at least one disk specified")
	}
	if !units[0] {
		return fmt.Errorf("at least one disk must have a unit_number of 0 for SATA, SCSI, NVMe or 1 for IDE")
	}
	return nil
}
