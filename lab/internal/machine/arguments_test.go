package machine

import (
	"slices"
	"testing"
)

func TestExtraArgumentsOverwriteUnlessTheyAddOrAreDenied(t *testing.T) {
	a := flags(map[string]string{"profiling": "false", "enable-admission-plugins": "NodeRestriction"})

	err := a.merge(map[string][]string{
		"profiling": {"true"}, "enable-admission-plugins": {"AlwaysPullImages, NodeRestriction"}, "v": {"1", "2"},
	}, apiServerPolicies)
	if err != nil {
		t.Fatal(err)
	}

	want := []string{"--enable-admission-plugins=NodeRestriction,AlwaysPullImages", "--profiling=true", "--v=1", "--v=2"}
	if got := a.list(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}

	err = a.merge(map[string][]string{"etcd-servers": {"https://elsewhere:2379"}}, apiServerPolicies)
	if err == nil || err.Error() != `extra arg "etcd-servers" is not allowed` {
		t.Errorf("%v", err)
	}
}

func TestAComponentIsTheSameUntilAnInputChanges(t *testing.T) {
	make := func() component {
		return component{name: scheduler, image: "a:v1", arguments: flags(map[string]string{"v": "1", "w": "2"}), files: map[string][]byte{"a": []byte("b")}}
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
