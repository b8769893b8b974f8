package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"platform.lab/lab/internal/machine/kubeapi"
)

const (
	ownedLabels      = "talos.dev/owned-labels"
	ownedAnnotations = "talos.dev/owned-annotations"
)

// applyConfigured puts the labels, annotations and taints of the machine configuration on the Node, as Talos'
// NodeApplyController does: on a control plane as administrator, on a worker as the kubelet, which may not
// set labels of node-role.kubernetes.io. What Talos has set itself is removed when the configuration drops it.
func (n *Kubelet) applyConfigured(ctx context.Context, client kubernetes.Interface, provider config.Provider, object *corev1.Node) error {
	labels := maps.Clone(map[string]string(provider.Machine().NodeLabels()))
	if labels == nil {
		labels = map[string]string{}
	}

	if n.IsControlPlane() {
		labels[constants.LabelNodeRoleControlPlane] = ""
	}

	patch := map[string]any{}
	changes := ownedChanges(object.Labels, labels, object.Annotations[ownedLabels])
	annotations := ownedChanges(object.Annotations, provider.Machine().NodeAnnotations(), object.Annotations[ownedAnnotations])

	if len(changes) == 0 && len(annotations) == 0 && slices.Equal(owned(labels), split(object.Annotations[ownedLabels])) {
		return n.applyTaints(ctx, provider, object)
	}

	annotations[ownedLabels] = string(kubeapi.MustJSON(owned(labels)))
	annotations[ownedAnnotations] = string(kubeapi.MustJSON(owned(provider.Machine().NodeAnnotations())))
	patch["metadata"] = map[string]any{"labels": changes, "annotations": annotations}

	if n.IsControlPlane() {
		admin, err := kubeapi.AdminClient(n.Network.Dial, provider)
		if err != nil {
			return err
		}

		client = admin
	}

	updated, err := client.CoreV1().Nodes().Patch(ctx, object.Name, types.MergePatchType, kubeapi.MustJSON(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("node labels: %w", err)
	}

	n.remember(updated)

	return nil
}

// applyTaints sets machine.nodeTaints ("value:effect" by key) on a control plane's Node.
func (n *Kubelet) applyTaints(ctx context.Context, provider config.Provider, object *corev1.Node) error {
	wanted := object.DeepCopy()

	for key, text := range provider.Machine().NodeTaints() {
		value, effect, found := strings.Cut(text, ":")
		if !found {
			value, effect = "", text
		}

		taint := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
		if !slices.ContainsFunc(wanted.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) && t.Value == value }) {
			wanted.Spec.Taints = append(slices.DeleteFunc(wanted.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }), taint)
		}
	}

	if len(wanted.Spec.Taints) == len(object.Spec.Taints) || !n.IsControlPlane() {
		return nil
	}

	admin, err := kubeapi.AdminClient(n.Network.Dial, provider)
	if err != nil {
		return err
	}

	_, err = admin.CoreV1().Nodes().Update(ctx, wanted, metav1.UpdateOptions{})

	return err
}

// ownedChanges is the merge patch from the present values to the wanted ones; values that Talos had set and
// that are not wanted any more become null.
func ownedChanges(present, wanted map[string]string, before string) map[string]any {
	changes := map[string]any{}

	for key, value := range wanted {
		if current, ok := present[key]; !ok || current != value {
			changes[key] = value
		}
	}

	for _, key := range split(before) {
		if _, still := wanted[key]; !still {
			if _, there := present[key]; there {
				changes[key] = nil
			}
		}
	}

	return changes
}

func owned(values map[string]string) []string { return slices.Sorted(maps.Keys(values)) }

// split reads the JSON list of an owned-labels annotation; a broken one owns nothing.
func split(list string) []string {
	var keys []string

	_ = json.Unmarshal([]byte(list), &keys)

	return keys
}
