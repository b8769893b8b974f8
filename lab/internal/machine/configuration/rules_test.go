package configuration

import (
	"strings"
	"testing"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"

	"platform.lab/lab/internal/machine/configtest"
)

func TestTheseChangesNeedNoReboot(t *testing.T) {
	base := configtest.Base(t)

	for name, patch := range map[string]string{
		"nothing":       `debug: false`,
		"cluster":       `cluster: {apiServer: {extraArgs: {v: "2"}}}`,
		"firewall":      "apiVersion: v1alpha1\nkind: NetworkDefaultActionConfig\ningress: block\n",
		"install":       `machine: {install: {image: "factory.example/installer/0000:v1.13.10"}}`,
		"node label":    `machine: {nodeLabels: {rack: one}}`,
		"node taint":    `machine: {nodeTaints: {rack: "one:NoSchedule"}}`,
		"sysctl":        `machine: {sysctls: {vm.max_map_count: "262144"}}`,
		"kubelet":       `machine: {kubelet: {extraArgs: {v: "2"}}}`,
		"certSANs":      `machine: {certSANs: [172.16.20.250]}`,
		"KubePrism":     `machine: {features: {kubePrism: {enabled: true, port: 7446}}}`,
		"pods":          `machine: {pods: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]}`,
		"debug":         `debug: true`,
		"VIP document":  "apiVersion: v1alpha1\nkind: Layer2VIPConfig\nname: 172.16.20.250\nlink: eth0\n",
		"Talos API use": `machine: {features: {kubernetesTalosAPIAccess: {enabled: true, allowedRoles: ["os:etcd:backup"], allowedKubernetesNamespaces: [backup]}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := canApplyImmediate(base, configtest.Patched(t, base, patch)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheseChangesNeedAReboot(t *testing.T) {
	base := configtest.Base(t)

	for name, patch := range map[string]string{
		"udev":       `machine: {udev: {rules: ["SUBSYSTEM==\"net\""]}}`,
		"files":      `machine: {files: [{content: a, permissions: 0o600, path: /var/a, op: create}]}`,
		"disk quota": `machine: {features: {diskQuotaSupport: false}}`,
		"token":      `machine: {token: abcdef.0123456789abcdef}`,
	} {
		t.Run(name, func(t *testing.T) {
			err := canApplyImmediate(base, configtest.Patched(t, base, patch))
			if err == nil || !strings.HasPrefix(err.Error(), "this config change can't be applied in immediate mode\ndiff:\n") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTheModeIsChosenAsTalosDoes(t *testing.T) {
	base := configtest.Base(t)
	live := configtest.Patched(t, base, `machine: {nodeLabels: {rack: one}}`)
	reboot := configtest.Patched(t, base, `machine: {udev: {rules: ["SUBSYSTEM==\"net\""]}}`)

	const (
		auto     = machineapi.ApplyConfigurationRequest_AUTO
		noReboot = machineapi.ApplyConfigurationRequest_NO_REBOOT
		yes      = machineapi.ApplyConfigurationRequest_REBOOT
		staged   = machineapi.ApplyConfigurationRequest_STAGED
		try      = machineapi.ApplyConfigurationRequest_TRY
	)

	for _, c := range []struct {
		name        string
		mode        machineapi.ApplyConfigurationRequest_Mode
		next        config.Provider
		maintenance bool
		want        machineapi.ApplyConfigurationRequest_Mode
		details     string
		refused     bool
	}{
		{"auto, live", auto, live, false, noReboot, "Applied configuration without a reboot", false},
		{"auto, reboot", auto, reboot, false, yes, "Applied configuration with a reboot", false},
		{"no-reboot, live", noReboot, live, false, noReboot, "Applied configuration without a reboot", false},
		{"no-reboot, reboot", noReboot, reboot, false, noReboot, "", true},
		{"try, reboot", try, reboot, false, try, "", true},
		{"staged, reboot", staged, reboot, false, staged, "Staged configuration to be applied after the next reboot", false},
		{"reboot, live", yes, live, false, yes, "Applied configuration with a reboot", false},
		{"reboot in maintenance mode", yes, live, true, noReboot, "Applied configuration without a reboot", false},
		{"auto in maintenance mode", auto, reboot, true, noReboot, "Applied configuration without a reboot", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			active := &Active{}
			if !c.maintenance {
				active.Set(base)
			}

			mode, details, _, err := active.ChooseMode(c.mode, c.next, c.maintenance)
			if (err != nil) != c.refused {
				t.Fatalf("error %v", err)
			}

			if mode != c.want || !c.refused && details != c.details {
				t.Errorf("mode %s, %q", mode, details)
			}
		})
	}
}

func TestTheVersionIsTheTagOfTheImage(t *testing.T) {
	for image, want := range map[string]string{
		"ghcr.example/siderolabs/kubelet:v1.34.1":               "v1.34.1",
		"registry.example:5000/kubelet:v1.34.1@sha256:01234567": "v1.34.1",
	} {
		if got := ImageTag(image); got != want {
			t.Errorf("%s: %s", image, got)
		}
	}
}
