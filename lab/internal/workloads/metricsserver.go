package workloads

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
)

const (
	metricsServerName = "metrics-server"
	metricsServerPort = 10250
)

// runMetricsServer answers for the pods of metrics-server, whatever their namespace: each reads the kubelets with
// the rights of its ServiceAccount, verifies their certificates with the cluster's authority, and serves what the
// API server's aggregator asks for.
func runMetricsServer(ctx context.Context, c *cluster) error {
	return c.embody(ctx, metricsServerName, labelled("", labels.Set{"app.kubernetes.io/name": metricsServerName}), c.serveMetrics)
}

func (c *cluster) serveMetrics(ctx context.Context, pod *corev1.Pod) error {
	config, err := c.asPod(ctx, pod)
	if err != nil {
		return err
	}

	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}

	front, err := readFrontProxy(ctx, client)
	if err != nil {
		return err
	}

	certificate, err := c.metricsCertificate(pod)
	if err != nil {
		return err
	}

	scraper := c.newScraper(pod, config.BearerToken)
	api := &metricsAPI{
		usage: scraper, nodes: c.objects.Core().V1().Nodes().Lister(), pods: c.objects.Core().V1().Pods().Lister(),
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	scraping := make(chan struct{})

	go func() {
		defer close(scraping)

		scraper.run(ctx)
	}()

	err = c.serve(ctx, pod, endpoint{
		port:    port(pod, "https", metricsServerPort),
		handler: front.authorized(client, api.handler()),
		tls: &tls.Config{
			Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12,
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: front.roots,
		},
	})

	cancel()
	<-scraping

	return err
}

// metricsCertificate is the one that the pod's arguments name, out of the Secret it mounts, else a self-signed one.
func (c *cluster) metricsCertificate(pod *corev1.Pod) (tls.Certificate, error) {
	certificate, key := flagValues(pod, "tls-cert-file"), flagValues(pod, "tls-private-key-file")
	if len(certificate) == 0 || len(key) == 0 {
		return serverCertificate(nil, []string{metricsServerName + "." + pod.Namespace + ".svc"})
	}

	pair, err := tls.X509KeyPair(c.mounted(pod, certificate[0]), c.mounted(pod, key[0]))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("--tls-cert-file=%s: %w", certificate[0], err)
	}

	return pair, nil
}

// mounted is a file that a pod has from a Secret, nil when it has none of that path.
func (c *cluster) mounted(pod *corev1.Pod, path string) []byte {
	for _, container := range pod.Spec.Containers {
		for _, mount := range container.VolumeMounts {
			file, below := strings.CutPrefix(path, strings.TrimSuffix(mount.MountPath, "/")+"/")
			if !below {
				continue
			}

			for _, volume := range pod.Spec.Volumes {
				if volume.Name != mount.Name || volume.Secret == nil {
					continue
				}

				if secret := c.secret(pod.Namespace, volume.Secret.SecretName); secret != nil {
					return secret.Data[file]
				}
			}
		}
	}

	return nil
}

// frontProxy is how an aggregated API knows that a request comes from the API server, and for whom.
type frontProxy struct {
	roots        *x509.CertPool
	names        []string
	userHeaders  []string
	groupHeaders []string
}

const (
	authenticationConfig = "extension-apiserver-authentication"
	authenticatedGroup   = "system:authenticated"
)

// readFrontProxy reads what the API server publishes for aggregated APIs.
func readFrontProxy(ctx context.Context, client kubernetes.Interface) (*frontProxy, error) {
	published, err := client.CoreV1().ConfigMaps("kube-system").Get(ctx, authenticationConfig, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}

	front := &frontProxy{roots: x509.NewCertPool()}
	if !front.roots.AppendCertsFromPEM([]byte(published.Data["requestheader-client-ca-file"])) {
		return nil, errors.New("the API server has no requestheader-client-ca-file: no aggregated API can trust it")
	}

	for key, list := range map[string]*[]string{
		"requestheader-allowed-names": &front.names, "requestheader-username-headers": &front.userHeaders,
		"requestheader-group-headers": &front.groupHeaders,
	} {
		if err := json.Unmarshal([]byte(published.Data[key]), list); err != nil {
			return nil, fmt.Errorf("ConfigMap %s: %s: %w", authenticationConfig, key, err)
		}
	}

	return front, nil
}

// user is whom the front proxy speaks for; false without its certificate.
func (f *frontProxy) user(r *http.Request) (authorizationv1.SubjectAccessReviewSpec, bool) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return authorizationv1.SubjectAccessReviewSpec{}, false
	}

	if name := r.TLS.PeerCertificates[0].Subject.CommonName; len(f.names) > 0 && !slices.Contains(f.names, name) {
		return authorizationv1.SubjectAccessReviewSpec{}, false
	}

	var spec authorizationv1.SubjectAccessReviewSpec

	for _, header := range f.userHeaders {
		if spec.User == "" {
			spec.User = r.Header.Get(header)
		}
	}

	for _, header := range f.groupHeaders {
		spec.Groups = append(spec.Groups, r.Header.Values(header)...)
	}

	// The aggregator's own requests name no group; every API server adds this one.
	if !slices.Contains(spec.Groups, authenticatedGroup) {
		spec.Groups = append(spec.Groups, authenticatedGroup)
	}

	return spec, spec.User != ""
}

// authorized lets through what the API server's authorizers allow the user, asked with the pod's own rights.
func (f *frontProxy) authorized(client kubernetes.Interface, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains([]string{"/healthz", "/livez", "/readyz"}, r.URL.Path) {
			next.ServeHTTP(w, r)

			return
		}

		spec, known := f.user(r)
		if !known {
			writeStatus(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized")

			return
		}

		spec.ResourceAttributes, spec.NonResourceAttributes = attributesOf(r)

		review, err := client.AuthorizationV1().SubjectAccessReviews().Create(r.Context(), &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			writeStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())

			return
		}

		if !review.Status.Allowed {
			writeStatus(w, http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("%s is not allowed: %s", spec.User, review.Status.Reason))

			return
		}

		next.ServeHTTP(w, r)
	})
}

// attributesOf is what a request does, in the authorizer's terms.
func attributesOf(r *http.Request) (*authorizationv1.ResourceAttributes, *authorizationv1.NonResourceAttributes) {
	rest, isResource := strings.CutPrefix(r.URL.Path, metricsPath+"/")
	if !isResource || rest == "" {
		return nil, &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	}

	attributes := &authorizationv1.ResourceAttributes{Group: metricsGroup, Version: metricsVersion, Verb: "list"}
	parts := strings.Split(rest, "/")

	if parts[0] == "namespaces" && len(parts) > 2 {
		attributes.Namespace, parts = parts[1], parts[2:]
	}

	attributes.Resource = parts[0]

	if len(parts) > 1 {
		attributes.Name, attributes.Verb = parts[1], "get"
	}

	return attributes, nil
}

func writeStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	writeJSON(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message, //nolint:gosec // an HTTP status
	})
}
