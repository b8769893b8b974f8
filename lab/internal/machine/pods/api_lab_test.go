//go:build lab

package pods

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdx509 "crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/siderolabs/crypto/x509"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
)

// binFolder has etcd, kube-apiserver, coredns and podinfo.
var binFolder = os.Getenv("LAB_BIN")

// apiServer is a real one with its etcd, at the address of the Service `kubernetes`.
type apiServer struct {
	*testing.T

	folder    string
	authority *x509.PEMEncodedCertificateAndKey
}

func startAPIServer(t *testing.T) *apiServer {
	t.Helper()

	if binFolder == "" {
		t.Fatal("LAB_BIN is not set: name the folder of the programs, as `make go-lab-test` does")
	}

	if err := network.AddLoopback(netip.MustParseAddr("10.96.0.1")); err != nil {
		t.Fatal(err)
	}

	authority, err := x509.NewSelfSignedCertificateAuthority(x509.ECDSA(true), x509.Organization("test"), x509.NotAfter(time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}

	s := &apiServer{T: t, folder: t.TempDir(), authority: x509.NewCertificateAndKeyFromCertificateAuthority(authority)}
	serving := s.issue(certificates.Request{CommonName: "kube-apiserver", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Usage: certificates.ForServer})

	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	key, err := stdx509.MarshalECPrivateKey(accounts)
	if err != nil {
		t.Fatal(err)
	}

	files := map[string][]byte{
		"ca.crt": s.authority.Crt, "server.crt": serving.Crt, "server.key": serving.Key,
		"accounts.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}),
	}
	for name, data := range files {
		if err := os.WriteFile(s.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	s.run("etcd", "--data-dir="+s.path("etcd"), "--unsafe-no-fsync", "--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380", "--log-level=error")
	s.run("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--secure-port=443", "--bind-address=0.0.0.0",
		"--advertise-address="+gateway.Addr().String(), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file="+s.path("ca.crt"), "--tls-cert-file="+s.path("server.crt"), "--tls-private-key-file="+s.path("server.key"),
		"--service-account-issuer=https://10.96.0.1", "--service-account-key-file="+s.path("accounts.key"),
		"--service-account-signing-key-file="+s.path("accounts.key"), "--service-cluster-ip-range=10.96.0.0/12")

	return s
}

func (s *apiServer) path(name string) string { return filepath.Join(s.folder, name) }

func (s *apiServer) issue(request certificates.Request) *x509.PEMEncodedCertificateAndKey {
	s.Helper()

	pair, err := certificates.Issue(s.authority, request)
	if err != nil {
		s.Fatal(err)
	}

	return pair
}

// run starts a program that ends with the test; its log is shown when the test fails.
func (s *apiServer) run(name string, arguments ...string) {
	s.Helper()

	log := &bytes.Buffer{}
	cmd := exec.Command(filepath.Join(binFolder, name), arguments...)
	cmd.Stdout, cmd.Stderr = log, log

	if err := network.Start(cmd); err != nil {
		s.Fatal(err)
	}

	s.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()

		if s.Failed() {
			lines := strings.Split(log.String(), "\n")
			s.Logf("%s: %s", name, strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	})
}

// client has the rights of a user.
func (s *apiServer) client(name, group string) *kubernetes.Clientset {
	s.Helper()

	pair := s.issue(certificates.Request{CommonName: name, Organizations: []string{group}, Usage: certificates.ForClient})

	made, err := kubernetes.NewForConfig(&rest.Config{
		Host: "https://10.96.0.1", QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.Crt, CertData: pair.Crt, KeyData: pair.Key},
	})
	if err != nil {
		s.Fatal(err)
	}

	return made
}

func (s *apiServer) must(_ any, err error) {
	s.Helper()

	if err != nil {
		s.Fatal(err)
	}
}

// prepare makes what controllers make in a cluster, and CoreDNS' rights.
func (s *apiServer) prepare(admin *kubernetes.Clientset, node *corev1.Node) {
	s.Helper()

	create := metav1.CreateOptions{}
	ready := false

	for end := time.Now().Add(patience); !ready && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		_, err := admin.CoreV1().Services("default").Get(s.Context(), "kubernetes", metav1.GetOptions{})
		ready = err == nil
	}

	if !ready {
		s.Fatal("the API server does not answer")
	}

	s.must(admin.CoreV1().Nodes().Create(s.Context(), node, create))
	s.must(admin.CoreV1().Namespaces().Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "apps"}}, create))
	s.must(admin.CoreV1().ServiceAccounts("apps").Create(s.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, create))
	s.must(admin.CoreV1().ConfigMaps("apps").Create(s.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": string(s.authority.Crt)},
	}, create))
	s.must(admin.CoreV1().ConfigMaps("apps").Create(s.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "coredns"},
		Data:       map[string]string{"Corefile": ".:53 {\n errors\n health\n ready\n kubernetes cluster.local\n cache 30\n}\n"},
	}, create))
	s.must(admin.RbacV1().ClusterRoles().Create(s.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "dns"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"", "discovery.k8s.io"}, Resources: []string{"services", "endpointslices", "namespaces"}, Verbs: []string{"list", "watch"}},
	}}, create))
	s.must(admin.RbacV1().ClusterRoleBindings().Create(s.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "dns"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "dns"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "default", Namespace: "apps"}},
	}, create))
	s.must(admin.CoreV1().Services("apps").Create(s.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "site"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.77", Ports: []corev1.ServicePort{{Port: 80}}},
	}, create))
}

func TestARealAPIServerAcceptsWhatTheKubeletDoesForAPod(t *testing.T) {
	server := startAPIServer(t)
	m := newMachine(t)
	m.runtime.Bin, m.runtime.Images = binFolder, programs.Images()
	admin, kubelet := server.client("admin", "system:masters"), server.client("system:node:node01", "system:nodes")
	server.prepare(admin, m.node)

	// sync is what the kubelet does each second, with the rights of its node only.
	sync := func() {
		list, err := kubelet.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=node01"})
		if err != nil {
			t.Fatal(err)
		}

		m.runtime.Sync(kubelet, m.node, true, list.Items)
	}
	until := func(name, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			sync()

			found, err := admin.CoreV1().Pods("apps").Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && wanted(found) {
				return found
			}
		}

		found, err := admin.CoreV1().Pods("apps").Get(t.Context(), name, metav1.GetOptions{})
		data, _ := os.ReadFile(m.runtime.LogFile(found, "main", false))
		t.Fatalf("%s is not %s: %v %+v\n%s", name, what, err, found.Status, data)

		return nil
	}

	dns := pod("dns", "-conf", "/etc/coredns/Corefile")
	dns.UID = ""
	dns.Spec.Containers[0].Image = "registry.k8s.io/coredns/coredns:v1"
	dns.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/etc/coredns", ReadOnly: true}}
	dns.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8181)}}, PeriodSeconds: 1,
	}
	dns.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "coredns"}},
	}}}
	server.must(admin.CoreV1().Pods("apps").Create(t.Context(), dns, metav1.CreateOptions{}))
	address := until("dns", "ready", isPodReady).Status.PodIP

	web := pod("web")
	web.UID = ""
	web.Spec.Containers[0].Image = "ghcr.io/stefanprodan/podinfo:6"
	web.Spec.DNSPolicy = corev1.DNSNone
	web.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{address}, Searches: []string{"apps.svc.cluster.local"}}
	server.must(admin.CoreV1().Pods("apps").Create(t.Context(), web, metav1.CreateOptions{}))
	running := until("web", "ready", isPodReady)

	var out strings.Builder

	err := m.runtime.Executor("apps").ExecInContainer(t.Context(), "web", "", "main", []string{"./podcli", "look-up", "site"}, nil, closing{&out}, closing{&out}, false, nil, 0)
	if err != nil || out.String() != "10.96.0.77\n" {
		t.Errorf("%v: %q", err, out.String())
	}

	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		events, err := admin.CoreV1().Events("apps").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=web,reason=Started"})
		if err == nil && len(events.Items) > 0 {
			break
		}

		if time.Now().After(end) {
			t.Fatal("no event says that it was started", err)
		}
	}

	one := int64(1)
	if err := admin.CoreV1().Pods("apps").Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: &one}); err != nil {
		t.Fatal(err)
	}

	gone := func() bool {
		sync()

		found, err := admin.CoreV1().Pods("apps").Get(t.Context(), "web", metav1.GetOptions{})

		return err != nil || found.UID != running.UID
	}
	for end := time.Now().Add(patience); !gone(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a deleted pod is still there")
		}
	}

	if _, err := os.Stat(filepath.Join(m.runtime.Folder, string(types.UID(running.UID)))); err == nil {
		t.Error("its folder is still there")
	}
}
