package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"helm.sh/helm/v3/pkg/chartutil"

	"platform.lab/lab/internal/charts"
	"platform.lab/lab/internal/programs"
)

// chartFlags are those of every command that reads the cache folder of real chart packages.
func chartFlags(c *cobra.Command, o *options) {
	c.Flags().StringVar(&o.charts, "charts", envOr("LAB_CHARTS", filepath.Join(".lab", "charts")),
		"folder of real chart packages; what lies in it wins over all others")
}

// bin is the folder of this binary, in which the built programs and charts lie.
func bin() (string, error) {
	self, err := os.Executable()
	return filepath.Dir(self), err
}

func chartsCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use: "charts [NAME@VERSION ...]", Short: "Pull the real chart packages from their repositories (needs internet); `lab build` takes them then",
		RunE: func(_ *cobra.Command, args []string) error {
			bin, err := bin()
			if err != nil {
				return err
			}
			var wanted []charts.Wanted
			for _, text := range args {
				w, err := charts.ParseWanted(text)
				if err != nil {
					return err
				}
				wanted = append(wanted, w)
			}
			if len(wanted) == 0 {
				if wanted, err = charts.Built(bin); err != nil {
					return err
				}
			}
			return charts.Pull(o.charts, wanted, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
		},
	}
	chartFlags(c, o)
	return c
}

func renderCommand(o *options) *cobra.Command {
	r := charts.Request{}
	c := &cobra.Command{
		Use: "render CHART", Short: "Render a chart offline, as Helm would apply it, to YAML", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			if r.Bin, err = bin(); err != nil {
				return err
			}
			r.Chart, r.Cache = args[0], o.charts
			if r.Release == "" {
				r.Release = r.Chart
			}
			if r.KubeVersion == "" {
				r.KubeVersion = kubeVersion(r.Bin)
			}
			return charts.Render(r, os.Stdout)
		},
	}
	f := c.Flags()
	f.StringVar(&r.Version, "version", "", "version of the chart (default: the one that was built)")
	f.StringVarP(&r.Namespace, "namespace", "n", "default", "namespace of the release")
	f.StringVar(&r.Release, "release", "", "name of the release (default: the chart's)")
	f.StringArrayVarP(&r.Values, "values", "f", nil, "file of values, - for standard input; the last one wins")
	f.StringVar(&r.KubeVersion, "kube-version", "", "Kubernetes version (default: the lab's)")
	f.StringArrayVar(&r.APIVersions, "api-versions", nil, "a further API that the cluster is taken to serve, as monitoring.coreos.com/v1")
	f.BoolVar(&r.IncludeCRDs, "include-crds", false, "with what lies in the chart's crds folder")
	chartFlags(c, o)
	return c
}

// kubeVersion is that of the lab's API server, or Helm's own default before it is built.
func kubeVersion(bin string) string {
	if v := programs.Version(bin, "kube-apiserver"); v != "" {
		return v
	}
	return chartutil.DefaultCapabilities.KubeVersion.Version
}
