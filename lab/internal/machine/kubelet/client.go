package kubelet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdx509 "crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate/csr"

	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/kubeapi"
)

// apiEndpoint is where the kubelet finds the API: KubePrism when enabled, on a control plane its own API
// server, else the cluster's endpoint.
func (n *Kubelet) apiEndpoint(provider config.Provider) string {
	if prism := provider.Machine().Features().KubePrism(); prism != nil && prism.Enabled() {
		return "https://" + net.JoinHostPort(guestnetwork.Loopback.String(), strconv.Itoa(prism.Port()))
	}

	if n.IsControlPlane() {
		return certificates.LocalAPIServer(provider)
	}

	return provider.Cluster().Endpoint().String()
}

// newClient is the kubelet's client with a certificate of its own: kept on disk, or asked for with the
// bootstrap token, approved and signed by the controller manager, as a real kubelet does.
func (n *Kubelet) newClient(ctx context.Context, provider config.Provider) (*kubernetes.Clientset, error) {
	certificate, key := n.Disk.Path(disk.KubeletFolder, "client.crt"), n.Disk.Path(disk.KubeletFolder, "client.key")
	settings := kubeapi.Settings(n.Network.Dial, n.apiEndpoint(provider), acceptedCAsOfNode(provider))

	if _, err := os.Stat(certificate); errors.Is(err, fs.ErrNotExist) {
		if err := n.bootstrap(ctx, provider, certificate, key); err != nil {
			return nil, err
		}
	}

	settings.CertFile, settings.KeyFile = certificate, key
	// As a kubelet does; it looks at its pods every second.
	settings.ContentType, settings.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON

	return kubernetes.NewForConfig(settings)
}

func acceptedCAsOfNode(provider config.Provider) []byte {
	if provider.Cluster().IssuingCA() != nil {
		return certificates.AcceptedCAs(provider.Cluster())
	}

	var all []byte
	for _, ca := range provider.Cluster().AcceptedCAs() {
		all = append(all, ca.Crt...)
	}

	return all
}

func (n *Kubelet) bootstrap(ctx context.Context, provider config.Provider, certificatePath, keyPath string) error {
	token := provider.Cluster().Token()
	settings := kubeapi.Settings(n.Network.Dial, n.apiEndpoint(provider), acceptedCAsOfNode(provider))
	settings.BearerToken = token.ID() + "." + token.Secret()

	client, err := kubernetes.NewForConfig(settings)
	if err != nil {
		return err
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}

	asked, err := stdx509.CreateCertificateRequest(rand.Reader, &stdx509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + n.Network.Hostname(), Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		return err
	}

	name, uid, err := csr.RequestCertificateWithContext(ctx, client,
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: asked}), "",
		certificatesv1.KubeAPIServerClientKubeletSignerName, nil,
		[]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}, key)
	if err != nil {
		return fmt.Errorf("kubelet certificate: %w", err)
	}

	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()

	certificate, err := csr.WaitForCertificate(ctx, client, name, uid)
	if err != nil {
		return fmt.Errorf("kubelet certificate %s: %w", name, err)
	}

	encoded, err := stdx509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}

	if err := disk.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})); err != nil {
		return err
	}

	return disk.WriteFile(certificatePath, certificate)
}
