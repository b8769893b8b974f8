package kwok

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kwok/pkg/apis/internalversion"
	"sigs.k8s.io/kwok/pkg/utils/expression"
	"sigs.k8s.io/yaml"

	"platform.lab/lab/internal/programs"
)

// stage is one of KWOK's that takes every pod.
const stage = `apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-delete
spec:
  resourceRef:
    apiGroup: v1
    kind: Pod
  selector:
    matchExpressions:
    - key: '.spec'
      operator: 'Exists'
  next:
    delete: true
`

func TestKWOKLeavesThePodsAloneThatRunAsProcesses(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "pod-delete.yaml"), []byte(stage), 0o600); err != nil {
		t.Fatal(err)
	}

	pod := func(images ...string) corev1.Pod {
		made := corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "first", Image: images[0]}}}}
		for _, image := range images {
			made.Spec.Containers = append(made.Spec.Containers, corev1.Container{Image: image})
		}

		return made
	}
	known := []programs.Image{{Repository: "example.com:5000/known"}, {Repository: "example.com/other"}}

	for name, one := range map[string]struct {
		images    []programs.Image
		pod       corev1.Pod
		simulated bool
	}{
		"known":                {known, pod("example.com:5000/known:v1"), false},
		"known by its digest":  {known, pod("example.com/other@sha256:00"), false},
		"both":                 {known, pod("example.com/other:1@sha256:00", "example.com:5000/known"), false},
		"one is unknown":       {known, pod("example.com/other:1", "example.com/another:1"), true},
		"a name begins alike":  {known, pod("example.com/other-one:1"), true},
		"nothing is a process": {nil, pod("example.com/other:1"), true},
	} {
		t.Run(name, func(t *testing.T) {
			stages, err := podStages(folder, one.images)
			if err != nil {
				t.Fatal(err)
			}

			if got := matches(t, stages, one.pod); got != one.simulated {
				t.Errorf("simulated: %v", got)
			}
		})
	}
}

// matches asks KWOK's own code whether the last of the stages takes a pod.
func matches(t *testing.T, stages []byte, pod corev1.Pod) bool {
	t.Helper()

	var last struct {
		Spec struct {
			Selector struct {
				MatchExpressions []struct {
					Key      string                           `json:"key"`
					Operator internalversion.SelectorOperator `json:"operator"`
					Values   []string                         `json:"values"`
				} `json:"matchExpressions"`
			} `json:"selector"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(stages[len(noNodeStage)+len("---\n"):], &last); err != nil {
		t.Fatal(err)
	}

	for _, one := range last.Spec.Selector.MatchExpressions {
		requirement, err := expression.NewRequirement(one.Key, one.Operator, one.Values)
		if err != nil {
			t.Fatal(err)
		}

		if ok, err := requirement.Matches(t.Context(), pod); err != nil {
			t.Fatal(err)
		} else if !ok {
			return false
		}
	}

	return true
}
