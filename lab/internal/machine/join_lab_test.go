//go:build lab

package machine

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"
	"google.golang.org/grpc/codes"

	"platform.lab/lab/internal/siderolink/linktest"
)

// fromAfar is who manages the one machine of a world by SideroLink.
type fromAfar struct {
	*world

	site *linktest.Site
	// caller is a client with the cluster's certificate, stranger one without.
	caller, stranger *client.Client
	configuration    []byte
	snapshot         []byte
}

// TestAClusterIsManagedBySideroLinkAlone is one story: what Omni calls on a machine, at its address at SideroLink, from its first
// configuration to its second life from a snapshot.
func TestAClusterIsManagedBySideroLinkAlone(t *testing.T) {
	vm := (&world{}).hardware(1)
	vm.GuestInfo["guestinfo.talos.config"] = base64.StdEncoding.EncodeToString([]byte(linktest.Documents(joinQuery)))

	site := linktest.NewSite(t, map[string]netip.Addr{vm.SystemUUID(): netip.MustParseAddr(atSideroLink)})
	a := &fromAfar{world: newWorldOn(t, site.Bridge), site: site}
	site.Serve()
	a.fleet.PowerOn(vm)

	a.stranger = a.dial(client.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}))

	talosconfig, err := clientconfig.Open(filepath.Join(a.folder, "talosconfig"))
	if err != nil {
		t.Fatal(err)
	}

	a.caller = a.dial(client.WithConfig(talosconfig))

	if a.configuration, err = os.ReadFile(a.config(1, machinetype.TypeControlPlane, linktest.Documents(joinQuery))); err != nil {
		t.Fatal(err)
	}

	a.tell(
		chapter{"a control plane comes up from the configuration that is applied at SideroLink", func(*world) { a.comesUp(&machineapi.BootstrapRequest{}) }},
		chapter{"its API server answers there, and its certificate names the address", func(*world) { a.servesKubernetes() }},
		chapter{"its etcd, its files and its images are looked at", func(*world) { a.isLookedAt() }},
		chapter{"its etcd is backed up", func(*world) { a.isBackedUp() }},
		chapter{"an upgrade brings it back with the other version", func(*world) { a.isUpgraded() }},
		chapter{"a reset brings it back into maintenance mode", func(*world) { a.isReset() }},
		chapter{"it comes up again from the snapshot", func(*world) { a.comesUpAgain() }},
	)
}

func (a *fromAfar) dial(option client.OptionFunc) *client.Client {
	a.Helper()

	made, err := client.New(a.Context(), client.WithEndpoints(atSideroLink), option)
	if err != nil {
		a.Fatal(err)
	}

	a.Cleanup(func() { made.Close() })

	return made
}

func (a *fromAfar) comesUp(request *machineapi.BootstrapRequest) {
	a.until("the machine waits for a configuration", func() bool {
		_, err := a.stranger.Version(a.Context())

		return err == nil && a.status(1).Stage == "maintenance"
	})

	if _, err := a.stranger.ApplyConfiguration(a.Context(), &machineapi.ApplyConfigurationRequest{Data: a.configuration, Mode: automatic}); err != nil {
		a.Fatal(err)
	}

	a.until("the configured machine answers", func() bool {
		_, err := a.caller.Version(a.Context())

		return err == nil
	})

	if request.RecoverEtcd {
		a.until("the snapshot is taken", func() bool {
			_, err := a.caller.EtcdRecover(a.Context(), bytes.NewReader(a.snapshot))

			return err == nil
		})
	}

	a.until("bootstrap is possible", func() bool { return a.caller.Bootstrap(a.Context(), request) == nil })
	a.until("the control plane runs", func() bool { return a.planeReady(1) })
}

func (a *fromAfar) servesKubernetes() {
	var conn *tls.Conn

	a.until("the API server answers", func() bool {
		var err error
		conn, err = tls.Dial("tcp", net.JoinHostPort(atSideroLink, "6443"), &tls.Config{InsecureSkipVerify: true})

		return err == nil
	})
	defer conn.Close()

	if err := conn.ConnectionState().PeerCertificates[0].VerifyHostname(atSideroLink); err != nil {
		a.Error(err)
	}
}

func (a *fromAfar) isLookedAt() {
	members, err := a.caller.EtcdMemberList(a.Context(), &machineapi.EtcdMemberListRequest{})
	if err != nil || len(members.Messages[0].Members) != 1 {
		a.Error(members, err)
	}

	if _, err := a.caller.EtcdStatus(a.Context()); err != nil {
		a.Error(err)
	}

	services, err := a.caller.ServiceInfo(a.Context(), "etcd")
	if err != nil || len(services) != 1 || !services[0].Service.Health.Healthy {
		a.Error(services, err)
	}

	_, err = a.caller.EtcdForfeitLeadership(a.Context(), &machineapi.EtcdForfeitLeadershipRequest{})
	if err == nil || !strings.Contains(err.Error(), "cannot forfeit leadership, only one member") {
		a.Error(err)
	}

	files, err := a.caller.LS(a.Context(), &machineapi.ListRequest{Root: "/var/lib/etcd/member", Recurse: true})
	if err != nil {
		a.Fatal(err)
	}

	if found := counted(a, files.Recv); found < 3 {
		a.Error(found)
	}

	images, err := a.caller.ImageList(a.Context(), common.ContainerdNamespace_NS_CRI) //nolint:staticcheck // what Omni 1.9 calls
	if err != nil {
		a.Fatal(err)
	}

	if found := counted(a, images.Recv); found < 1 {
		a.Error(found)
	}

	err = a.caller.ImagePull(a.Context(), common.ContainerdNamespace_NS_CRI, "registry.k8s.io/kube-apiserver:v1.0.0") //nolint:staticcheck // what Omni 1.9 calls
	if client.StatusCode(err) != codes.NotFound {
		a.Error(err)
	}

	same, err := a.caller.ApplyConfiguration(a.Context(), &machineapi.ApplyConfigurationRequest{Data: a.configuration, Mode: automatic})
	if err != nil || same.Messages[0].Mode != machineapi.ApplyConfigurationRequest_NO_REBOOT {
		a.Error(same, err)
	}
}

// counted reads a stream to its end.
func counted[T any](a *fromAfar, receive func() (T, error)) int {
	a.Helper()

	for found := 0; ; found++ {
		if _, err := receive(); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			a.Fatal(err)
		}
	}
}

func (a *fromAfar) isBackedUp() {
	reader, err := a.caller.EtcdSnapshot(a.Context(), &machineapi.EtcdSnapshotRequest{})
	if err != nil {
		a.Fatal(err)
	}
	defer reader.Close()

	if a.snapshot, err = io.ReadAll(reader); err != nil || len(a.snapshot) == 0 {
		a.Fatal(len(a.snapshot), err)
	}
}

func (a *fromAfar) isUpgraded() {
	if _, err := a.caller.UpgradeWithOptions(a.Context(), client.WithUpgradeImage("factory.example/vmware-installer/0000:v1.13.10")); err != nil { //nolint:staticcheck // what Omni 1.9 calls
		a.Fatal(err)
	}

	a.until("the other version answers", func() bool {
		answer, err := a.caller.Version(a.Context())

		return err == nil && answer.Messages[0].Version.Tag == "v1.13.10"
	})
	a.until("the control plane runs", func() bool { return a.planeReady(1) })
}

func (a *fromAfar) isReset() {
	err := a.caller.ResetGeneric(a.Context(), &machineapi.ResetRequest{Reboot: true, SystemPartitionsToWipe: []*machineapi.ResetPartitionSpec{
		{Label: "STATE", Wipe: true}, {Label: "EPHEMERAL", Wipe: true},
	}})
	if err != nil {
		a.Fatal(err)
	}

	a.until("the machine is in maintenance mode", func() bool { return a.status(1).Stage == "maintenance" })
}

func (a *fromAfar) comesUpAgain() { a.comesUp(&machineapi.BootstrapRequest{RecoverEtcd: true}) }
