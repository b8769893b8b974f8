package talosapi

import (
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/role"
)

func TestRolesMayDoWhatTalosLetsThemDo(t *testing.T) {
	const service = "/machine.MachineService/"

	for _, c := range []struct {
		method  string
		role    role.Role
		allowed bool
	}{
		{service + "Version", role.Reader, true},
		{service + "Version", role.EtcdBackup, false},
		{service + "ApplyConfiguration", role.Reader, true},
		{service + "ApplyConfiguration", role.Operator, true},
		{service + "Bootstrap", role.Reader, false},
		{service + "Bootstrap", role.Operator, false},
		{service + "Bootstrap", role.Admin, true},
		{service + "Kubeconfig", role.Operator, false},
		{service + "Read", role.Operator, false},
		{service + "Reboot", role.Operator, true},
		{service + "Reboot", role.Reader, false},
		{service + "Reset", role.Operator, false},
		{service + "EtcdMemberList", role.EtcdBackup, true},
		{service + "EtcdSnapshot", role.EtcdBackup, true},
		{service + "EtcdSnapshot", role.Reader, false},
		{service + "EtcdRecover", role.Operator, false},
		{"/storage.StorageService/Disks", role.Reader, true},
		{"/cosi.resource.State/Get", role.Reader, true},
		{"/cosi.resource.State/Update", role.Operator, false},
		{"/machine.LifecycleService/Upgrade", role.Operator, false},
		{"/machine.LifecycleService/Upgrade", role.Admin, true},
		{"/unknown.Service/Method", role.Reader, false},
	} {
		if err := authorize(c.method, role.MakeSet(c.role)); (err == nil) != c.allowed {
			t.Errorf("%s calls %s: %v", c.role, c.method, err)
		}
	}
}
