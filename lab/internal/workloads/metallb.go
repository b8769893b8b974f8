package workloads

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"platform.lab/lab/internal/network"
)

const (
	metallbNamespace     = "metallb-system"
	metallbWebhookSecret = "metallb-webhook-cert"
	metallbProgram       = "metallb-controller"
	metallbContainer     = "controller"
)

var isMetalLB = labelled(metallbNamespace, labels.Set{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "controller"})

// LogOf is the log file of a pod's container whose program is real, in the folder that Options.Dir names; "" of
// all others.
func LogOf(dir, cluster string, pod *corev1.Pod, container string) string {
	if isBackup(pod) {
		return backupLog(dir, cluster, pod)
	}

	if !isMetalLB(pod) || container != metallbContainer {
		return ""
	}

	return filepath.Join(dir, cluster, metallbProgram, metallbProgram+".log")
}

// runMetalLB runs the real controller for the newest ready pod of its Deployment, with the pod's arguments,
// environment and ServiceAccount. It listens on all addresses of the lab's namespace, so one runs at a time;
// an answer on the pod's address (webhooks on 9443) is the controller's own.
func runMetalLB(ctx context.Context, c *cluster) error {
	changed, err := on(ctx, c.pods())
	if err != nil {
		return err
	}

	var (
		current body
		runs    types.UID
	)

	stop := func() {
		if runs != "" {
			current.end()

			runs = ""
		}
	}
	defer stop()

	c.sweep(ctx, metallbProgram, changed, func(ctx context.Context) error {
		ready, err := c.readyPods(isMetalLB)
		if err != nil {
			return err
		}

		if len(ready) == 0 {
			stop()

			return nil
		}

		if newest := ready[len(ready)-1]; newest.UID != runs {
			stop()

			current, runs = c.begin(ctx, metallbProgram, newest, c.runController), newest.UID
		}

		return nil
	})

	return nil
}

// runController is one life of the controller.
func (c *cluster) runController(ctx context.Context, pod *corev1.Pod) error {
	at := slices.IndexFunc(pod.Spec.Containers, func(container corev1.Container) bool { return container.Name == metallbContainer })
	if at < 0 {
		return fmt.Errorf("pod %s has no container %s", pod.Name, metallbContainer)
	}

	credentials, err := c.kubeconfigOf(ctx, pod)
	if err != nil {
		return err
	}

	// The webhook server reads its certificate below the folder for temporary files, whatever --cert-dir says.
	folder := filepath.Join(c.dir, metallbProgram)
	certificates, kubeconfig := filepath.Join(folder, "k8s-webhook-server", "serving-certs"), filepath.Join(folder, "kubeconfig")

	if err := os.RemoveAll(certificates); err != nil { // of an earlier pod
		return err
	}

	if err := os.MkdirAll(certificates, 0o700); err != nil {
		return err
	}

	if err := os.WriteFile(kubeconfig, credentials, 0o600); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	if err := c.mountSecret(ctx, pod.Namespace, metallbWebhookSecret, certificates); err != nil {
		return err
	}

	container := pod.Spec.Containers[at]

	cmd := exec.CommandContext(ctx, filepath.Join(c.options.Bin, metallbProgram), append(slices.Clone(container.Args), "--kubeconfig="+kubeconfig, "--cert-dir="+certificates)...)
	cmd.Env = append(environmentOf(pod, container), "METALLB_NAMESPACE="+pod.Namespace, "TMPDIR="+folder)

	return runProgram(cmd, filepath.Join(folder, metallbProgram+".log"))
}

// environmentOf are a container's variables with plain values and the pod's own name and namespace.
func environmentOf(pod *corev1.Pod, container corev1.Container) []string {
	var all []string

	for _, variable := range container.Env {
		value := variable.Value

		if from := variable.ValueFrom; from != nil && from.FieldRef != nil {
			switch from.FieldRef.FieldPath {
			case "metadata.name":
				value = pod.Name
			case "metadata.namespace":
				value = pod.Namespace
			}
		}

		all = append(all, variable.Name+"="+value)
	}

	return all
}

// mountSecret keeps a folder equal to a Secret, as the kubelet does for a volume.
func (c *cluster) mountSecret(ctx context.Context, namespace, name, folder string) error {
	changed, err := on(ctx, c.secretInformer())
	if err != nil {
		return err
	}

	var written string

	write := func(context.Context) error {
		secret := c.secret(namespace, name)
		if secret == nil || secret.ResourceVersion == written {
			return nil
		}

		if err := writeVolume(folder, secret.Data); err != nil {
			return err
		}

		written = secret.ResourceVersion

		return nil
	}

	go c.sweep(ctx, "volume of Secret "+name, changed, write)

	return nil
}

func writeVolume(folder string, data map[string][]byte) error {
	present, err := os.ReadDir(folder)
	if err != nil {
		return err
	}

	for _, entry := range present {
		if _, wanted := data[entry.Name()]; !wanted {
			if err := os.Remove(filepath.Join(folder, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}

	for name, value := range data {
		if err := os.WriteFile(filepath.Join(folder, name), value, 0o600); err != nil {
			return err
		}
	}

	return nil
}

// killDelay is what a program gets to end by itself.
const killDelay = 3 * time.Second

// runProgram runs a program that ends with the command's context; an end by itself is an error.
func runProgram(cmd *exec.Cmd, logPath string) error {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay

	if err := network.Start(cmd); err != nil {
		return err
	}

	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s ended, see %s: %w", filepath.Base(cmd.Path), logPath, err)
	}

	return fmt.Errorf("%s ended, see %s", filepath.Base(cmd.Path), logPath)
}
