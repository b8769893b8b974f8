package machine

import (
	"testing"

	"platform.lab/lab/internal/machine/arguments"
)

func TestAComponentIsTheSameUntilAnInputChanges(t *testing.T) {
	make := func() component {
		return component{name: scheduler, image: "a:v1", arguments: arguments.Of(map[string]string{"v": "1", "w": "2"}), files: map[string][]byte{"a": []byte("b")}}
	}
	one := make()

	for name, change := range map[string]func(*component){
		"image":       func(c *component) { c.image = "a:v2" },
		"argument":    func(c *component) { c.arguments["v"] = []string{"2"} },
		"environment": func(c *component) { c.environment = []string{"A=b"} },
		"file":        func(c *component) { c.files["a"] = []byte("c") },
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
