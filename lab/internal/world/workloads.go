package world

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"slices"

	"platform.lab/lab/internal/datapath"
	"platform.lab/lab/internal/machine"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/workloads"
)

// onCluster runs what answers on a cluster for pods that KWOK only simulates.
func onCluster(
	l Layout, spec *Spec, bridge *network.Bridge, paths *datapath.Machines, authority *pki.Authority,
	forward func(netip.Addr, []network.Balanced) error, log *slog.Logger,
) func(context.Context, machine.Cluster) {
	flows := workloads.NewFlows(l.Root)
	return func(ctx context.Context, cluster machine.Cluster) {
		err := workloads.Run(ctx, workloads.Cluster(cluster), workloads.Options{
			Bin: spec.Bin, Images: spec.images(), DataPath: paths, Flows: flows, Forward: forward, Dir: l.path("workloads"), Links: workloads.KernelLinks(bridge), Authority: authority, Log: log,
			Resolve: func(name string) (netip.Addr, bool) {
				address, known := spec.names()[name]
				return address, known
			},
		})
		if err != nil && ctx.Err() == nil {
			log.Error("nothing answers on the cluster", "cluster", cluster.Name, "error", err)
		}
	}
}

// writeParts leaves the list of what the workloads simulate, for a run's summary.
func writeParts(l Layout, spec *Spec) error {
	parts := slices.Concat(
		workloads.Parts(programs.DescribedImages(spec.Bin, spec.images())), spec.issuanceParts(), spec.storageParts(),
		spec.statusParts(), spec.alertParts(), spec.omniParts(),
	)
	text, err := json.MarshalIndent(parts, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(l.Workloads(), text, 0o644)
}
