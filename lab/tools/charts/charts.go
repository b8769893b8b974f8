// Package charts names a small package of each module whose folder holds a Helm chart, or the
// definitions that a chart carries. Nothing of them runs: `go mod tidy` keeps a module only when
// a package of it is imported, and go.sum then needs no more than these modules' own lines.
package charts

import (
	_ "github.com/argoproj/argo-cd/v3/util/hash"           // manifests/crds
	_ "github.com/cert-manager/cert-manager/pkg/apis/acme" // deploy/charts/cert-manager
	_ "github.com/cilium/cilium/pkg/time"                  // install/kubernetes/cilium, pkg/k8s/apis/cilium.io/client/crds
	_ "github.com/traefik/traefik/v3/pkg/observability"    // docs/content/reference/dynamic-configuration
	_ "go.universe.tf/metallb/api"                         // charts/metallb
	_ "sigs.k8s.io/metrics-server/pkg/utils"               // charts/metrics-server
)
