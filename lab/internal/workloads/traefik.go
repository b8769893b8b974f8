package workloads

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"platform.lab/lab/internal/simulated"
)

const (
	traefikName        = "traefik"
	traefikWebPort     = 8000
	traefikSecurePort  = 8443
	traefikMetricsPort = 9100
	tlsStores          = "tlsstores.traefik.io"
	defaultStore       = "default"
	traefikController  = "traefik.io/gateway-controller"
)

// runTraefik answers for the pods of Traefik. It reads no route: every host gets the same words. Like Traefik it
// accepts the GatewayClass of its controller.
func runTraefik(ctx context.Context, c *cluster) error {
	fallback, err := serverCertificate(nil, []string{"TRAEFIK DEFAULT CERT"})
	if err != nil {
		return err
	}

	start := func(ctx context.Context, pod *corev1.Pod) error {
		secure := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if certificate := c.defaultCertificate(hello.Context(), pod.Namespace); certificate != nil {
				return certificate, nil
			}

			return &fallback, nil
		}}

		return c.serve(ctx, pod,
			endpoint{port: port(pod, "web", traefikWebPort), handler: http.HandlerFunc(redirect)},
			endpoint{port: port(pod, "websecure", traefikSecurePort), handler: http.HandlerFunc(respond), tls: secure},
			endpoint{port: port(pod, "metrics", traefikMetricsPort), handler: http.HandlerFunc(traefikMetrics)})
	}

	return together(ctx, func(ctx context.Context) error {
		return c.embody(ctx, traefikName, isTraefik, start)
	}, func(ctx context.Context) error {
		return c.whileServed(ctx, traefikName, "v1", []string{gatewayClasses}, c.acceptTraefikClasses)
	})
}

var isTraefik = labelled("", labels.Set{"app.kubernetes.io/name": traefikName})

// acceptTraefikClasses accepts the GatewayClasses of Traefik's controller while one of its pods runs.
func (c *cluster) acceptTraefikClasses(ctx context.Context, kinds customInformers) error {
	changed, err := on(ctx, kinds[gatewayClasses], c.pods())
	if err != nil {
		return err
	}

	c.sweep(ctx, traefikName, changed, func(ctx context.Context) error {
		ready, err := c.readyPods(isTraefik)
		if err != nil || len(ready) == 0 {
			return err
		}

		var problems []error

		for _, class := range listed(kinds[gatewayClasses]) {
			if controller, _, _ := unstructured.NestedString(class.Object, "spec", "controllerName"); controller != traefikController {
				continue
			}

			problems = append(problems, c.setCondition(ctx, schema.ParseGroupResource(gatewayClasses).WithVersion("v1"), class, metav1.Condition{
				Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Handled", Message: "Handled by Traefik controller",
				ObservedGeneration: class.GetGeneration(),
			}, nil))
		}

		return errors.Join(problems...)
	})

	return nil
}

// defaultCertificate is that of the default TLSStore, nil when there is none.
func (c *cluster) defaultCertificate(ctx context.Context, namespace string) *tls.Certificate {
	if !c.serves([]string{tlsStores}) {
		return nil
	}

	resource := schema.ParseGroupResource(tlsStores).WithVersion("v1alpha1")

	store, err := c.custom.Resource(resource).Namespace(namespace).Get(ctx, defaultStore, metav1.GetOptions{})
	if err != nil {
		return nil
	}

	name, _, _ := unstructured.NestedString(store.Object, "spec", "defaultCertificate", "secretName")

	secret := c.secret(namespace, name)
	if secret == nil {
		return nil
	}

	certificate, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil
	}

	return &certificate
}

// redirect sends plain HTTP to HTTPS, as the entry point's redirection does.
func redirect(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}

	http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusPermanentRedirect)
}

func respond(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "%s\nhost: %s\npath: %s\n", simulated.Ingress(), r.Host, r.URL.Path)
}

func traefikMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprint(w, "# HELP lab_simulated Traefik is simulated by the lab.\n# TYPE lab_simulated gauge\nlab_simulated 1\n")
}
