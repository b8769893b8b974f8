// Package gatewayapi names a small package of the module whose folder holds the definitions of
// the Gateway API, so that `go mod tidy` keeps it. The module stands alone: others (cert-manager)
// ask for a newer one than the platform installs.
package gatewayapi

import _ "sigs.k8s.io/gateway-api/pkg/consts" // config/crd/standard
