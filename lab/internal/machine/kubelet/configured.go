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
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"platform.lab/lab/internal/machine/kubeapi"
)

const (
	ownedLabels      = "talos.dev/owned-labels"
	ownedAnnotations = "talos.dev/owned-annotations"
)

// applyConfigured puts the labels, annotations and taints of the machine configuration on the Node, as Talos'
// NodeApplyController does: in one update, on a control plane as administrator, on a worker as the kubelet. That may
// set neither taints nor most labels below kubernetes.io (the admission NodeRestriction), and with one that is refused
// all are lost. What Talos has set itself is removed when the configuration drops it.
func (n *Kubelet) applyConfigured(ctx context.Context, client kubernetes.Interface, provider config.Provider, object *corev1.Node) error {
	wanted := object.DeepCopy()
	configure(wanted, provider, n.IsControlPlane())

	if equality.Semantic.DeepEqual(wanted, object) {
		return nil
	}

	if n.IsControlPlane() {
		admin, err := kubeapi.AdminClient(n.Network.Dial, provider)
		if err != nil {
			return err
		}

		client = admin
	}

	updated, err := client.CoreV1().Nodes().Update(ctx, wanted, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil // somebody was faster; it is tried again at once
	}

	if err != nil {
		return fmt.Errorf("node labels and taints: %w", err)
	}

	n.remember(updated)

	return nil
}

// configure writes what the machine configuration says of its Node.
func configure(node *corev1.Node, provider config.Provider, controlPlane bool) {
	labels := maps.Clone(map[string]string(provider.Machine().NodeLabels()))
	if labels == nil {
		labels = map[string]string{}
	}

	if controlPlane {
		labels[constants.LabelNodeRoleControlPlane] = ""
	}

	if node.Labels == nil {
		node.Labels = map[string]string{}
	}

	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}

	annotations := provider.Machine().NodeAnnotations()
	beforeLabels, beforeAnnotations := node.Annotations[ownedLabels], node.Annotations[ownedAnnotations]

	if len(labels) > 0 || beforeLabels != "" {
		node.Annotations[ownedLabels] = string(kubeapi.MustJSON(owned(labels)))
	}

	if len(annotations) > 0 || beforeAnnotations != "" {
		node.Annotations[ownedAnnotations] = string(kubeapi.MustJSON(owned(annotations)))
	}

	applyOwned(node.Labels, labels, beforeLabels)
	applyOwned(node.Annotations, annotations, beforeAnnotations)
	applyTaints(node, provider.Machine().NodeTaints())
}

// applyOwned brings the present values to the wanted ones; values that Talos had set before and that are not wanted any
// more go.
func applyOwned(present, wanted map[string]string, before string) {
	maps.Copy(present, wanted)

	for _, key := range split(before) {
		if _, still := wanted[key]; !still {
			delete(present, key)
		}
	}
}

// applyTaints sets machine.nodeTaints ("value:effect" by key).
func applyTaints(node *corev1.Node, taints map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(taints)) {
		value, effect, found := strings.Cut(taints[key], ":")
		if !found {
			value, effect = "", taints[key]
		}

		taint := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
		if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) && t.Value == value }) {
			node.Spec.Taints = append(slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }), taint)
		}
	}
}

// registeredTaints are those that the kubelet brings when it registers its Node (extraConfig, registerWithTaints).
func registeredTaints(provider config.Provider) ([]corev1.Taint, error) {
	extra, err := readExtraConfig(provider.Machine().Kubelet().ExtraConfig())

	return extra.RegisterWithTaints, err
}

func owned(values map[string]string) []string { return slices.Sorted(maps.Keys(values)) }

// split reads the JSON list of an owned-labels annotation; a broken one owns nothing.
func split(list string) []string {
	var keys []string

	_ = json.Unmarshal([]byte(list), &keys)

	return keys
}
