package omni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pollsAtOnce bounds how many machines are asked at a time.
const pollsAtOnce = 4

// lookAtMachines makes a machine of each link, and asks each how it is. A machine whose link is taken away is forgotten.
func (o *Omni) lookAtMachines(ctx context.Context) error {
	links, err := safe.StateListAll[*siderolink.Link](ctx, o.state)
	if err != nil {
		return err
	}
	asked, inner := errgroup.WithContext(ctx)
	asked.SetLimit(pollsAtOnce)
	for link := range links.All() {
		asked.Go(func() error {
			if link.Metadata().Phase() != resource.PhaseRunning {
				return o.forgetMachine(inner, link)
			}
			return o.lookAtMachine(inner, link)
		})
	}
	return asked.Wait()
}

// forgetMachine ends what belongs to a link, and lets it go.
func (o *Omni) forgetMachine(ctx context.Context, link *siderolink.Link) error {
	id := link.Metadata().ID()
	if address, err := netip.ParsePrefix(link.TypedSpec().Value.NodeSubnet); err == nil {
		o.talos.forget(apiAddress(address.Addr().String()))
	}
	faults := []error{
		remove(ctx, o.state, omni.NewMachineStatus(id).Metadata()),
		remove(ctx, o.state, omni.NewMachine(id).Metadata()),
		remove(ctx, o.state, omni.NewMachineStatusSnapshot(id).Metadata()),
		remove(ctx, o.state, siderolink.NewNodeUniqueToken(id).Metadata()),
		remove(ctx, o.state, siderolink.NewJoinTokenUsage(id).Metadata()),
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	return release(ctx, o.state, link.Metadata())
}

func (o *Omni) lookAtMachine(ctx context.Context, link *siderolink.Link) error {
	id := link.Metadata().ID()
	address, err := netip.ParsePrefix(link.TypedSpec().Value.NodeSubnet)
	if err != nil {
		return err
	}
	connected := link.TypedSpec().Value.Connected
	err = put(ctx, o.state, omni.NewMachine(id), func(machine *omni.Machine) error {
		machine.TypedSpec().Value = &specs.MachineSpec{
			ManagementAddress: address.Addr().String(), Connected: connected, UseGrpcTunnel: link.TypedSpec().Value.VirtualAddrport != "",
		}
		setLabel(machine, omni.MachineAddressLabel, address.Addr().String(), true)
		return nil
	})
	if err != nil {
		return err
	}
	seen, asking := o.ask(ctx, id, address.Addr().String())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return o.showMachine(ctx, id, address.Addr().String(), connected, seen, asking)
}

// placeOf is where a machine is in a cluster; the zero value is nowhere.
type place struct {
	cluster, set string
	role         specs.MachineStatusSpec_Role
}

func (o *Omni) placeOf(ctx context.Context, id string) (place, error) {
	member, err := safe.StateGetByID[*omni.ClusterMachine](ctx, o.state, id)
	if state.IsNotFoundError(err) {
		return place{}, nil
	} else if err != nil {
		return place{}, err
	}
	var found place
	found.cluster, _ = member.Metadata().Labels().Get(omni.LabelCluster)
	found.set, _ = member.Metadata().Labels().Get(omni.LabelMachineSet)
	found.role = specs.MachineStatusSpec_WORKER
	if _, controlPlane := member.Metadata().Labels().Get(omni.LabelControlPlaneRole); controlPlane {
		found.role = specs.MachineStatusSpec_CONTROL_PLANE
	}
	return found, nil
}

// setLabel sets a label, or takes it away.
func setLabel(of resource.Resource, key, value string, wanted bool) {
	if wanted {
		of.Metadata().Labels().Set(key, value)
	} else {
		of.Metadata().Labels().Delete(key)
	}
}

func (o *Omni) showMachine(ctx context.Context, id, address string, connected bool, seen *specs.MachineStatusSpec, asking error) error {
	at, err := o.placeOf(ctx, id)
	if err != nil {
		return err
	}
	_, snapshot := o.state.Get(ctx, omni.NewMachineStatusSnapshot(id).Metadata())
	return put(ctx, o.state, omni.NewMachineStatus(id), func(machine *omni.MachineStatus) error {
		spec := machine.TypedSpec().Value
		if asking == nil {
			seen.InitialTalosVersion = spec.InitialTalosVersion
			if seen.InitialTalosVersion == "" {
				seen.InitialTalosVersion = seen.TalosVersion
			}
			if first := spec.GetSchematic().GetInitialSchematic(); first != "" && seen.Schematic != nil {
				seen.Schematic.InitialSchematic = first
			}
			spec = seen
			machine.TypedSpec().Value = spec
		} else {
			spec.LastError = asking.Error()
		}
		spec.ManagementAddress, spec.Connected, spec.Cluster, spec.Role = address, connected, at.cluster, at.role
		setLabel(machine, omni.MachineStatusLabelConnected, "", connected)
		setLabel(machine, omni.MachineStatusLabelDisconnected, "", !connected)
		setLabel(machine, omni.MachineStatusLabelReportingEvents, "", snapshot == nil)
		setLabel(machine, omni.MachineStatusLabelAvailable, "", at.cluster == "")
		setLabel(machine, omni.LabelCluster, at.cluster, at.cluster != "")
		setLabel(machine, omni.LabelMachineSet, at.set, at.set != "")
		setLabel(machine, omni.LabelControlPlaneRole, "", at.role == specs.MachineStatusSpec_CONTROL_PLANE)
		setLabel(machine, omni.LabelWorkerRole, "", at.role == specs.MachineStatusSpec_WORKER)
		omni.ReconcileMachineStatusLabels(machine)
		return nil
	})
}

// reach is a client of a machine that answers: with its cluster's certificates where it has them, else as one in
// maintenance.
func (o *Omni) reach(ctx context.Context, id, address string) (talos *client.Client, maintenance bool, err error) {
	at, err := o.placeOf(ctx, id)
	if err != nil {
		return nil, false, err
	}
	var closed error
	if at.cluster != "" {
		talos, closed = o.reachMember(ctx, at.cluster, address)
		if closed == nil {
			return talos, false, nil
		}
	}
	talos, err = o.talos.of(ctx, apiAddress(address), "", nil)
	if err != nil {
		return nil, false, err
	}
	if _, err := talos.Version(ctx); err != nil {
		return nil, false, errors.Join(closed, err)
	}
	return talos, true, nil
}

// ask reads what Omni's inventory shows. What a machine does not tell stays empty.
func (o *Omni) ask(ctx context.Context, id, address string) (*specs.MachineStatusSpec, error) {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	talos, maintenance, err := o.reach(ctx, id, address)
	if err != nil {
		o.talos.forget(apiAddress(address)) // another attempt is not held up by this one
		return nil, err
	}
	seen := &specs.MachineStatusSpec{
		Maintenance: maintenance, PowerState: specs.MachineStatusSpec_POWER_STATE_UNSUPPORTED, ImageLabels: map[string]string{},
		Hardware: &specs.MachineStatusSpec_HardwareStatus{}, Network: &specs.MachineStatusSpec_NetworkStatus{},
	}
	version, err := talos.Version(ctx)
	if err != nil {
		return nil, err
	}
	if len(version.GetMessages()) == 0 {
		return nil, errors.New("the machine tells no version")
	}
	seen.TalosVersion = version.GetMessages()[0].GetVersion().GetTag()
	seen.Hardware.Arch = version.GetMessages()[0].GetVersion().GetArch()
	for _, part := range []func(context.Context, *client.Client, *specs.MachineStatusSpec) error{
		askDisks, askProcessors, askMemory, askNetwork, askLinks, askPlatform, askExtensions, askSecurity,
	} {
		if err := part(ctx, talos, seen); err != nil && !isUntold(err) {
			return nil, err
		}
	}
	return seen, o.askStage(ctx, id, talos)
}

// askStage keeps the machine's own status, as its events do.
func (o *Omni) askStage(ctx context.Context, id string, talos *client.Client) error {
	now, err := safe.StateGetByID[*runtime.MachineStatus](ctx, talos.COSI, runtime.MachineStatusID)
	if isUntold(err) {
		return nil
	} else if err != nil {
		return err
	}
	spec := now.TypedSpec()
	said := &machineapi.MachineStatusEvent{
		Stage:  machineapi.MachineStatusEvent_MachineStage(spec.Stage), //nolint:gosec // the same small numbers
		Status: &machineapi.MachineStatusEvent_MachineStatus{Ready: spec.Status.Ready},
	}
	for _, condition := range spec.Status.UnmetConditions {
		said.Status.UnmetConditions = append(said.Status.UnmetConditions, &machineapi.MachineStatusEvent_MachineStatus_UnmetCondition{
			Name: condition.Name, Reason: condition.Reason,
		})
	}
	return put(ctx, o.state, omni.NewMachineStatusSnapshot(id), func(res *omni.MachineStatusSnapshot) error {
		res.TypedSpec().Value.MachineStatus = said
		return nil
	})
}

// isUntold: the machine does not have what it was asked for, or does not tell it.
func isUntold(err error) bool {
	if state.IsNotFoundError(err) {
		return true
	}
	switch status.Code(err) {
	case codes.NotFound, codes.Unimplemented, codes.PermissionDenied:
		return true
	default:
		return false
	}
}

func askDisks(ctx context.Context, talos *client.Client, seen *specs.MachineStatusSpec) error {
	answer, err := talos.Disks(ctx)
	if err != nil {
		return err
	}
	for _, message := range answer.GetMessages() {
		for _, disk := range message.GetDisks() {
			seen.Hardware.Blockdevices = append(seen.Hardware.Blockdevices, &specs.MachineStatusSpec_HardwareStatus_BlockDevice{
				Size: disk.GetSize(), Model: disk.GetModel(), LinuxName: disk.GetDeviceName(), Name: disk.GetName(), Serial: disk.GetSerial(),
				Uuid: disk.GetUuid(), Wwid: disk.GetWwid(), Type: disk.GetType().String(), BusPath: disk.GetBusPath(),
				SystemDisk: disk.GetSystemDisk(), Readonly: disk.GetReadonly(),
			})
		}
	}
	return nil
}

func askProcessors(ctx context.Context, talos *client.Client, seen *specs.MachineStatusSpec) error {
	found, err := safe.StateListAll[*hardware.Processor](ctx, talos.COSI)
	if err != nil {
		return err
	}
	for one := range found.All() {
		spec := one.TypedSpec()
		seen.Hardware.Processors = append(seen.Hardware.Processors, &specs.MachineStatusSpec_HardwareStatus_Processor{
			CoreCount: spec.CoreCount, ThreadCount: spec.ThreadCount, Frequency: spec.MaxSpeed,
			Description: strings.TrimSpace(spec.Manufacturer + " " + spec.ProductName), Manufacturer: spec.Manufacturer,
		})
	}
	return nil
}

func askMemory(ctx context.Context, talos *client.Client, seen *specs.MachineStatusSpec) error {
	found, err := safe.StateListAll[*hardware.MemoryModule](ctx, talos.COSI)
	if err != nil {
		return err
	}
	for one := range found.All() {
		seen.Hardware.MemoryModules = append(seen.Hardware.MemoryModules, &specs.MachineStatusSpec_HardwareStatus_MemoryModule{
			SizeMb: one.TypedSpec().Size, Description: strings.TrimSpace(one.TypedSpec().Manufacturer + " " + one.TypedSpec().ProductName),
		})
	}
	return nil
}

func askNetwork(ctx context.Context, talos *client.Client, seen *specs.MachineStatusSpec) error {
	name, err := safe.StateGetByID[*network.HostnameStatus](ctx, talos.COSI, network.HostnameID)
	if err == nil {
		seen.Network.Hostname, seen.Network.Domainname = name.TypedSpec().Hostname, name.TypedSpec().Domainname
	} else if !isUntold(err) {
		return err
	}
	addresses, err := safe.StateGetByID[*network.NodeAddress](ctx, talos.COSI, network.NodeAddressCurrentID)
	if err == nil {
		for _, one := range addresses.TypedSpec().Addresses {
			seen.Network.Addresses = append(seen.Network.Addresses, one.String())
		}
	} else if !isUntold(err) {
		return err
	}
	routes, err := safe.StateListAll[*network.RouteStatus](ctx, talos.COSI)
	if err != nil {
		return err
	}
	for route := range routes.All() {
		spec := route.TypedSpec()
		if gateway := spec.Gateway; gateway.IsValid() && (!spec.Destination.IsValid() || spec.Destination.Bits() == 0) &&
			!slices.Contains(seen.Network.DefaultGateways, gateway.String()) {
			seen.Network.DefaultGateways = append(seen.Network.DefaultGateways, gateway.String())
		}
	}
	return nil
}

func askLinks(ctx context.Context, talos *client.Client, seen *specs.MachineStatusSpec) error {
	links, err := safe.StateListAll[*network.LinkStatus](ctx, talos.COSI)
	if err != nil {
		return err
	}
	for link := range links.All() {
		spec := link.TypedSpec()
		if !spec.Physical() {
			continue
		}
		seen.Network.NetworkLinks = append(seen.Network.NetworkLinks, &specs.MachineStatusSpec_NetworkStatus_NetworkLinkStatus{
			LinuxName: link.Metadata().ID(), HardwareAddress: spec.HardwareAddr.String(), LinkUp: spec.LinkState,
			SpeedMbps: uint32(max(0, min(spec.SpeedMegabits, 1<<30))), Description: strings.TrimSpace(spec.Vendor + " " + spec.Product),
		})
	}
	return nil
}

func askPlatform(ctx context.Context, talos *client.Client, seen *specs.MachineStatusSpec) error {
	found, err := safe.StateGetByID[*runtime.PlatformMetadata](ctx, talos.COSI, runtime.PlatformMetadataID)
	if err != nil {
		return err
	}
	spec := found.TypedSpec()
	seen.PlatformMetadata = &specs.MachineStatusSpec_PlatformMetadata{
		Platform: spec.Platform, Hostname: spec.Hostname, Region: spec.Region, Zone: spec.Zone, InstanceType: spec.InstanceType,
		InstanceId: spec.InstanceID, ProviderId: spec.ProviderID, Spot: spec.Spot, Tags: spec.Tags,
	}
	return nil
}

// schematicExtension is the one that the image factory adds: its version is the schematic's id.
const schematicExtension = "schematic"

func askExtensions(ctx context.Context, talos *client.Client, seen *specs.MachineStatusSpec) error {
	found, err := safe.StateListAll[*runtime.ExtensionStatus](ctx, talos.COSI)
	if err != nil {
		return err
	}
	schematic := &specs.MachineStatusSpec_Schematic{}
	for one := range found.All() {
		metadata := one.TypedSpec().Metadata
		if metadata.Name == schematicExtension {
			schematic.FullId, schematic.InitialSchematic = metadata.Version, metadata.Version
			schematic.Raw = metadata.ExtraInfo
			continue
		}
		schematic.Extensions = append(schematic.Extensions, fmt.Sprintf("siderolabs/%s", metadata.Name))
	}
	slices.Sort(schematic.Extensions)
	schematic.Invalid = schematic.FullId == "" && len(schematic.Extensions) > 0
	seen.Schematic = schematic
	return nil
}

func askSecurity(ctx context.Context, talos *client.Client, seen *specs.MachineStatusSpec) error {
	found, err := safe.StateGetByID[*runtime.SecurityState](ctx, talos.COSI, runtime.SecurityStateID)
	if err != nil {
		return err
	}
	seen.SecurityState = &specs.SecurityState{SecureBoot: found.TypedSpec().SecureBoot, BootedWithUki: found.TypedSpec().BootedWithUKI}
	return nil
}
