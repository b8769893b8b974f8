package talosapi

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// errNotAuthorized is Talos' answer to a caller without a role for the call.
var errNotAuthorized = status.Error(codes.PermissionDenied, "not authorized")

// allowedFor says which roles may call which methods of machined (Talos 1.13.9, system/services/machined.go).
// A method that is not named is for administrators only.
var allowedFor = []struct {
	roles   role.Set
	service string
	methods []string
}{
	// ApplyConfiguration is open to readers in maintenance mode only; its handler checks that.
	{readers, "machine.MachineService", []string{
		"ApplyConfiguration", "CPUInfo", "CPUFreqStats", "Containers", "DiskStats", "DiskUsage", "Dmesg", "Events", "Hostname",
		"ImageList", "List", "LoadAvg", "Logs", "LogsContainers", "Memory", "Mounts", "NetworkDeviceStats", "Netstat", "Processes",
		"ServiceList", "Stats", "SystemStat", "Version",
	}},
	{role.MakeSet(role.Admin, role.Operator, role.Reader, role.EtcdBackup), "machine.MachineService", []string{
		"EtcdAlarmList", "EtcdMemberList", "EtcdStatus",
	}},
	{role.MakeSet(role.Admin, role.Operator, role.EtcdBackup), "machine.MachineService", []string{"EtcdSnapshot"}},
	{role.MakeSet(role.Admin, role.Operator), "machine.MachineService", []string{
		"EtcdAlarmDisarm", "EtcdDefragment", "ImagePull", "PacketCapture", "Reboot", "Restart", "ServiceRestart", "ServiceStart",
		"ServiceStop", "Shutdown",
	}},
	{role.MakeSet(role.Admin, role.MetaWriter), "machine.MachineService", []string{"MetaDelete", "MetaWrite"}},
	{readers, "cluster.ClusterService", []string{"HealthCheck"}},
	{readers, "cosi.resource.State", []string{"Get", "List", "Watch"}},
	{readers, "storage.StorageService", []string{"Disks"}},
	{readers, "time.TimeService", []string{"Time", "TimeCheck"}},
	{readers, "inspect.InspectService", []string{"ControllerRuntimeDependencies"}},
}

var readers = role.MakeSet(role.Admin, role.Operator, role.Reader)

// authorize checks a caller's roles against a gRPC method "/package.Service/Method".
func authorize(method string, roles role.Set) error {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")

	for _, rule := range allowedFor {
		if rule.service != service {
			continue
		}

		for _, candidate := range rule.methods {
			if candidate == name {
				if rule.roles.IncludesAny(roles) {
					return nil
				}

				return errNotAuthorized
			}
		}
	}

	if roles.Includes(role.Admin) {
		return nil
	}

	return errNotAuthorized
}

type rolesKey struct{}

// rolesOf are the roles of the caller of an API call.
func rolesOf(ctx context.Context) role.Set {
	roles, _ := ctx.Value(rolesKey{}).(role.Set)

	return roles
}

// roles are those of a caller. Maintenance mode knows no certificates: a caller at SideroLink, which only the server can be, is
// an administrator, everybody else a reader (Talos 1.13.9, pkg/grpc/middleware/authz/injector.go).
func (a *server) roles(ctx context.Context) role.Set {
	if a.maintenance && isAtSideroLink(ctx) {
		return role.MakeSet(role.Admin)
	}

	return callerRoles(ctx)
}

func isAtSideroLink(ctx context.Context) bool {
	caller, ok := peer.FromContext(ctx)
	if !ok || caller.Addr == nil {
		return false
	}

	from, err := netip.ParseAddrPort(caller.Addr.String())

	return err == nil && network.IsULA(from.Addr(), network.ULASideroLink)
}

// callerRoles reads the roles from the client certificate's organizations; a caller without a certificate,
// whom only maintenance mode lets in, is a reader.
func callerRoles(ctx context.Context) role.Set {
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return role.Set{}
	}

	info, ok := caller.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return role.MakeSet(role.Reader)
	}

	roles, _ := role.Parse(info.State.PeerCertificates[0].Subject.Organization)

	return roles
}

// accessPolicy is Talos' rule for resources (internal/app/resources): nobody writes, and what is sensitive is
// for administrators.
func accessPolicy(resources state.State) state.FilteringRule {
	return func(ctx context.Context, access state.Access) error {
		if !access.Verb.Readonly() {
			return status.Error(codes.PermissionDenied, "write access is not allowed")
		}

		definition, err := safe.StateGet[*meta.ResourceDefinition](ctx, resources,
			resource.NewMetadata(meta.NamespaceName, meta.ResourceDefinitionType, strings.ToLower(access.ResourceType), resource.VersionUndefined))
		if state.IsNotFoundError(err) {
			return status.Error(codes.PermissionDenied, fmt.Sprintf("resource type %q is not supported", access.ResourceType))
		} else if err != nil {
			return err
		}

		if definition.TypedSpec().Sensitivity == meta.Sensitive && !rolesOf(ctx).Includes(role.Admin) {
			return errNotAuthorized
		}

		return nil
	}
}
