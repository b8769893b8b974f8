package omni

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/google/uuid"
	cryptox509 "github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/constants"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	joinconfig "github.com/siderolabs/omni/client/pkg/siderolink"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/role"
)

// begin makes what a cluster has from its first moment to its last: its secrets, its UUID, the Talos version that its
// configurations are generated for, its port of the load balancer.
func (o *Omni) begin(ctx context.Context, cluster *omni.Cluster) error {
	id := cluster.Metadata().ID()
	version := "v" + cluster.TypedSpec().Value.TalosVersion
	if _, err := o.state.Get(ctx, omni.NewClusterSecrets(id).Metadata()); state.IsNotFoundError(err) {
		contract, err := config.ParseContractFromVersion(version)
		if err != nil {
			return err
		}
		bundle, err := secrets.NewBundle(secrets.NewClock(), contract)
		if err != nil {
			return err
		}
		data, err := json.Marshal(bundle)
		if err != nil {
			return err
		}
		err = put(ctx, o.state, omni.NewClusterSecrets(id), func(res *omni.ClusterSecrets) error {
			res.TypedSpec().Value.Data = data
			return nil
		})
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := once(ctx, o.state, omni.NewClusterConfigVersion(id), func(res *omni.ClusterConfigVersion) { res.TypedSpec().Value.Version = version }); err != nil {
		return err
	}
	if err := once(ctx, o.state, omni.NewClusterUUID(id), func(res *omni.ClusterUUID) {
		made := uuid.NewString()
		res.TypedSpec().Value.Uuid = made
		res.Metadata().Labels().Set(omni.LabelClusterUUID, made)
	}); err != nil {
		return err
	}
	return o.beginBalancer(ctx, id)
}

// once makes a resource that stays as it is.
func once[T resource.Resource](ctx context.Context, in state.State, made T, fill func(T)) error {
	fill(made)
	if err := in.Create(ctx, made, state.WithCreateOwner(owner)); err != nil && !state.IsConflictError(err) {
		return err
	}
	return nil
}

// bundleOf are a cluster's secrets.
func (o *Omni) bundleOf(ctx context.Context, cluster string) (*secrets.Bundle, error) {
	kept, err := safe.StateGetByID[*omni.ClusterSecrets](ctx, o.state, cluster)
	if err != nil {
		return nil, err
	}
	bundle := &secrets.Bundle{Clock: secrets.NewClock()}
	return bundle, json.Unmarshal(kept.TypedSpec().Value.Data, bundle)
}

// reachMember is a client with a cluster's certificates of a machine that answers to them.
func (o *Omni) reachMember(ctx context.Context, cluster, address string) (*client.Client, error) {
	credentials, err := o.talosCredentials(ctx, cluster)
	if err != nil {
		return nil, err
	}
	talos, err := o.talos.of(ctx, apiAddress(address), cluster, credentials)
	if err != nil {
		return nil, err
	}
	_, err = talos.Version(ctx)
	return talos, err
}

// talosCredentials are an administrator's certificate of a cluster's Talos authority.
func (o *Omni) talosCredentials(ctx context.Context, cluster string) (*tls.Config, error) {
	bundle, err := o.bundleOf(ctx, cluster)
	if err != nil {
		return nil, err
	}
	pair, err := bundle.GenerateTalosAPIClientCertificateWithTTL(role.MakeSet(role.Admin), constants.CertificateValidityTime)
	if err != nil {
		return nil, err
	}
	return clientTLS(bundle.Certs.OS.Crt, pair)
}

// kubernetesCredentials are an administrator's certificate of a cluster's Kubernetes authority.
func (o *Omni) kubernetesCredentials(ctx context.Context, cluster string) (*tls.Config, error) {
	bundle, err := o.bundleOf(ctx, cluster)
	if err != nil {
		return nil, err
	}
	authority, err := cryptox509.NewCertificateAuthorityFromCertificateAndKey(bundle.Certs.K8s)
	if err != nil {
		return nil, err
	}
	pair, err := cryptox509.NewKeyPair(authority,
		cryptox509.CommonName(constants.KubernetesAdminCertCommonName), cryptox509.Organization(constants.DefaultAccessGroup),
		cryptox509.NotAfter(time.Now().Add(constants.CertificateValidityTime)),
		cryptox509.KeyUsage(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment),
		cryptox509.ExtKeyUsage([]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}),
	)
	if err != nil {
		return nil, err
	}
	return clientTLS(bundle.Certs.K8s.Crt, cryptox509.NewCertificateAndKeyFromKeyPair(pair))
}

func clientTLS(authority []byte, pair *cryptox509.PEMEncodedCertificateAndKey) (*tls.Config, error) {
	certificate, err := tls.X509KeyPair(pair.Crt, pair.Key)
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(authority) {
		return nil, errors.New("simulated Omni: a cluster's authority cannot be read")
	}
	return &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}, nil
}

const (
	// firstBalancerPort is the first cluster's port of the load balancer in SideroLink.
	firstBalancerPort = 10000
	lastBalancerPort  = 11000
)

// beginBalancer gives a cluster its port of the load balancer, which its configurations name as the endpoint.
func (o *Omni) beginBalancer(ctx context.Context, cluster string) error {
	if _, err := o.state.Get(ctx, omni.NewLoadBalancerConfig(cluster).Metadata()); !state.IsNotFoundError(err) {
		return err
	}
	others, err := safe.StateListAll[*omni.LoadBalancerConfig](ctx, o.state)
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for one := range others.All() {
		taken[one.TypedSpec().Value.BindPort] = true
	}
	for port := firstBalancerPort; port < lastBalancerPort; port++ {
		if text := strconv.Itoa(port); !taken[text] {
			return put(ctx, o.state, omni.NewLoadBalancerConfig(cluster), func(res *omni.LoadBalancerConfig) error {
				res.TypedSpec().Value = &specs.LoadBalancerConfigSpec{
					BindPort: text, SiderolinkEndpoint: "https://" + net.JoinHostPort(joinconfig.GetListenHost(), text),
				}
				return nil
			})
		}
	}
	return fmt.Errorf("simulated Omni: no port is left for the load balancer of cluster %q", cluster)
}
