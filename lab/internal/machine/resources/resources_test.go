package resources

import (
	"testing"
)

func TestAKindThatNothingFillsIsKnownAsThat(t *testing.T) {
	if _, err := NewState(t.Context()); err != nil {
		t.Fatal(err)
	}

	for kind, wanted := range map[string]bool{"LinkSpecs.net.talos.dev": true, "LinkStatuses.net.talos.dev": false, "MachineStatuses.runtime.talos.dev": false, "Members.cluster.talos.dev": false} {
		if IsUnkept(kind) != wanted {
			t.Errorf("%s: %v", kind, !wanted)
		}
	}
}
