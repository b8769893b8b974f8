package talosbackup

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestWithoutCredentialsOfTalosNothingIsUploaded(t *testing.T) {
	t.Setenv("TALOSCONFIG", filepath.Join(t.TempDir(), "none"))

	var out strings.Builder

	err := Main(t.Context(), &out)
	if err == nil || !strings.HasPrefix(err.Error(), "failed to take etcd snapshot: ") || out.Len() > 0 {
		t.Errorf("%v: %q", err, out.String())
	}
}
