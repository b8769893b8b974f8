package omni

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cosi-project/runtime/pkg/state"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/siderolabs/omni/client/api/omni/management"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// longestToken is how long a kubeconfig of a service account may be good.
const longestToken = 10 * 365 * 24 * time.Hour

// claims are what a token of a kubeconfig says.
type claims struct {
	jwt.RegisteredClaims

	Cluster            string   `json:"cluster"`
	Groups             []string `json:"groups,omitempty"`
	ServiceAccountName string   `json:"service_account_name,omitempty"`
}

// clusterOfCall is the cluster that a call is about, which clients say in the metadata.
func clusterOfCall(ctx context.Context) string {
	headers, _ := metadata.FromIncomingContext(ctx)
	if values := headers.Get("context"); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Kubeconfig makes the kubeconfig of a service account of Kubernetes, whose token no one can take back.
func (m *managementServer) Kubeconfig(ctx context.Context, request *management.KubeconfigRequest) (*management.KubeconfigResponse, error) {
	if err := need(ctx, RoleReader); err != nil {
		return nil, err
	}
	cluster := clusterOfCall(ctx)
	if _, err := m.omni.state.Get(ctx, omni.NewCluster(cluster).Metadata()); state.IsNotFoundError(err) {
		return nil, status.Errorf(codes.NotFound, "cluster %q not found", cluster)
	} else if err != nil {
		return nil, err
	}
	switch {
	case request.GetBreakGlass(): // not switched on
		return nil, errNotAllowed
	case !request.GetServiceAccount():
		return nil, status.Error(codes.Unimplemented, "the simulated Omni has nobody who logs in: its kubeconfigs are those of service accounts")
	}
	if err := need(ctx, RoleOperator); err != nil {
		return nil, err
	}
	lifetime := request.GetServiceAccountTtl().AsDuration()
	switch {
	case request.GetServiceAccountUser() == "":
		return nil, status.Error(codes.InvalidArgument, "service account user name is not set")
	case len(request.GetServiceAccountGroups()) == 0:
		return nil, status.Error(codes.InvalidArgument, "service account groups are not set")
	case lifetime <= 0 || lifetime > longestToken:
		return nil, status.Errorf(codes.InvalidArgument, "service account TTL %s must be more than 0 and at most %s", lifetime, longestToken)
	}
	token, err := m.omni.signToken(claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: request.GetServiceAccountUser(), IssuedAt: jwt.NewNumericDate(time.Now()),
			ExpiresAt: jwt.NewNumericDate(time.Now().Add(lifetime)), ID: uuid.NewString(),
		},
		Cluster: cluster, Groups: request.GetServiceAccountGroups(), ServiceAccountName: request.GetServiceAccountUser(),
	})
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s-%s", m.omni.options.Name, cluster)
	user := name + "-" + request.GetServiceAccountUser()
	made := clientcmdapi.NewConfig()
	made.Clusters[name] = &clientcmdapi.Cluster{Server: m.omni.options.KubernetesProxy}
	made.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token}
	made.Contexts[user] = &clientcmdapi.Context{Cluster: name, Namespace: "default", AuthInfo: user}
	made.CurrentContext = user
	data, err := clientcmd.Write(*made)
	if err != nil {
		return nil, err
	}
	return &management.KubeconfigResponse{Kubeconfig: data}, nil
}

// tokenKeyFile keeps the key that signs tokens: kubeconfigs outlive the process.
const tokenKeyFile = "kubeconfigs.key"

// loadTokenKey reads the key from a folder, or makes it; without a folder it is made anew.
func loadTokenKey(dir string) (*ecdsa.PrivateKey, error) {
	if dir != "" {
		der, err := os.ReadFile(filepath.Join(dir, tokenKeyFile))
		if err == nil {
			return x509.ParseECPrivateKey(der)
		}
		if !os.IsNotExist(err) {
			return nil, err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil || dir == "" {
		return key, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(filepath.Join(dir, tokenKeyFile), der, 0o600)
}

func (o *Omni) signToken(said claims) (string, error) {
	said.Issuer = o.options.Endpoint
	token := jwt.NewWithClaims(jwt.SigningMethodES256, said)
	return token.SignedString(o.tokenKey)
}

// readToken checks a token's signature and its end.
func (o *Omni) readToken(text string) (claims, error) {
	var said claims
	_, err := jwt.ParseWithClaims(text, &said, func(*jwt.Token) (any, error) { return o.tokenKey.Public(), nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithExpirationRequired(), jwt.WithIssuer(o.options.Endpoint))
	if err == nil && (said.Cluster == "" || said.Subject == "") {
		err = errors.New("the token names no cluster or no user")
	}
	return said, err
}

// Talosconfig is the configuration of talosctl by way of Omni: useless without an account's key.
func (m *managementServer) Talosconfig(ctx context.Context, request *management.TalosconfigRequest) (*management.TalosconfigResponse, error) {
	if err := need(ctx, RoleReader); err != nil {
		return nil, err
	}
	if request.GetBreakGlass() || request.GetRaw() {
		return nil, errNotAllowed
	}
	name, cluster := m.omni.options.Name, clusterOfCall(ctx)
	if cluster != "" {
		name += "-" + cluster
	}
	made := &clientconfig.Config{Context: name, Contexts: map[string]*clientconfig.Context{name: {
		Endpoints: []string{m.omni.options.Endpoint}, Cluster: cluster,
		Auth: clientconfig.Auth{SideroV1: &clientconfig.SideroV1{Identity: accountOf(ctx).identity}},
	}}}
	data, err := made.Bytes()
	if err != nil {
		return nil, err
	}
	return &management.TalosconfigResponse{Talosconfig: data}, nil
}
