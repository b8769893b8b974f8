// Package kubeapi is the way from a machine to the Kubernetes API of its cluster.
package kubeapi

import (
	"context"
	"encoding/json"
	"net"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"platform.lab/lab/internal/machine/certificates"
)

// SystemNamespace is where Talos puts its own objects.
const SystemNamespace = "kube-system"

// Timeout bounds every call of a machine to the Kubernetes API.
const Timeout = 5 * time.Second

// Dial opens a connection from inside the machine.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Settings reach the Kubernetes API from inside the machine.
func Settings(dial Dial, host string, authorities []byte) *rest.Config {
	return &rest.Config{
		Host:            host,
		Timeout:         Timeout,
		Dial:            dial,
		TLSClientConfig: rest.TLSClientConfig{CAData: authorities},
		QPS:             -1,
		UserAgent:       "talos-simulated",
	}
}

// AdminClient is Talos' own client of a control plane, through its own API server.
func AdminClient(dial Dial, provider config.Provider) (*kubernetes.Clientset, error) {
	settings, err := AdminSettings(dial, provider)
	if err != nil {
		return nil, err
	}

	return kubernetes.NewForConfig(settings)
}

// AdminSettings are those of AdminClient.
func AdminSettings(dial Dial, provider config.Provider) (*rest.Config, error) {
	pair, err := certificates.Issue(provider.Cluster().IssuingCA(), certificates.Request{
		CommonName:    constants.KubernetesTalosAdminCertCommonName,
		Organizations: []string{constants.KubernetesAdminCertOrganization},
		Usage:         certificates.ForClient,
	})
	if err != nil {
		return nil, err
	}

	settings := Settings(dial, certificates.LocalAPIServer(provider), certificates.AcceptedCAs(provider.Cluster()))
	settings.CertData, settings.KeyData = pair.Crt, pair.Key

	return settings, nil
}

// UnlessExists drops the error of creating an object that is there.
func UnlessExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}

	return err
}

// MustJSON is the JSON of a plain value; Kubernetes takes it for YAML, too.
func MustJSON(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // only maps and plain structs are given
	}

	return data
}
