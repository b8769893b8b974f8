package main

import (
	"time"

	"github.com/spf13/pflag"
)

// metricsAddress is where both programs serve their metrics.
const metricsAddress = "0.0.0.0:9402"

// election is how replicas agree on the one that works. The defaults are cert-manager's
// (internal/apis/config/shared/v1alpha1).
type election struct {
	enabled             bool
	namespace           string
	lease, renew, retry time.Duration
}

func (e *election) add(set *pflag.FlagSet) {
	set.BoolVar(&e.enabled, "leader-elect", true, "whether replicas elect the one that works")
	set.StringVar(&e.namespace, "leader-election-namespace", "kube-system", "the namespace of the election's lease")
	set.DurationVar(&e.lease, "leader-election-lease-duration", time.Minute, "how long a lease holds that is not renewed")
	set.DurationVar(&e.renew, "leader-election-renew-deadline", 40*time.Second, "how long the leader tries to renew it")
	set.DurationVar(&e.retry, "leader-election-retry-period", 15*time.Second, "the pause between two tries")
}
