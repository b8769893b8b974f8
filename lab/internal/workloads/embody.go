package workloads

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"platform.lab/lab/internal/httpserver"
)

// embody runs a server for every pod that is selected and ready, from then to the pod's end: the pod's address is
// added to the lab's loopback, and `start` serves on it until its context ends. A start that fails is tried again.
func (c *cluster) embody(ctx context.Context, what string, selects func(*corev1.Pod) bool, start func(context.Context, *corev1.Pod) error) error {
	changed, err := on(ctx, c.pods())
	if err != nil {
		return err
	}

	bodies := map[types.UID]body{}
	defer func() {
		for _, b := range bodies {
			b.end()
		}
	}()

	c.sweep(ctx, what, changed, func(ctx context.Context) error {
		wanted, err := c.readyPods(selects)
		if err != nil {
			return err
		}

		for uid, b := range bodies {
			if !slices.ContainsFunc(wanted, func(p *corev1.Pod) bool { return p.UID == uid }) {
				b.end()
				delete(bodies, uid)
			}
		}

		for _, pod := range wanted {
			if _, runs := bodies[pod.UID]; !runs {
				bodies[pod.UID] = c.begin(ctx, what, pod, start)
			}
		}

		return nil
	})

	return nil
}

// body is a running server of a pod.
type body struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

func (b body) end() {
	b.cancel()
	<-b.ended
}

func (c *cluster) begin(ctx context.Context, what string, pod *corev1.Pod, start func(context.Context, *corev1.Pod) error) body {
	ctx, cancel := context.WithCancel(ctx)
	b := body{cancel: cancel, ended: make(chan struct{})}

	go func() {
		defer close(b.ended)

		c.retry(ctx, what+" "+pod.Name, func(ctx context.Context) error { return c.withAddress(ctx, pod, start) })
	}()

	return b
}

func (c *cluster) withAddress(ctx context.Context, pod *corev1.Pod, start func(context.Context, *corev1.Pod) error) error {
	address, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return fmt.Errorf("address of pod %s: %w", pod.Name, err)
	}

	if err := c.addresses.hold(address, onLoopback); err != nil {
		return err
	}

	return errors.Join(start(ctx, pod), c.addresses.release(address, onLoopback))
}

// readyPods are the selected pods that run, are ready and have an address of their own, by name. A pod in its
// node's network is none: its address is the machine's.
func (c *cluster) readyPods(selects func(*corev1.Pod) bool) ([]*corev1.Pod, error) {
	all, err := c.objects.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}

	ready := slices.DeleteFunc(all, func(pod *corev1.Pod) bool {
		return !isReady(pod) || pod.Spec.HostNetwork || pod.Status.PodIP == "" || !selects(pod)
	})
	slices.SortFunc(ready, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })

	return ready, nil
}

func isReady(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning && slices.ContainsFunc(pod.Status.Conditions,
		func(condition corev1.PodCondition) bool {
			return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
		})
}

// labelled selects pods of a namespace ("" is any) by labels.
func labelled(namespace string, wanted labels.Set) func(*corev1.Pod) bool {
	selector := wanted.AsSelector()

	return func(pod *corev1.Pod) bool {
		return (namespace == "" || pod.Namespace == namespace) && selector.Matches(labels.Set(pod.Labels))
	}
}

// port is a container port by its name, or the usual one.
func port(pod *corev1.Pod, name string, usual int32) int32 {
	for _, container := range pod.Spec.Containers {
		for _, p := range container.Ports {
			if p.Name == name {
				return p.ContainerPort
			}
		}
	}

	return usual
}

// endpoint is one port of an embodied pod.
type endpoint struct {
	port    int32
	handler http.Handler
	// tls is nil for plain HTTP.
	tls *tls.Config
}

// serve answers on a pod's address until the context ends.
func (c *cluster) serve(ctx context.Context, pod *corev1.Pod, endpoints ...endpoint) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	done := make(chan struct{})
	started := 0

	for _, e := range endpoints {
		address := net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(e.port)))

		listener, err := net.Listen("tcp", address)
		if err != nil {
			cancel(err)

			break
		}

		started++

		go func() {
			defer func() { done <- struct{}{} }()

			cancel(httpserver.Serve(ctx, listener, &http.Server{Handler: e.handler, TLSConfig: e.tls}, c.log))
		}()
	}

	for range started {
		<-done
	}

	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}

	return nil
}
