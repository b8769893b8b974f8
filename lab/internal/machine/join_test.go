package machine

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/siderolabs/siderolink/pkg/events"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
	talosmeta "github.com/siderolabs/talos/pkg/machinery/meta"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/cluster"
	hardwareresource "github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	networkresource "github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	linkresource "github.com/siderolabs/talos/pkg/machinery/resources/siderolink"
	"google.golang.org/grpc/codes"

	"platform.lab/lab/internal/machine/hardware"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/siderolink/linktest"
)

const (
	joinedID      = "421f245c-7fa8-60fa-6af6-000000000051"
	joinedUUID    = "5c241f42-a87f-fa60-6af6-000000000051" // the same, as the guest reads it
	joinedAddress = "172.16.20.51"
	atSideroLink  = "fdae:41e4:649b:9303::51"
	automatic     = machineapi.ApplyConfigurationRequest_AUTO
	joinQuery     = "jointoken=" + linktest.Token + "&grpc_tunnel=true"
)

// joining is a site with one machine that joins, and who manages it.
type joining struct {
	*linktest.Site

	fleet *Fleet
	log   *written
}

// written is a log.
type written struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write adds to the log.
func (w *written) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()

	return w.text.Write(data)
}

func (w *written) has(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()

	return strings.Contains(w.text.String(), text)
}

func newJoining(t *testing.T) *joining {
	t.Helper()

	j := &joining{Site: linktest.NewSite(t, map[string]netip.Addr{joinedUUID: netip.MustParseAddr(atSideroLink)}), log: &written{}}
	j.fleet = NewFleet(t.Context(), Options{
		Bridge: j.Bridge, Dir: t.TempDir(), BootDelay: 10 * time.Millisecond, Log: slog.New(slog.NewTextHandler(io.MultiWriter(j.log, t.Output()), nil)),
	})
	t.Cleanup(j.fleet.Close)

	return j
}

// powerOn starts the machine; documents are what the hypervisor gives it as its configuration.
func (j *joining) powerOn(documents string) {
	metadata := "local-hostname: node01\nnetwork:\n  version: 2\n  ethernets:\n    eth0: {addresses: [" + joinedAddress + "/24], gateway4: 172.16.20.1}\n"
	info := map[string]string{"guestinfo.metadata": base64.StdEncoding.EncodeToString([]byte(metadata))}

	if documents != "" {
		info["guestinfo.talos.config"] = base64.StdEncoding.EncodeToString([]byte(documents))
	}

	j.fleet.PowerOn(Hardware{
		ID: joinedID, Name: "node01", CPUs: 4, MemoryMiB: 8192, Disks: []hardware.Disk{{GiB: 100}}, GuestInfo: info,
		Image: Image{TalosVersion: "v1.13.9", Schematic: "0000"},
	})
}

func (j *joining) status() Status { return j.fleet.Status()[0] }

// dial is a client of the machine API; without a configuration it shows no certificate and believes any.
func (j *joining) dial(address string, configured *clientconfig.Config) *client.Client {
	j.Helper()

	options := []client.OptionFunc{client.WithEndpoints(address)}
	if configured == nil {
		options = append(options, client.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}))
	} else {
		options = append(options, client.WithConfig(configured))
	}

	made, err := client.New(j.Context(), options...)
	if err != nil {
		j.Fatal(err)
	}

	j.Cleanup(func() { made.Close() })

	return made
}

// version asks once, and gives up soon.
func (j *joining) version(caller *client.Client) error {
	ctx, cancel := context.WithTimeout(j.Context(), 2*time.Second)
	defer cancel()

	_, err := caller.Version(ctx)

	return err
}

// inMaintenance waits until who manages the machine reaches it in maintenance mode.
func (j *joining) inMaintenance() *client.Client {
	j.Helper()

	caller := j.dial(atSideroLink, nil)
	j.Until("the machine is in maintenance mode and answers at SideroLink", func() bool {
		return j.status().Stage == "maintenance" && j.version(caller) == nil
	})

	return caller
}

// managed is a control plane's configuration, with what the machine joins by.
func managed(t *testing.T) ([]byte, *clientconfig.Config) {
	t.Helper()

	input, err := generate.NewInput("prod", "https://172.16.20.250:6443", "1.34.1")
	if err != nil {
		t.Fatal(err)
	}

	base, err := input.Config(machinetype.TypeControlPlane)
	if err != nil {
		t.Fatal(err)
	}

	patches, err := configpatcher.LoadPatches([]string{linktest.Documents(joinQuery)})
	if err != nil {
		t.Fatal(err)
	}

	patched, err := configpatcher.Apply(configpatcher.WithConfig(base), patches)
	if err != nil {
		t.Fatal(err)
	}

	data, err := patched.Bytes()
	if err != nil {
		t.Fatal(err)
	}

	talosconfig, err := input.Talosconfig()
	if err != nil {
		t.Fatal(err)
	}

	return data, talosconfig
}

// refuses says whether nobody listens at an address of the machine.
func refuses(address string) bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "50000"), time.Second)
	if err == nil {
		conn.Close()
	}

	return err != nil && strings.Contains(err.Error(), "connection refused")
}

// TestAMachineIsManagedFromItsFirstBootToItsReset is one story: each part needs those before it.
func TestAMachineIsManagedFromItsFirstBootToItsReset(t *testing.T) {
	j := newJoining(t)
	j.Serve()
	happened, _ := j.Receive()
	j.powerOn(linktest.Documents(joinQuery))

	maintenance := j.inMaintenance()
	if !refuses(joinedAddress) {
		t.Error("the API of maintenance mode is open to the machine's network")
	}

	if shown := j.status().SideroLink; shown != atSideroLink {
		t.Error(shown)
	}

	sendsItsStages(j, happened)
	isTakenDown(j, maintenance)
	isToldApart(j, maintenance)
	refusesAReset(j, maintenance, happened)

	data, talosconfig := managed(t)

	answer, err := maintenance.ApplyConfiguration(t.Context(), &machineapi.ApplyConfigurationRequest{Data: data, Mode: automatic})
	if err != nil || answer.Messages[0].Mode != machineapi.ApplyConfigurationRequest_NO_REBOOT {
		t.Fatal(answer, err)
	}

	// Configured it listens everywhere, for those with a certificate of the cluster's authority.
	for _, address := range []string{atSideroLink, joinedAddress} {
		own := j.dial(address, talosconfig)
		j.Until("the configured machine answers at "+address, func() bool { return j.version(own) == nil })

		if err := j.version(j.dial(address, nil)); err == nil {
			t.Error("a caller without a certificate is let in at " + address)
		}
	}

	configured := j.dial(atSideroLink, talosconfig)

	if cluster, err := safe.StateGetByID[*cluster.Config](t.Context(), configured.COSI, cluster.ConfigID); err != nil || cluster.TypedSpec().ServiceClusterID == "" {
		t.Error(cluster, err)
	}

	resets(j, configured, happened)

	again := j.inMaintenance()
	if token, err := safe.StateGetByID[*runtime.UniqueMachineToken](t.Context(), again.COSI, runtime.UniqueMachineTokenID); err != nil || token.TypedSpec().Token != "told-apart" {
		t.Error("META did not outlive the reset", token, err)
	}
}

// sendsItsStages looks for what Talos tells of a machine's first minutes, from the machine's own address.
func sendsItsStages(j *joining, happened <-chan events.Event) {
	j.Helper()

	for {
		event := linktest.Next(j.T, happened)
		if !strings.HasPrefix(event.Node, "["+atSideroLink+"]:") {
			j.Error(event.Node)
		}

		switch told := event.Payload.(type) {
		case *machineapi.SequenceEvent:
			if told.Sequence != "initialize" || told.Action != machineapi.SequenceEvent_START {
				j.Errorf("%v", told)
			}
		case *machineapi.MachineStatusEvent:
			if told.Stage == machineapi.MachineStatusEvent_MAINTENANCE {
				return
			}
		}
	}
}

// isTakenDown lists what who manages machines takes down of each.
func isTakenDown(j *joining, caller *client.Client) {
	j.Helper()

	for kind, least := range map[resource.Type]int{
		networkresource.HostnameStatusType: 1, networkresource.LinkStatusType: 3, networkresource.RouteStatusType: 1, networkresource.NodeAddressType: 3,
		hardwareresource.ProcessorType: 4, hardwareresource.MemoryModuleType: 1, hardwareresource.SystemInformationType: 1, runtime.PlatformMetadataType: 1, runtime.MetaKeyType: 0, runtime.ExtensionStatusType: 1,
		runtime.MachineStatusType: 1, runtime.DiagnosticType: 0, runtime.SecurityStateType: 1, runtime.KernelCmdlineType: 1, block.DiskType: 1, block.SystemDiskType: 1,
		linkresource.StatusType: 1, linkresource.TunnelType: 1,
	} {
		namespace := runtime.NamespaceName

		definition, err := caller.ResolveResourceKind(j.Context(), &namespace, kind)
		if err != nil {
			j.Errorf("%s: %v", kind, err)

			continue
		}

		j.Until(fmt.Sprintf("%d %s", least, kind), func() bool {
			list, err := caller.COSI.List(j.Context(), resource.NewMetadata(definition.TypedSpec().DefaultNamespace, kind, "", resource.VersionUndefined))

			return err == nil && len(list.Items) >= least
		})
	}

	system, err := safe.StateGetByID[*hardwareresource.SystemInformation](j.Context(), caller.COSI, hardwareresource.SystemInformationID)
	if err != nil || system.TypedSpec().UUID != joinedUUID {
		j.Error(system, err)
	}

	card, err := safe.StateGetByID[*networkresource.LinkStatus](j.Context(), caller.COSI, "eth0")
	if err != nil || !card.TypedSpec().Physical() || !strings.HasPrefix(fmt.Sprintf("%x", []byte(card.TypedSpec().HardwareAddr)), "005056") {
		j.Error(card, err)
	}

	for id, has := range map[resource.ID]bool{networkresource.NodeAddressCurrentID: true, networkresource.NodeAddressRoutedID: false} {
		addresses, err := safe.StateGetByID[*networkresource.NodeAddress](j.Context(), caller.COSI, id)
		if err != nil || slices.Contains(addresses.TypedSpec().IPs(), netip.MustParseAddr(atSideroLink)) != has {
			j.Error(id, addresses, err)
		}
	}

	disks, err := caller.Disks(j.Context())
	if err != nil || len(disks.Messages[0].Disks) != 1 {
		j.Error(disks, err)
	}
}

// isToldApart writes a token into the machine's META, by which it asks for its place again.
func isToldApart(j *joining, caller *client.Client) {
	j.Helper()

	before := j.Peers()

	if err := caller.MetaWrite(j.Context(), talosmeta.UniqueMachineToken, []byte("told-apart")); err != nil {
		j.Fatal(err)
	}

	if err := caller.MetaWrite(j.Context(), talosmeta.UserReserved1, []byte("x")); err != nil {
		j.Fatal(err)
	}

	if err := caller.MetaDelete(j.Context(), talosmeta.UserReserved1); err != nil {
		j.Fatal(err)
	}

	if err := caller.MetaDelete(j.Context(), talosmeta.UserReserved1); client.StatusCode(err) != codes.NotFound {
		j.Error(err)
	}

	j.Until("the machine asks for its place again", func() bool { return j.Peers() > before })
	j.Until("the machine answers again", func() bool { return j.version(caller) == nil })
}

// refusesAReset is what Talos does while it waits for a configuration.
func refusesAReset(j *joining, caller *client.Client, happened <-chan events.Event) {
	j.Helper()

	if err := caller.ResetGeneric(j.Context(), &machineapi.ResetRequest{Reboot: true}); err != nil {
		j.Fatal(err)
	}

	for {
		told, ok := linktest.Next(j.T, happened).Payload.(*machineapi.SequenceEvent)
		if ok && told.Sequence == "reset" {
			if told.GetError().GetMessage() != "sequence not started: locked" {
				j.Error(told)
			}

			return
		}
	}
}

// resets wipes what a machine has of its cluster, as who manages it does when it takes it out.
func resets(j *joining, caller *client.Client, happened <-chan events.Event) {
	j.Helper()

	request := &machineapi.ResetRequest{Reboot: true, SystemPartitionsToWipe: []*machineapi.ResetPartitionSpec{
		{Label: "STATE", Wipe: true}, {Label: "EPHEMERAL", Wipe: true},
	}}

	j.Until("the machine is reset", func() bool { return caller.ResetGeneric(j.Context(), request) == nil })
	j.Until("the machine went", func() bool { return j.status().SideroLink == "" })

	for { // what it has said before it went
		if told, ok := linktest.Next(j.T, happened).Payload.(*machineapi.MachineStatusEvent); ok && told.Stage == machineapi.MachineStatusEvent_RESETTING {
			return
		}
	}
}

func TestAMachineInMaintenanceJoinsWhenTheDocumentsAreAppliedToIt(t *testing.T) {
	j := newJoining(t)
	j.Serve()
	j.powerOn("")

	near := j.dial(joinedAddress, nil)
	j.Until("the machine answers everybody", func() bool { return j.version(near) == nil })

	// Who is not at SideroLink may read, and apply.
	if err := near.MetaWrite(t.Context(), talosmeta.UniqueMachineToken, []byte("x")); client.StatusCode(err) != codes.PermissionDenied {
		t.Error(err)
	}

	if _, err := near.ApplyConfiguration(t.Context(), &machineapi.ApplyConfigurationRequest{Data: []byte(linktest.Documents(joinQuery)), Mode: automatic}); err != nil {
		t.Fatal(err)
	}

	j.inMaintenance()
	j.Until("nobody else is answered", func() bool { return refuses(joinedAddress) })
}

func TestAMachineJoinsOverTLSWhomItTrusts(t *testing.T) {
	authority, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}

	host, _, err := net.SplitHostPort(linktest.API)
	if err != nil {
		t.Fatal(err)
	}

	pair, err := authority.Server(host, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}

	j := newJoining(t)
	j.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	j.Serve()

	secure := strings.Replace(linktest.Documents(joinQuery), "grpc://", "https://", 1)
	j.powerOn(secure)
	j.Until("the machine's refusal", func() bool { return j.log.has("certificate signed by unknown authority") })
	j.fleet.Destroy(joinedID)

	trusted := "---\napiVersion: v1alpha1\nkind: TrustedRootsConfig\nname: company\ncertificates: |\n  " +
		strings.ReplaceAll(strings.TrimSpace(string(authority.PEM())), "\n", "\n  ") + "\n"
	j.powerOn(secure + trusted)
	j.inMaintenance()
}

func TestAMachineThatIsRefusedAnswersNobody(t *testing.T) {
	j := newJoining(t)
	j.Serve()
	j.powerOn(linktest.Documents("jointoken=wrong&grpc_tunnel=true"))
	j.Until("the refusal", func() bool { return j.log.has("code = PermissionDenied desc = invalid join token") })

	if !refuses(joinedAddress) || j.status().SideroLink != "" || j.Peers() > 0 {
		t.Errorf("%+v", j.status())
	}
}
