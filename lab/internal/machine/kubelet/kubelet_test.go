package kubelet

import (
	"maps"
	"slices"
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	corev1 "k8s.io/api/core/v1"
)

func TestOnlyWhatTalosSetIsRemoved(t *testing.T) {
	present := map[string]string{"mine": "old", "gone": "x", "theirs": "y"}
	wanted := map[string]string{"mine": "new", "fresh": "z"}

	applyOwned(present, wanted, `["mine","gone","never-there"]`)
	if want := map[string]string{"mine": "new", "fresh": "z", "theirs": "y"}; !maps.Equal(present, want) {
		t.Errorf("%v", present)
	}
}

func TestTaintsAreOneOfEachKeyAndEffect(t *testing.T) {
	node := &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{
		{Key: "gpu", Value: "old", Effect: corev1.TaintEffectNoSchedule},
		{Key: "theirs", Effect: corev1.TaintEffectNoExecute},
	}}}

	for range 2 {
		applyTaints(node, map[string]string{"gpu": "a:NoSchedule", "bare": "NoExecute"})
	}

	want := []corev1.Taint{
		{Key: "theirs", Effect: corev1.TaintEffectNoExecute},
		{Key: "bare", Effect: corev1.TaintEffectNoExecute},
		{Key: "gpu", Value: "a", Effect: corev1.TaintEffectNoSchedule},
	}
	if !slices.Equal(node.Spec.Taints, want) {
		t.Errorf("%v", node.Spec.Taints)
	}
}

func TestAKubeletRegistersItsNodeWithTheTaintsOfItsConfiguration(t *testing.T) {
	provider, err := configloader.NewFromBytes([]byte(`
version: v1alpha1
machine:
  type: worker
  kubelet:
    extraConfig:
      registerWithTaints:
        - {key: dedicated, value: gpu, effect: NoSchedule}
`))
	if err != nil {
		t.Fatal(err)
	}

	taints, err := registeredTaints(provider)
	if err != nil || !slices.Equal(taints, []corev1.Taint{{Key: "dedicated", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}}) {
		t.Errorf("%v, %v", taints, err)
	}
}

func TestANodeIsNotReadyWithoutItsNetwork(t *testing.T) {
	object := &corev1.Node{}
	if !setConditions(object, false) || setConditions(object, false) {
		t.Error("the first time is a change, the second is none")
	}

	ready := object.Status.Conditions[3]
	if ready.Type != corev1.NodeReady || ready.Status != corev1.ConditionFalse || ready.Message != networkNotReady {
		t.Errorf("%+v", ready)
	}

	if !setConditions(object, true) || object.Status.Conditions[3].Status != corev1.ConditionTrue {
		t.Error("a network makes it ready")
	}
}
