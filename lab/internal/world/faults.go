package world

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Faults that a run can ask for, to see the real errors of bad requests and dead parts.
const (
	FaultCertificate = "vcenter-certificate-expired"
	FaultPassword    = "vcenter-password"
	FaultDatastore   = "datastore-missing"
	faultSilent      = "machine-silent=" // and a machine's name
)

// CheckFaults refuses a fault that the lab does not know.
func CheckFaults(given []string) error {
	for _, f := range given {
		if f != FaultCertificate && f != FaultPassword && f != FaultDatastore && !strings.HasPrefix(f, faultSilent) {
			return fmt.Errorf("--fault %s: the lab knows %s, %s, %s and %sNAME", f, FaultCertificate, FaultPassword, FaultDatastore, faultSilent)
		}
	}
	return nil
}

func (o Options) has(fault string) bool { return slices.Contains(o.Faults, fault) }

func (o Options) certificateEnd() time.Time {
	if o.has(FaultCertificate) {
		return time.Now().Add(-time.Hour)
	}
	return time.Now().Add(validity)
}

// pullCables cuts the machines off that a fault names: they are powered on and never answer.
func pullCables(l Layout, o Options) error {
	folder := filepath.Join(l.Machines(), "unreachable")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	for _, f := range o.Faults {
		if name, ok := strings.CutPrefix(f, faultSilent); ok {
			if err := os.WriteFile(filepath.Join(folder, filepath.Base(name)), nil, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
