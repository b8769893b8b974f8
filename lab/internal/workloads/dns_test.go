package workloads

import (
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ciliumConfigMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ciliumSystemNamespace, Name: ciliumConfig}, Data: data}
}

func TestNamesOutsideDoNotResolveWithForwardedDNSAndRoutingInEBPF(t *testing.T) {
	const server = "https://acme.example/directory"

	masquerade := map[string]string{"enable-bpf-masquerade": "true"}
	legacy := map[string]string{"enable-bpf-masquerade": "true", "enable-host-legacy-routing": "true"}

	for name, c := range map[string]struct {
		forwards bool
		cilium   map[string]string
		problem  string
	}{
		"the two together":            {true, masquerade, `Get "https://acme.example/directory": dial tcp: lookup acme.example on 10.96.0.10:53: i/o timeout`},
		"DNS is not forwarded":        {false, masquerade, ""},
		"the host routes":             {true, legacy, ""},
		"iptables masquerade":         {true, map[string]string{"enable-bpf-masquerade": "false"}, ""},
		"Cilium is not installed yet": {true, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if c.cilium != nil {
				b = newBench(t, ciliumConfigMap(c.cilium))
			}

			b.forwardsDNS = func() bool { return c.forwards }

			got := ""
			if err := b.resolves(t.Context(), server); err != nil {
				got = err.Error()
			}

			if got != c.problem {
				t.Errorf("%q, not %q", got, c.problem)
			}
		})
	}
}

func TestAnACMEIssuerIsNotReadyBeforeNamesOutsideResolve(t *testing.T) {
	b := newBench(t, ciliumConfigMap(map[string]string{"enable-bpf-masquerade": "true"}),
		runningDeployment(certManagerNamespace, certManagerName), runningDeployment(certManagerNamespace, cainjectorName))

	var forwards atomic.Bool

	forwards.Store(true)

	b.forwardsDNS = forwards.Load
	b.define(issuers, clusterIssuers, certificates)
	b.start(runCertManager)
	b.heard("issuers", "clusterissuers", "certificates")

	b.put(clusterIssuers, "ClusterIssuer", "", "acme", map[string]any{"acme": map[string]any{
		"server": "https://acme.example/directory", "privateKeySecretRef": map[string]any{"name": "account"},
	}})
	b.until("the issuer says why it is not ready", func() bool {
		status, reason, _ := b.ready(clusterIssuers, "", "acme")

		return status == "False" && reason == "ErrRegisterACMEAccount"
	})

	forwards.Store(false) // a new configuration of the machines: nothing in the cluster changes
	b.until("the issuer tries again", b.isReady(clusterIssuers, "", "acme"))
}
