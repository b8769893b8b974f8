package kubelet

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/kubelet"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
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

// A running kubelet goes on while its new configuration cannot be read; a new machine never has one.
func TestAKubeletIsNotStartedWithAConfigurationThatTalosCannotRead(t *testing.T) {
	for name, extra := range map[string]map[string]any{
		"a misspelled field": {"maxPod": 200},
		"another kind":       {"maxPods": "200"},
		"inside of a map":    {"systemReserved": map[string]any{"pid": 1000}},
		"a duration":         {"syncFrequency": 60},
	} {
		if _, err := readExtraConfig(extra); err == nil || !strings.Contains(err.Error(), "error unmarshalling extra kubelet configuration") {
			t.Errorf("%s: %v", name, err)
		}
	}

	if read, err := readExtraConfig(map[string]any{"maxPods": 200, "syncFrequency": "1m30s"}); err != nil || read.MaxPods != 200 {
		t.Errorf("%+v, %v", read, err)
	}
}

// What `python -m ops check` knows of the kubelet's configuration is what Talos reads.
func TestTheTableOfTheKubeletsFieldsIsThatOfTalos(t *testing.T) {
	text, err := os.ReadFile("../../../../components/talos/kubelet_fields.yaml")
	if err != nil {
		t.Fatal(err)
	}

	var table map[string][]string
	if err := yaml.Unmarshal(text, &table); err != nil {
		t.Fatal(err)
	}

	told := map[string]string{}

	for kind, fields := range table {
		for _, field := range fields {
			told[field] = kind
		}
	}

	own := "set by Talos"
	known := map[string]string{"apiVersion": own, "kind": own}
	of := reflect.TypeFor[kubeletconfig.KubeletConfiguration]()

	for i := range of.NumField() {
		if name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ","); name != "" {
			known[name] = kindOf(of.Field(i).Type)
		}
	}

	for _, field := range kubelet.ProtectedConfigurationFields {
		known[field] = own
	}

	if !maps.Equal(told, known) {
		t.Errorf("told\n%v\nare\n%v", told, known)
	}
}

// kindOf names what a field holds as the table does.
func kindOf(of reflect.Type) string {
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}

	if of == reflect.TypeFor[metav1.Duration]() {
		return "a duration"
	}

	switch of.Kind() {
	case reflect.Bool:
		return "a switch"
	case reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "a text"
	case reflect.Slice:
		return "a list of " + plural(of.Elem())
	case reflect.Map:
		return plural(of.Elem()) + " by name"
	default:
		return "an object"
	}
}

func plural(of reflect.Type) string {
	switch kind := kindOf(of); kind {
	case "a switch":
		return "switches"
	case "a list of texts":
		return "lists of texts"
	default:
		_, noun, _ := strings.Cut(kind, " ")

		return noun + "s"
	}
}
