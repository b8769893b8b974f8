package kubelet

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestOnlyWhatTalosSetIsRemoved(t *testing.T) {
	present := map[string]string{"mine": "old", "gone": "x", "theirs": "y"}
	wanted := map[string]string{"mine": "new", "fresh": "z"}

	got := ownedChanges(present, wanted, `["mine","gone","never-there"]`)
	if want := map[string]any{"mine": "new", "fresh": "z", "gone": nil}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
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
