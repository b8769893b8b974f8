package workloads

import (
	"context"
	"fmt"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	ciliumConfig = "cilium-config"
	kubeDNS      = "kube-dns"
)

// resolves says why a pod cannot look up the host of a URL outside the cluster; nil when it can. It cannot when
// Talos has CoreDNS forward to the machine (forwardKubeDNSToHost) while Cilium masquerades and routes in eBPF:
// CoreDNS' question reaches the machine, the answer never comes back (Cilium's page for Talos Linux).
func (c *cluster) resolves(ctx context.Context, address string) error {
	if c.forwardsDNS == nil || !c.forwardsDNS() {
		return nil
	}

	config, err := c.client.CoreV1().ConfigMaps(ciliumSystemNamespace).Get(ctx, ciliumConfig, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}

	if err != nil {
		return err
	}

	if config.Data["enable-bpf-masquerade"] != "true" || config.Data["enable-host-legacy-routing"] == "true" {
		return nil
	}

	server := "10.96.0.10"

	service, err := c.client.CoreV1().Services(ciliumSystemNamespace).Get(ctx, kubeDNS, metav1.GetOptions{})
	if err == nil {
		server = service.Spec.ClusterIP
	}

	host := address
	if parsed, err := url.Parse(address); err == nil {
		host = parsed.Hostname()
	}

	return fmt.Errorf("Get %q: dial tcp: lookup %s on %s:53: i/o timeout", address, host, server) //nolint:staticcheck // the real one's words
}
