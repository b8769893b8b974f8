module platform.lab/tools/charts

go 1.26.0

require (
	github.com/argoproj/argo-cd/v3 v3.4.4
	github.com/cert-manager/cert-manager v1.21.1
	github.com/cilium/cilium v1.19.6
	github.com/traefik/traefik/v3 v3.6.15
	go.universe.tf/metallb v0.16.1
)
