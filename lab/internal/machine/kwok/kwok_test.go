package kwok

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const completeStage = `spec:
  selector:
    matchExpressions:
    - key: '.metadata.ownerReferences.[].kind'
      operator: 'In'
      values:
      - 'Job'
`

func TestKWOKLeavesTheEndOfABackupToWhatItFinds(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "pod-complete.yaml"), []byte(completeStage), 0o600); err != nil {
		t.Fatal(err)
	}

	stages, err := podStages(folder, nil)
	if err != nil {
		t.Fatal(err)
	}

	for _, wanted := range []string{"operator: 'NotIn'\n      values:\n      - 'etcd-backup'\n", "- 'Job'\n"} {
		if !strings.Contains(string(stages), wanted) {
			t.Errorf("%s lacks %s", stages, wanted)
		}
	}
}
