package workloads

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	talosclient "github.com/siderolabs/talos/pkg/machinery/client"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"golang.org/x/net/http/httpproxy"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"platform.lab/lab/internal/storage"
)

const (
	backupName = "etcd-backup"
	nameLabel  = "app.kubernetes.io/name"
	// restartPause is what a kubelet waits before a container's first restart; it doubles to restartLongest.
	restartPause   = 10 * time.Second
	restartLongest = 5 * time.Minute
	backupTimeout  = 2 * time.Minute
)

// isBackup says whether a pod takes a backup: KWOK leaves its end to us (machine/kwok.go).
func isBackup(pod *corev1.Pod) bool { return pod.Labels[nameLabel] == backupName }

func backupLog(dir, cluster string, pod *corev1.Pod) string {
	return filepath.Join(dir, cluster, backupName, pod.Namespace+"-"+pod.Name+".log")
}

// runBackups does the work of every backup pod that runs, and says in the pod's status how it ended.
func runBackups(ctx context.Context, c *cluster) error {
	changed, err := on(ctx, c.pods())
	if err != nil {
		return err
	}

	var running sync.WaitGroup
	defer running.Wait()

	begun := map[types.UID]bool{}

	c.sweep(ctx, backupName, changed, func(ctx context.Context) error {
		all, err := c.objects.Core().V1().Pods().Lister().List(labels.SelectorFromSet(labels.Set{nameLabel: backupName}))
		if err != nil {
			return err
		}

		for _, pod := range all {
			if pod.Status.Phase == corev1.PodRunning && !begun[pod.UID] {
				begun[pod.UID] = true

				running.Go(func() { c.playBackup(ctx, pod.DeepCopy()) })
			}
		}

		return nil
	})

	return nil
}

// playBackup runs a pod's container until it ends well, as a kubelet does: a failed one is restarted after a pause.
func (c *cluster) playBackup(ctx context.Context, pod *corev1.Pod) {
	for pause := restartPause; ctx.Err() == nil; pause = min(2*pause, restartLongest) {
		says, err := c.backup(ctx, pod)
		if ctx.Err() != nil {
			return
		}

		if err != nil {
			says = err.Error()
		}

		c.logBackup(pod, says)

		again, failure := c.endBackup(ctx, pod, says, err)
		if failure != nil {
			c.log.Warn("how a backup ended could not be said", "pod", pod.Name, "error", failure)
		}

		if !again {
			return
		}

		sleep(ctx, pause)
	}
}

func (c *cluster) logBackup(pod *corev1.Pod, says string) {
	path := backupLog(c.options.Dir, c.name, pod)
	line := time.Now().UTC().Format("2006/01/02 15:04:05 ") + says + "\n"

	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		var file *os.File
		if file, err = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			_, err = file.WriteString(line)
			err = errors.Join(err, file.Close())
		}
	}

	if err != nil {
		c.log.Warn("a backup's log could not be written", "pod", pod.Name, "error", err)
	}
}

// endBackup writes into the pod's status how its container ended; again says whether it is to be restarted.
func (c *cluster) endBackup(ctx context.Context, pod *corev1.Pod, says string, failed error) (again bool, err error) {
	pods := c.client.CoreV1().Pods(pod.Namespace)

	now, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil || now.UID != pod.UID || now.DeletionTimestamp != nil || len(now.Status.ContainerStatuses) == 0 {
		return false, err
	}

	status := &now.Status.ContainerStatuses[0]
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Reason: "Completed", Message: says, FinishedAt: metav1.Now(), StartedAt: metav1.Now(),
	}}
	status.Ready, status.Started = false, new(bool)

	switch {
	case failed == nil:
		status.State, now.Status.Phase = ended, corev1.PodSucceeded
	case pod.Spec.RestartPolicy == corev1.RestartPolicyNever:
		ended.Terminated.Reason, ended.Terminated.ExitCode = "Error", 1
		status.State, now.Status.Phase = ended, corev1.PodFailed
	default:
		ended.Terminated.Reason, ended.Terminated.ExitCode = "Error", 1
		status.LastTerminationState = ended
		status.RestartCount++
		status.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		again = true
	}

	_, err = pods.UpdateStatus(ctx, now, metav1.UpdateOptions{})

	return again, err
}

// backup does a pod's work once, from the pod's address, and says what it did.
func (c *cluster) backup(ctx context.Context, pod *corev1.Pod) (says string, err error) {
	ctx, cancel := context.WithTimeout(ctx, backupTimeout)
	defer cancel()

	err = c.withAddress(ctx, pod, func(ctx context.Context, pod *corev1.Pod) error {
		says, err = c.upload(ctx, pod)

		return err
	})

	return says, err
}

// upload takes a snapshot of etcd to the storage.
func (c *cluster) upload(ctx context.Context, pod *corev1.Pod) (string, error) {
	environment, err := c.environment(ctx, pod)
	if err != nil {
		return "", err
	}

	if err := c.resolves(ctx, environment["CUSTOM_S3_ENDPOINT"]); err != nil {
		return "", err
	}

	trusted, err := c.trusted(ctx, pod, environment[authoritiesVariable])
	if err != nil {
		return "", err
	}

	way := wayOut(environment)
	if by, err := way(talosAPI); err != nil || by != nil {
		return "", fmt.Errorf("failed to take etcd snapshot: rpc error: code = Unavailable desc = %s is asked for by the proxy %v, which does not know it", talosAPI.Host, by)
	}

	job := storage.Job{
		Environment: environment, HTTP: c.outside(trusted, way), Now: time.Now,
		Snapshot: func(ctx context.Context) (io.ReadCloser, error) { return c.snapshot(ctx, pod) },
	}

	key, err := job.Run(ctx)
	if err != nil {
		return "", err
	}

	return "uploaded " + key, nil
}

// environment is what a pod's first container gets.
func (c *cluster) environment(ctx context.Context, pod *corev1.Pod) (map[string]string, error) {
	environment := map[string]string{}
	container := pod.Spec.Containers[0]

	for _, source := range container.EnvFrom {
		if source.SecretRef == nil {
			continue
		}

		secret, err := c.client.CoreV1().Secrets(pod.Namespace).Get(ctx, source.SecretRef.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}

		for name, value := range secret.Data {
			environment[name] = string(value)
		}
	}

	for _, one := range container.Env {
		environment[one.Name] = one.Value
	}

	return environment, nil
}

// authoritiesVariable names folders of authorities that Go reads beside the image's own (crypto/x509, root_unix.go).
const authoritiesVariable = "SSL_CERT_DIR"

// talosAPI is where the credentials that Talos makes say that its API is.
var talosAPI = &url.URL{Scheme: "https", Host: "talos.default:50000"}

// wayOut says by which proxy a Go program with this environment reaches a URL.
func wayOut(environment map[string]string) func(*url.URL) (*url.URL, error) {
	either := func(name string) string { return cmp.Or(environment[strings.ToUpper(name)], environment[name]) }

	return (&httpproxy.Config{HTTPProxy: either("http_proxy"), HTTPSProxy: either("https_proxy"), NoProxy: either("no_proxy")}).ProxyFunc()
}

// trusted are the authorities of a pod's first container: public ones, which the world's stands for, and those of the
// ConfigMaps that are mounted at the folders given.
func (c *cluster) trusted(ctx context.Context, pod *corev1.Pod, folders string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.options.Authority.PEM())

	for _, mount := range pod.Spec.Containers[0].VolumeMounts {
		if !slices.Contains(filepath.SplitList(folders), mount.MountPath) {
			continue
		}

		for _, volume := range pod.Spec.Volumes {
			if volume.Name != mount.Name || volume.ConfigMap == nil {
				continue
			}

			found, err := c.client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, volume.ConfigMap.Name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}

			for _, text := range found.Data {
				pool.AppendCertsFromPEM([]byte(text))
			}
		}
	}

	return pool, nil
}

// outside reaches what the site's name servers know.
func (c *cluster) outside(trusted *x509.CertPool, way func(*url.URL) (*url.URL, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:           func(r *http.Request) (*url.URL, error) { return way(r.URL) },
		TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, kind, address string) (net.Conn, error) {
			name, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}

			where, err := c.lookUp(name)
			if err != nil {
				return nil, &net.OpError{Op: "dial", Net: kind, Err: err}
			}

			return new(net.Dialer).DialContext(ctx, kind, net.JoinHostPort(where, port))
		},
	}}
}

func (c *cluster) lookUp(name string) (string, error) {
	if net.ParseIP(name) != nil {
		return name, nil
	}

	if c.options.Resolve != nil {
		if address, known := c.options.Resolve(name); known {
			return address.String(), nil
		}
	}

	return "", &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// snapshot reads one through the Talos API, with the credentials that Talos made for the pod's account.
func (c *cluster) snapshot(ctx context.Context, pod *corev1.Pod) (io.ReadCloser, error) {
	config, err := c.talosConfig(ctx, pod)
	if err != nil {
		return nil, err
	}

	// What the Service's name leads to in a pod.
	slices, err := c.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=talos"})
	if err != nil {
		return nil, err
	}

	var addresses []string
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			addresses = append(addresses, endpoint.Addresses...)
		}
	}

	if len(addresses) == 0 {
		return nil, errors.New("no machine serves the Talos API to pods: Service default/talos has no endpoints")
	}

	client, err := talosclient.New(ctx, talosclient.WithConfig(config), talosclient.WithEndpoints(addresses[0]),
		talosclient.WithGRPCDialOptions(grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialerOf(pod).DialContext(ctx, "tcp", address)
		})))
	if err != nil {
		return nil, err
	}

	snapshot, err := client.EtcdSnapshot(ctx, &machineapi.EtcdSnapshotRequest{})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}

	return closing{snapshot, client}, nil
}

func (c *cluster) talosConfig(ctx context.Context, pod *corev1.Pod) (*clientconfig.Config, error) {
	for _, volume := range pod.Spec.Volumes {
		if volume.Secret == nil {
			continue
		}

		secret, err := c.client.CoreV1().Secrets(pod.Namespace).Get(ctx, volume.Secret.SecretName, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}

		return clientconfig.FromBytes(secret.Data["config"])
	}

	return nil, fmt.Errorf("pod %s mounts no credentials of Talos", pod.Name)
}

// closing ends the connection with what was read by it.
type closing struct {
	io.ReadCloser
	client *talosclient.Client
}

func (s closing) Close() error { return errors.Join(s.ReadCloser.Close(), s.client.Close()) }
