package arguments

import (
	"slices"
	"testing"
)

func TestExtraArgumentsOverwriteUnlessTheyAddOrAreDenied(t *testing.T) {
	a := Of(map[string]string{"profiling": "false", "enable-admission-plugins": "NodeRestriction"})

	known := map[string]Policy{"enable-admission-plugins": Additive, "etcd-servers": Denied}

	err := a.Merge(map[string][]string{
		"profiling": {"true"}, "enable-admission-plugins": {"AlwaysPullImages, NodeRestriction"}, "v": {"1", "2"},
	}, known)
	if err != nil {
		t.Fatal(err)
	}

	want := []string{"--enable-admission-plugins=NodeRestriction,AlwaysPullImages", "--profiling=true", "--v=1", "--v=2"}
	if got := a.Lines(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}

	err = a.Merge(map[string][]string{"etcd-servers": {"https://elsewhere:2379"}}, known)
	if err == nil || err.Error() != `extra arg "etcd-servers" is not allowed` {
		t.Errorf("%v", err)
	}
}
