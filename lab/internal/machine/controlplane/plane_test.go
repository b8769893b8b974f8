package controlplane

import (
	"testing"

	"platform.lab/lab/internal/machine/arguments"
)

func TestAComponentIsTheSameUntilAnInputChanges(t *testing.T) {
	make := func() Component {
		return Component{Name: Scheduler, Image: "a:v1", Arguments: arguments.Of(map[string]string{"v": "1", "w": "2"}), files: map[string][]byte{"a": []byte("b")}}
	}
	one := make()

	for name, change := range map[string]func(*Component){
		"image":       func(c *Component) { c.Image = "a:v2" },
		"argument":    func(c *Component) { c.Arguments["v"] = []string{"2"} },
		"environment": func(c *Component) { c.environment = []string{"A=b"} },
		"file":        func(c *Component) { c.files["a"] = []byte("c") },
	} {
		other := make()
		if one.identity() != other.identity() {
			t.Errorf("%s: two equal components differ", name)
		}

		change(&other)

		if one.identity() == other.identity() {
			t.Errorf("%s: the change is not seen", name)
		}
	}
}
