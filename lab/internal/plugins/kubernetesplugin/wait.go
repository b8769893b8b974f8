package kubernetesplugin

// Layer: waiting until an object is ready, or gone.

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

const (
	pollInterval   = 250 * time.Millisecond
	defaultTimeout = 10 * time.Minute
)

// readiness tells what an object still lacks, in words; "" is ready.
type readiness func(live *unstructured.Unstructured) string

// readinessOf are the kinds that the plugin waits for.
var readinessOf = map[string]readiness{
	"Deployment.apps":       deploymentReady,
	"StatefulSet.apps":      statefulSetReady,
	"DaemonSet.apps":        daemonSetReady,
	"Job.batch":             jobReady,
	"Pod":                   podReady,
	"Service":               serviceReady,
	"PersistentVolume":      volumeReady,
	"PersistentVolumeClaim": claimReady,
	"CustomResourceDefinition.apiextensions.k8s.io": established,
}

// awaitReady waits for an object that was applied and returns it as it is then, with an error when time ran out.
func (o objects) awaitReady(ctx context.Context, live, inputs *unstructured.Unstructured, timeout float64) (*unstructured.Unstructured, error) {
	ready := readinessOf[o.kind.GroupKind().String()]

	if condition := annotation(inputs, waitForAnnotation); condition != "" {
		var err error
		if ready, err = parseWaitFor(condition); err != nil {
			return live, err
		}
	}

	if ready == nil || o.kind.patch || annotated(inputs, skipAwaitAnnotation) {
		return live, nil
	}

	client, err := o.cluster.resource(live)
	if err != nil {
		return live, err
	}

	ctx, cancel := context.WithTimeout(ctx, timeoutOf(inputs, timeout))
	defer cancel()

	return waitUntil(ctx, client, live, ready)
}

func waitUntil(ctx context.Context, client dynamic.ResourceInterface, live *unstructured.Unstructured, ready readiness) (*unstructured.Unstructured, error) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()

	for {
		lacks := ready(live)
		if lacks == "" {
			return live, nil
		}

		select {
		case <-ctx.Done():
			return live, fmt.Errorf("%s %q: timed out waiting to be ready: %s", live.GetKind(), idOf(live), lacks)
		case <-ticker.C:
		}

		current, err := client.Get(ctx, live.GetName(), metav1.GetOptions{})

		switch {
		case apierrors.IsNotFound(err):
			return live, fmt.Errorf("%s %q was deleted while it was awaited", live.GetKind(), idOf(live))
		case err == nil:
			live = current
		}
	}
}

// timeoutOf is the resource's customTimeouts, its annotation, or ten minutes.
func timeoutOf(object *unstructured.Unstructured, seconds float64) time.Duration {
	if seconds > 0 {
		return time.Duration(seconds * float64(time.Second))
	}

	if n, err := strconv.Atoi(annotation(object, timeoutAnnotation)); err == nil {
		return time.Duration(n) * time.Second
	}

	return defaultTimeout
}

// awaitGone waits until a deleted object is gone, or one of the same name with another uid is there.
func (o objects) awaitGone(ctx context.Context, client dynamic.ResourceInterface, object *unstructured.Unstructured, timeout float64) error {
	ctx, cancel := context.WithTimeout(ctx, timeoutOf(object, timeout))
	defer cancel()

	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()

	left := object

	for {
		current, err := client.Get(ctx, object.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && object.GetUID() != "" && current.GetUID() != object.GetUID() {
			return nil
		}

		if err == nil {
			left = current
		}

		select {
		case <-ctx.Done():
			return fmt.Errorf("%s %q: timed out waiting for its deletion; finalizers: %s", object.GetKind(), idOf(object), finalizers(left))
		case <-ticker.C:
		}
	}
}

// finalizers names what keeps an object; a namespace has its own list in spec.
func finalizers(object *unstructured.Unstructured) string {
	names, _, _ := unstructured.NestedStringSlice(object.Object, "spec", "finalizers")
	if names = append(object.GetFinalizers(), names...); len(names) == 0 {
		return "none"
	}

	return strings.Join(names, ", ")
}

func deploymentReady(live *unstructured.Unstructured) string {
	wanted := intAt(live, 1, "spec", "replicas")
	updated, available := intAt(live, 0, "status", "updatedReplicas"), intAt(live, 0, "status", "availableReplicas")
	total := intAt(live, 0, "status", "replicas")

	switch {
	case !observed(live):
		return "the controller has not seen the change yet"
	case updated < wanted || available < wanted:
		return fmt.Sprintf("%d of %d replicas are updated, %d available%s", updated, wanted, available, progress(live))
	case total > updated:
		return fmt.Sprintf("%d old replicas are still there", total-updated)
	}

	return ""
}

// progress adds why a Deployment does not progress, when it says so.
func progress(live *unstructured.Unstructured) string {
	if status, message := condition(live, "Progressing"); status == "False" {
		return ": " + message
	}

	return ""
}

func statefulSetReady(live *unstructured.Unstructured) string {
	wanted, ready := intAt(live, 1, "spec", "replicas"), intAt(live, 0, "status", "readyReplicas")
	current, _, _ := unstructured.NestedString(live.Object, "status", "currentRevision")
	update, _, _ := unstructured.NestedString(live.Object, "status", "updateRevision")
	strategy, _, _ := unstructured.NestedString(live.Object, "spec", "updateStrategy", "type")

	switch {
	case !observed(live):
		return "the controller has not seen the change yet"
	case ready < wanted:
		return fmt.Sprintf("%d of %d replicas are ready", ready, wanted)
	case strategy != "OnDelete" && current != update:
		return "replicas of the old revision are still there"
	}

	return ""
}

func daemonSetReady(live *unstructured.Unstructured) string {
	wanted := intAt(live, 0, "status", "desiredNumberScheduled")
	updated, ready := intAt(live, 0, "status", "updatedNumberScheduled"), intAt(live, 0, "status", "numberReady")
	strategy, _, _ := unstructured.NestedString(live.Object, "spec", "updateStrategy", "type")

	switch {
	case !observed(live):
		return "the controller has not seen the change yet"
	case strategy != "OnDelete" && updated < wanted || ready < wanted:
		return fmt.Sprintf("%d of %d pods are updated, %d ready", updated, wanted, ready)
	}

	return ""
}

func jobReady(live *unstructured.Unstructured) string {
	if status, _ := condition(live, "Complete"); status == "True" {
		return ""
	}

	if status, message := condition(live, "Failed"); status == "True" {
		return "the job failed: " + message
	}

	return fmt.Sprintf("%d pods have succeeded", intAt(live, 0, "status", "succeeded"))
}

func podReady(live *unstructured.Unstructured) string {
	phase, _, _ := unstructured.NestedString(live.Object, "status", "phase")
	status, message := condition(live, "Ready")

	if phase == "Succeeded" || status == "True" {
		return ""
	}

	return fmt.Sprintf("phase %q, not ready: %s", phase, message)
}

func serviceReady(live *unstructured.Unstructured) string {
	kind, _, _ := unstructured.NestedString(live.Object, "spec", "type")
	addresses, _, _ := unstructured.NestedSlice(live.Object, "status", "loadBalancer", "ingress")

	if kind == "LoadBalancer" && len(addresses) == 0 {
		return "no address was given to the load balancer"
	}

	return ""
}

// volumeReady: the published plugin waits for a new volume until it can be bound.
func volumeReady(live *unstructured.Unstructured) string {
	if phase, _, _ := unstructured.NestedString(live.Object, "status", "phase"); phase == "" || phase == "Pending" {
		return fmt.Sprintf("phase %q, not available", phase)
	}

	return ""
}

func claimReady(live *unstructured.Unstructured) string {
	if phase, _, _ := unstructured.NestedString(live.Object, "status", "phase"); phase != "Bound" {
		return fmt.Sprintf("phase %q, not bound", phase)
	}

	return ""
}

func established(live *unstructured.Unstructured) string {
	if status, message := condition(live, "Established"); status != "True" {
		return "not established: " + message
	}

	return ""
}

// observed tells whether the object's controller has seen its last change.
func observed(live *unstructured.Unstructured) bool {
	return intAt(live, 0, "status", "observedGeneration") >= live.GetGeneration()
}

func intAt(live *unstructured.Unstructured, fallback int64, fields ...string) int64 {
	if n, found, err := unstructured.NestedInt64(live.Object, fields...); found && err == nil {
		return n
	}

	return fallback
}

// condition returns the status and the message of one of status.conditions.
func condition(live *unstructured.Unstructured, name string) (status, message string) {
	conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")

	for _, each := range conditions {
		c, ok := each.(map[string]any)
		if !ok || c["type"] != name {
			continue
		}

		status, _ = c["status"].(string)
		message, _ = c["message"].(string)
	}

	return status, message
}
