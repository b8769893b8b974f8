package kubelet

import (
	"context"
	"crypto/tls"
	stdx509 "crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"platform.lab/lab/internal/httpserver"
	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/kubeapi"
)

// port serves the kubelet's API: https://NODE:10250.
const port = constants.KubeletPort

// authenticatedGroup is what every caller who is known belongs to.
const authenticatedGroup = "system:authenticated"

// caller is who asks the kubelet.
type caller = authenticationv1.UserInfo

// serve opens the kubelet's port until the machine stops. Its handshakes fail while the kubelet has no serving
// certificate.
func (n *Kubelet) serve() {
	listener, err := n.Network.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		n.LogError("kubelet's port", err)

		return
	}

	ctx, cancel := context.WithCancel(n.Context())
	defer cancel()

	n.Go(func() {
		defer cancel()

		n.Await(n.Stopping())
	})

	server := &http.Server{Handler: n.handler(), TLSConfig: &tls.Config{
		// Talos' setting; the certificate of a client is checked by authenticate.
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, GetCertificate: n.serving.show,
	}}
	n.LogError("kubelet's port", httpserver.Serve(ctx, listener, server, n.log))
}

// handler is the part of the kubelet's API that something in the lab asks for; the rest says that it is simulated.
func (n *Kubelet) handler() http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	routes.HandleFunc("/pods", n.servePods)
	routes.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", n.serveLogs)
	routes.Handle("/metrics", metricsHandler(ownCollector{n}))
	routes.Handle("/metrics/resource", metricsHandler(resourceCollector{n}))
	routes.Handle("/metrics/cadvisor", metricsHandler(cadvisorCollector{n}))
	routes.Handle("/stats/summary", http.HandlerFunc(n.serveSummary))
	routes.HandleFunc("/exec/{namespace}/{pod}/{container}", n.serveExec)
	routes.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", n.serveExec)
	routes.HandleFunc("/portForward/{namespace}/{pod}", n.servePortForward)
	routes.HandleFunc("/portForward/{namespace}/{pod}/{uid}", n.servePortForward)
	routes.HandleFunc("/", n.refuse)

	return n.guard(routes)
}

func metricsHandler(collector prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector)

	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

func (n *Kubelet) servePods(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")

	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: n.PodsNow()}
	if err := json.NewEncoder(w).Encode(list); err != nil {
		n.log.Debug("kubelet", "answer", "/pods", "error", err)
	}
}

// guard lets only callers through whom the cluster knows and allows the call: the kubelet's webhook
// authentication and authorization, as Talos sets them, with anonymous callers refused.
func (n *Kubelet) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), kubeapi.Timeout)
		defer cancel()

		who, err := n.authenticate(ctx, r)
		if err != nil {
			n.log.Debug("kubelet", "path", r.URL.Path, "unauthorized", err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)

			return
		}

		subresources := subresourcesOf(r.URL.Path)
		verb := verbOf(r.Method)

		allowed, err := n.authorize(ctx, who, verb, subresources)
		described := fmt.Sprintf("(user=%s, verb=%s, resource=nodes, subresource(s)=%v)", who.Username, verb, subresources)

		switch {
		case err != nil:
			http.Error(w, "Authorization error "+described, http.StatusInternalServerError)
		case !allowed:
			http.Error(w, "Forbidden "+described, http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// authenticate finds out who calls: by a client certificate of the cluster's CA, else by a token that the API
// server knows.
func (n *Kubelet) authenticate(ctx context.Context, r *http.Request) (caller, error) {
	stranger := errors.New("neither a client certificate nor a token")

	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		who, err := n.byCertificate(r.TLS.PeerCertificates)
		if err == nil {
			return who, nil
		}

		stranger = err
	}

	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return caller{}, stranger
	}

	client := n.connection()
	if client == nil {
		return caller{}, errNoCluster
	}

	review, err := client.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return caller{}, err
	}

	if !review.Status.Authenticated {
		return caller{}, fmt.Errorf("token refused: %s", review.Status.Error)
	}

	return review.Status.User, nil
}

// errNoCluster says that the kubelet cannot ask its API server.
var errNoCluster = errors.New("the kubelet has no connection to the cluster")

func (n *Kubelet) byCertificate(chain []*stdx509.Certificate) (caller, error) {
	roots, others := stdx509.NewCertPool(), stdx509.NewCertPool()
	roots.AppendCertsFromPEM(acceptedCAsOfNode(n.Provider()))

	for _, between := range chain[1:] {
		others.AddCert(between)
	}

	if _, err := chain[0].Verify(stdx509.VerifyOptions{Roots: roots, Intermediates: others, KeyUsages: certificates.ForClient}); err != nil {
		return caller{}, err
	}

	subject := chain[0].Subject

	return caller{Username: subject.CommonName, Groups: append(slices.Clone(subject.Organization), authenticatedGroup)}, nil
}

// authorize asks the API server whether the caller may; one allowed subresource is enough.
func (n *Kubelet) authorize(ctx context.Context, who caller, verb string, subresources []string) (bool, error) {
	client := n.connection()
	if client == nil {
		return false, errNoCluster
	}

	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range who.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}

	var problems []error

	for _, subresource := range subresources {
		review, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User: who.Username, Groups: who.Groups, UID: who.UID, Extra: extra,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: n.Network.Hostname(),
				},
			},
		}, metav1.CreateOptions{})
		if err == nil && review.Status.Allowed {
			return true, nil
		}

		problems = append(problems, err)
	}

	return false, errors.Join(problems...)
}

// subresourcesOf are the subresources of a node that stand for a path: any one of them lets a caller in
// (pkg/kubelet/server/auth.go of Kubernetes 1.34, with its fine-grained ones).
func subresourcesOf(path string) []string {
	under := func(folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

	switch {
	case under("/metrics"):
		return []string{"metrics"}
	case under("/stats"):
		return []string{"stats"}
	case under("/logs"):
		return []string{"log"}
	case under("/pods"), under("/runningpods"):
		return []string{"pods", "proxy"}
	case under("/healthz"):
		return []string{"healthz", "proxy"}
	case under("/configz"):
		return []string{"configz", "proxy"}
	default:
		return []string{"proxy"}
	}
}

func verbOf(method string) string {
	return map[string]string{
		http.MethodPost: "create", http.MethodGet: "get", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[method]
}

// connection is the kubelet's client; nil before it has one.
func (n *Kubelet) connection() kubernetes.Interface {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.client
}
