package workloads

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"platform.lab/lab/internal/outproxy"
	"platform.lab/lab/internal/pki"
)

const (
	storageName = "s3.corp.net"
	rootsFolder = "/etc/platform/authorities"
)

// signed is a server with a certificate of this authority.
func signed(t *testing.T, authority *pki.Authority) *url.URL {
	t.Helper()

	certificate, err := authority.Server(storageName, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}

	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the storage") }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)

	location, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}

	location.Host = storageName + ":" + location.Port()

	return location
}

// job is a pod that mounts the company's authorities.
func job() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "platform-backup"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "roots", MountPath: rootsFolder}}}},
		Volumes: []corev1.Volume{{Name: "roots", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "company-authorities"},
		}}}},
	}}
}

// get reaches the storage as the pod of a job does whose container has this environment.
func get(t *testing.T, b *bench, at *url.URL, environment map[string]string) (string, error) {
	t.Helper()

	b.options.Resolve = func(name string) (netip.Addr, bool) { return netip.MustParseAddr("127.0.0.1"), name == storageName }

	trusted, err := b.trusted(context.Background(), job(), environment[authoritiesVariable])
	if err != nil {
		t.Fatal(err)
	}

	got, err := b.outside(trusted, wayOut(environment)).Get(at.String())
	if err != nil {
		return "", err
	}
	defer got.Body.Close()

	body, err := io.ReadAll(got.Body)

	return string(body), err
}

func TestAStorageOfTheCompanyIsTrustedOnlyByAJobThatReadsItsAuthority(t *testing.T) {
	company, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}

	b := newBench(t, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "platform-backup", Name: "company-authorities"}, Data: map[string]string{"ca.crt": string(company.PEM())},
	})
	at := signed(t, company)

	if said, err := get(t, b, at, nil); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("%q, %v", said, err)
	}

	if said, err := get(t, b, at, map[string]string{authoritiesVariable: rootsFolder}); err != nil || said != "the storage" {
		t.Errorf("%q, %v", said, err)
	}

	public := signed(t, b.options.Authority)
	if said, err := get(t, b, public, map[string]string{authoritiesVariable: rootsFolder}); err != nil || said != "the storage" {
		t.Errorf("a public authority beside it: %q, %v", said, err)
	}
}

func TestAJobGoesByTheProxyOfItsEnvironmentButWhereThatSaysNot(t *testing.T) {
	b := newBench(t)
	at := signed(t, b.options.Authority)

	var log strings.Builder

	proxy := httptest.NewServer(&outproxy.Proxy{Log: &log, Resolve: func(string) (string, error) { return "127.0.0.1", nil }})
	defer proxy.Close()

	environment := map[string]string{"https_proxy": proxy.URL}
	if said, err := get(t, b, at, environment); err != nil || said != "the storage" || log.String() != "CONNECT "+at.Host+"\n" {
		t.Errorf("%q, %v; the proxy saw %q", said, err, log.String())
	}

	log.Reset()

	environment["no_proxy"] = "10.96.0.0/12,.corp.net"
	if said, err := get(t, b, at, environment); err != nil || said != "the storage" || log.String() != "" {
		t.Errorf("%q, %v; the proxy saw %q", said, err, log.String())
	}
}

func TestAJobThatGivesTalosToTheProxyGetsNoSnapshot(t *testing.T) {
	b := newBench(t)
	pod := job()
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "https_proxy", Value: "http://proxy.corp.net:3128"}, {Name: "no_proxy", Value: ".svc"}}

	if says, err := b.upload(context.Background(), pod); err == nil || !strings.Contains(err.Error(), "failed to take etcd snapshot: rpc error: code = Unavailable") {
		t.Errorf("%q, %v", says, err)
	}
}
