package world

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"platform.lab/lab/internal/charts"
	"platform.lab/lab/internal/vcenter"
)

// Faults that a run can ask for, to see the real errors of bad requests and dead parts.
const (
	FaultCertificate = "vcenter-certificate-expired"
	FaultAuthority   = "vcenter-certificate-unknown"
	FaultVcenter     = "vcenter-down"
	FaultPassword    = "vcenter-password"
	FaultDatacenter  = "datacenter-missing"
	FaultCluster     = "cluster-missing"
	FaultPool        = "resource-pool-missing"
	FaultDatastore   = "datastore-missing"
	FaultNetwork     = "network-missing"
	FaultPolicy      = "storage-policy-missing"
	FaultFactory     = "factory-down"
	FaultCharts      = "charts-down"
	FaultImage       = "image-missing"
	FaultChart       = "chart-missing"
	FaultPrivilege   = "privilege-missing"
	FaultFull        = "datastore-full"
	FaultToken       = "dns-token-refused"
	faultSilent      = "machine-silent="       // and a machine's name
	faultDead        = "talos-does-not-start=" // and a version, such as v1.13.10, or a schematic
)

var faults = []string{
	FaultCertificate, FaultAuthority, FaultVcenter, FaultPassword, FaultDatacenter, FaultCluster, FaultPool, FaultDatastore,
	FaultNetwork, FaultPolicy, FaultFactory, FaultCharts, FaultImage, FaultChart, FaultPrivilege, FaultFull, FaultToken,
}

// CheckFaults refuses a fault that the lab does not know.
func CheckFaults(given []string) error {
	for _, f := range given {
		if !slices.Contains(faults, f) && !strings.HasPrefix(f, faultSilent) && !strings.HasPrefix(f, faultDead) {
			return fmt.Errorf("--fault %s: the lab knows %s, %sNAME and %sVERSION", f, strings.Join(faults, ", "), faultSilent, faultDead)
		}
	}
	return nil
}

func (o Options) has(fault string) bool { return slices.Contains(o.Faults, fault) }

// named gives an object another name where a fault says that it is missing.
func (o Options) named(fault, name string) string {
	if o.has(fault) {
		return "another-" + name
	}
	return name
}

func (o Options) certificateEnd() time.Time {
	if o.has(FaultCertificate) {
		return time.Now().Add(-time.Hour)
	}
	return time.Now().Add(validity)
}

// versions are those of Talos that the image factory makes images of: that of the settings and its neighbours. Images are
// simulated: whether Talos has published a version does not matter to a machine that is simulated, too.
func (o Options) versions(wanted string) []string {
	if o.has(FaultImage) {
		return []string{"1.0.0"}
	}
	var major, minor, patch int
	if n, _ := fmt.Sscanf(wanted, "%d.%d.%d", &major, &minor, &patch); n < 3 {
		return []string{wanted}
	}
	out := []string{wanted}
	for _, near := range [][2]int{
		{minor - 1, 8}, {minor, patch - 1}, {minor, patch + 1}, {minor, patch + 2}, {minor + 1, 0}, {minor + 1, 1},
	} {
		if near[0] >= 0 && near[1] >= 0 {
			out = append(out, fmt.Sprintf("%d.%d.%d", major, near[0], near[1]))
		}
	}
	slices.SortFunc(out, func(a, b string) int { return semver.Compare("v"+a, "v"+b) })
	return out
}

// repositories serve charts, and with the fault list versions that nobody asks for.
func (o Options) repositories(bin, published string) (http.Handler, error) {
	if o.has(FaultChart) {
		return charts.OutdatedHandler(bin)
	}
	return charts.Handler(bin, published)
}

// refuse lets vCenter refuse what makes machines, in its own words.
func (o Options) refuse(center *vcenter.VCenter, datastore string) {
	if o.has(FaultPrivilege) {
		for _, method := range []string{"CreateFolder", "ImportVApp", "CloneVM_Task", "ReconfigureComputeResource_Task"} {
			center.AddFault(vcenter.Fault{Method: method, Message: "Permission to perform this operation was denied."})
		}
	}
	if o.has(FaultFull) {
		message := fmt.Sprintf("Insufficient disk space on datastore '%s'.", datastore)
		center.AddFault(vcenter.Fault{Method: "ImportVApp", Message: message})
		center.AddFault(vcenter.Fault{Method: "CloneVM_Task", Message: message})
	}
}

// faultFiles tells the machines what is wrong with them. A test can do the same while they run: it makes and removes the files.
func faultFiles(l Layout, o Options) error {
	for prefix, name := range map[string]string{
		faultSilent: "unreachable",    // machines that are powered on and never answer
		faultDead:   "does-not-start", // images of Talos
	} {
		folder := filepath.Join(l.Machines(), name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		for _, f := range o.Faults {
			if of, ok := strings.CutPrefix(f, prefix); ok {
				if err := os.WriteFile(filepath.Join(folder, filepath.Base(of)), nil, 0o600); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
