package resources

import (
	"testing"
)

func TestAKindThatNothingFillsIsKnownAsThat(t *testing.T) {
	if _, err := NewState(t.Context()); err != nil {
		t.Fatal(err)
	}

	for kind, wanted := range map[string]bool{"LinkStatuses.net.talos.dev": true, "MachineStatuses.runtime.talos.dev": false, "Members.cluster.talos.dev": false} {
		if IsUnkept(kind) != wanted {
			t.Errorf("%s: %v", kind, !wanted)
		}
	}
}
