package world

import (
	"strings"
	"testing"
)

func TestANumberOfHostsThatCannotBeIsRefused(t *testing.T) {
	for choice, wanted := range map[string]int{"": 0, "1": 1, "96": 96} {
		if n, err := CountHosts(choice); err != nil || n != wanted {
			t.Errorf("%q: %d %v", choice, n, err)
		}
	}
	for _, choice := range []string{"two", "0", "-1", "97", "2.5", " 2", "999999999999999999999"} {
		if _, err := CountHosts(choice); err == nil || !strings.Contains(err.Error(), "LAB_HOSTS") {
			t.Errorf("%q: %v", choice, err)
		}
	}
}
