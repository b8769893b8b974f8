//go:build lab

package machine

import (
	"bufio"
	"context"
	"crypto/tls"
	stdx509 "crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	machinetype "github.com/siderolabs/talos/pkg/machinery/config/machine"

	"platform.lab/lab/internal/machine/configtest"
)

const (
	rotated   = `machine: {kubelet: {extraArgs: {rotate-server-certificates: "true"}}}`
	collector = "172.16.20.1:5044"
	logging   = "machine:\n  logging:\n    destinations: [{endpoint: \"tcp://" + collector + "\", format: json_lines, extraTags: {site: lab}}]\n---\n" +
		"apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: collector\nurl: tcp://" + collector + "\n"
)

// TestAMachineIsReachedFromItsCluster is one story on one control plane: what the cluster's own programs see of a machine.
func TestAMachineIsReachedFromItsCluster(t *testing.T) {
	w := newWorld(t)
	lines := collect(t)

	w.startup(1)
	w.apply(1, machinetype.TypeControlPlane, rotated, configtest.TalosAccess, logging)
	w.bootstrap(1)
	w.kubectl("apply", "-f", w.file("cilium.yaml", ciliumDaemonSet))
	w.until("node01 is ready", func() bool { return w.status(1).Ready })

	w.tell(
		chapter{"without an approval the kubelet shows no certificate", noCertificate},
		chapter{"an approved certificate is shown and outlives a reboot", approvedCertificate},
		chapter{"the kubelet tells what pods use to whom the cluster allows it", resourceMetrics},
		chapter{"a backup account may take snapshots and no more", backupAccount},
	)

	for _, wanted := range []map[string]any{
		{"talos-service": "machined", "site": "lab", "msg": "stage running"},
		{"talos-service": "etcd", "talos-level": "warn"},
		{"talos-service": "kubelet", "msg": "node registered"},
		{"facility": "user", "msg": "[talos] stage running\n"},
	} {
		w.until(fmt.Sprintf("a log line with %v", wanted), func() bool { return lines.have(wanted) })
	}

	w.Log(w.talosctl(1, "logs", "kubelet", "--tail=3"))
}

// file writes a file of the world and gives its path.
func (w *world) file(name, text string) string {
	w.Helper()

	path := filepath.Join(w.folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}

	return path
}

// collected are the JSON lines that machines have sent.
type collected struct {
	mu    sync.Mutex
	lines []map[string]any
}

func collect(t *testing.T) *collected {
	t.Helper()

	listener, err := net.Listen("tcp", collector)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { listener.Close() })

	all := &collected{}

	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}

			go all.take(conn)
		}
	}()

	return all
}

func (c *collected) take(conn net.Conn) {
	defer conn.Close()

	for scanner := bufio.NewScanner(conn); scanner.Scan(); {
		var line map[string]any
		if json.Unmarshal(scanner.Bytes(), &line) != nil {
			line = map[string]any{"broken": scanner.Text()}
		}

		c.mu.Lock()
		c.lines = append(c.lines, line)
		c.mu.Unlock()
	}
}

func (c *collected) have(wanted map[string]any) bool {
	c.mu.Lock()
	defer c.mu.Unlock()

	for _, line := range c.lines {
		same := true
		for key, value := range wanted {
			same = same && line[key] == value
		}

		if same {
			return true
		}
	}

	return false
}

// kubelet asks node01's kubelet, verified by the cluster's CA, with a token.
func (w *world) kubelet(path, token string) (int, string, error) {
	roots := stdx509.NewCertPool()
	roots.AppendCertsFromPEM(w.input.Options.SecretsBundle.Certs.K8s.Crt)

	client := &http.Client{
		Timeout:   20 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true},
	}

	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+address(1)+":10250"+path, nil)
	if err != nil {
		w.Fatal(err)
	}

	request.Header.Set("Authorization", "Bearer "+token)

	answer, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()

	body, err := io.ReadAll(answer.Body)

	return answer.StatusCode, string(body), err
}

func noCertificate(w *world) {
	w.until("the kubelet has asked", func() bool {
		return strings.Contains(w.kubectlSays("get", "csr"), "kubernetes.io/kubelet-serving")
	})

	if _, _, err := w.kubelet("/healthz", ""); err == nil || !strings.Contains(err.Error(), "remote error: tls: internal error") {
		w.Errorf("the handshake: %v", err)
	}

	time.Sleep(5 * time.Second)

	if all := w.kubectl("get", "csr", "--field-selector=spec.signerName=kubernetes.io/kubelet-serving", "-o", "name"); strings.Count(all, "\n") != 1 {
		w.Errorf("requests pile up: %s", all)
	}
}

func approvedCertificate(w *world) {
	name := w.kubectl("get", "csr", "--field-selector=spec.signerName=kubernetes.io/kubelet-serving", "-o", "jsonpath={.items[0].metadata.name}")
	w.kubectl("certificate", "approve", name)

	serial := func() string {
		conn, err := tls.Dial("tcp", net.JoinHostPort(address(1), "10250"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return ""
		}
		defer conn.Close()

		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: conn.ConnectionState().PeerCertificates[0].Raw}))
	}
	w.until("the certificate is shown", func() bool { return serial() != "" })

	if code, _, err := w.kubelet("/healthz", "nobody's"); err != nil || code != http.StatusUnauthorized {
		w.Errorf("%d, %v", code, err)
	}

	if output := w.kubectl("get", "--raw", "/api/v1/nodes/node01/proxy/healthz"); output != "ok" {
		w.Errorf("through the API server: %s", output)
	}

	first, before := serial(), w.bootID(1)
	w.talosctl(1, "reboot", "--wait=false")
	w.until("node01 is back", func() bool {
		after := w.bootID(1)

		return after != "" && after != before
	})
	w.until("the same certificate is shown", func() bool { return serial() == first })
	w.until("the API answers", w.apiAnswers)
}

const loaded = `apiVersion: v1
kind: Pod
metadata: {name: loaded, namespace: default, annotations: {lab.platform/cpu: 400m, lab.platform/memory: 200Mi}}
spec:
  tolerations: [{operator: Exists}]
  containers: [{name: web, image: "example/web:v1"}]
`

func resourceMetrics(w *world) {
	w.until("a pod is made", func() bool {
		_, err := w.try("kubectl", "apply", "-f", w.file("pod.yaml", loaded))

		return err == nil
	})
	w.kubectl("create", "serviceaccount", "scraper")
	w.kubectl("create", "clusterrole", "scraper", "--verb=get", "--resource=nodes/metrics")
	w.kubectl("create", "clusterrolebinding", "scraper", "--clusterrole=scraper", "--serviceaccount=default:scraper")
	token := strings.TrimSpace(w.kubectl("create", "token", "scraper"))

	w.until("the pod's use is told", func() bool {
		_, body, _ := w.kubelet("/metrics/resource", token)

		return strings.Contains(body, `pod_memory_working_set_bytes{namespace="default",pod="loaded"} 2.097152e+08`) &&
			strings.Contains(body, `container_cpu_usage_seconds_total{container="kube-apiserver",namespace="kube-system",pod="kube-apiserver-node01"}`)
	})

	if code, body, err := w.kubelet("/pods", token); err != nil || code != http.StatusForbidden {
		w.Errorf("%d %s %v", code, body, err)
	}
}

const backupAccounts = `apiVersion: v1
kind: Namespace
metadata: {name: platform-backup}
---
apiVersion: talos.dev/v1alpha1
kind: ServiceAccount
metadata: {name: backup, namespace: platform-backup}
spec: {roles: ["os:etcd:backup"]}
---
apiVersion: talos.dev/v1alpha1
kind: ServiceAccount
metadata: {name: root, namespace: platform-backup}
spec: {roles: ["os:admin"]}
`

func backupAccount(w *world) {
	w.until("the accounts can be made", func() bool {
		_, err := w.try("kubectl", "apply", "-f", w.file("accounts.yaml", backupAccounts))

		return err == nil
	})

	var secret struct {
		Data map[string][]byte `json:"data"`
	}

	w.until("the credentials are there", func() bool {
		output, err := w.try("kubectl", "-n", "platform-backup", "get", "secret", "backup", "-o", "json")

		return err == nil && json.Unmarshal([]byte(output), &secret) == nil
	})
	w.until("the other account is refused", func() bool {
		return strings.Contains(w.kubectlSays("-n", "platform-backup", "get", "tsa", "root", "-o", "jsonpath={.status.failureReason}"), "Roles not allowed: [os:admin]")
	})

	talosconfig := w.file("backup-talosconfig", string(secret.Data["config"]))
	as := func(arguments ...string) (string, error) {
		return w.tryTalosctl(1, append([]string{"--talosconfig", talosconfig}, arguments...)...)
	}

	if output, err := as("etcd", "snapshot", filepath.Join(w.folder, "by-backup.snapshot")); err != nil {
		w.Errorf("snapshot: %s", output)
	}

	for _, forbidden := range [][]string{{"kubeconfig", w.folder}, {"reboot", "--wait=false"}, {"get", "machineconfig"}, {"service"}, {"etcd", "defrag"}} {
		if output, err := as(forbidden...); err == nil || !strings.Contains(output, "not authorized") {
			w.Errorf("a backup account may not %v: %s", forbidden, output)
		}
	}

	w.Log(w.kubectl("get", "endpointslices,services,events", "-A"))
}
