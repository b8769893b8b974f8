package pods

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// written is the log of a container that wrote these texts.
func written(t *testing.T, stdout, stderr string) string {
	t.Helper()

	path := filepath.Join(t.TempDir(), "0.log")

	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}

	o, err := takeOutput(file)
	if err != nil {
		t.Fatal(err)
	}

	_, _ = o.stdout.WriteString(stdout)
	_, _ = o.stderr.WriteString(stderr)

	o.begun()
	o.copied.Wait()

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	return string(data)
}

func TestALineOfALogHasItsTimeAndStream(t *testing.T) {
	const stamp = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`

	log := written(t, "one\n\ntwo three\n", "")
	if !regexp.MustCompile(`^` + stamp + ` stdout F one\n` + stamp + ` stdout F \n` + stamp + ` stdout F two three\n$`).MatchString(log) {
		t.Errorf("%q", log)
	}

	if log := written(t, "", "bad\n"); !strings.HasSuffix(log, "Z stderr F bad\n") {
		t.Errorf("%q", log)
	}

	// The end of a container ends its last line.
	if log := written(t, "half", ""); !strings.HasSuffix(log, "Z stdout F half\n") {
		t.Errorf("%q", log)
	}
}

func TestALongLineIsSeveralOfTheLogAndOneToItsReader(t *testing.T) {
	long := strings.Repeat("x", 2*longestPart+5)

	log := written(t, long+"\nshort\n", "")
	if count := strings.Count(log, " stdout P "); count != 2 {
		t.Errorf("%d parts", count)
	}

	if text, rest := Plain([]byte(log), time.Time{}); string(text) != long+"\nshort\n" || len(rest) > 0 {
		t.Errorf("%d bytes, and %q", len(text), rest)
	}
}

func TestAReaderGetsWhatIsWholeAndNotOlderThanHeAsksFor(t *testing.T) {
	log := "2026-11-30T10:00:00Z stdout F old\n2026-11-30T10:00:01.5Z stderr F new\nno line of a log\n2026-11-30T10:00:02Z std"

	text, rest := Plain([]byte(log), time.Date(2026, 11, 30, 10, 0, 1, 0, time.UTC))
	if string(text) != "new\n" || string(rest) != "2026-11-30T10:00:02Z std" {
		t.Errorf("%q, %q", text, rest)
	}
}

func TestEachStartOfAContainerHasAnIDOfItsOwn(t *testing.T) {
	ids := map[string]bool{}
	for _, id := range []string{containerID("u", "a", 0), containerID("u", "a", 1), containerID("u", "b", 0), containerID("v", "a", 0)} {
		ids[id] = true

		if len(id) != 64 {
			t.Errorf("%s is not as long as a runtime's", id)
		}
	}

	if len(ids) != 4 {
		t.Error(ids)
	}
}
