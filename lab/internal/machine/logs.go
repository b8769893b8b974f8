package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
)

// shippedServices are the services whose logs leave the machine: Talos' own, not the static pods'.
var shippedServices = []string{"machined", "kubelet", "etcd"}

// longestRead bytes of a log are taken at once.
const longestRead = 1 << 20

// serviceLog is the log of one of Talos' services that this program plays: it goes to the lab's log and to
// the file that `talosctl logs` reads, one JSON object a line. (Talos' machined writes text.)
func (m *machine) serviceLog(service string) *slog.Logger {
	return slog.New(slog.NewMultiHandler(
		m.log.Handler(), slog.NewJSONHandler(appender(m.disk.Log(service)), nil),
	))
}

// appender is a file that every write is added to.
type appender string

func (a appender) Write(data []byte) (int, error) {
	file, err := os.OpenFile(string(a), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer file.Close()

	return file.Write(data)
}

// logLine is a line of a log as Talos sends it.
type logLine struct {
	message string
	at      time.Time
	level   zapcore.Level
	fields  map[string]any
}

// parseLog reads what a log line says, as Talos does (internal/app/machined/pkg/runtime/logging/extract.go): JSON, text
// with JSON behind it, or text.
func parseLog(line []byte, now time.Time) logLine {
	parsed := logLine{at: now, level: zapcore.InfoLevel}

	if json.Unmarshal(line, &parsed.fields) != nil {
		parsed.message, parsed.fields = string(line), nil

		if from := bytes.IndexByte(line, '{'); from >= 0 && json.Unmarshal(line[from:], &parsed.fields) == nil {
			parsed.message = string(bytes.TrimSpace(line[:from]))
		}
	}

	for _, key := range []string{"time", "ts"} {
		if at, ok := timeOf(parsed.fields[key]); ok {
			parsed.at = at
			delete(parsed.fields, key)

			break
		}
	}

	if text, ok := parsed.fields["level"].(string); ok {
		text = strings.Replace(strings.ToLower(text), "warning", "warn", 1)
		if level, err := zapcore.ParseLevel(text); err == nil {
			parsed.level = level
			delete(parsed.fields, "level")
		}
	}

	if text, ok := parsed.fields["msg"].(string); ok {
		parsed.message = strings.TrimSpace(parsed.message + " " + strings.TrimSpace(text))
		delete(parsed.fields, "msg")
	}

	if text, ok := parsed.fields["err"].(string); ok {
		parsed.level = max(parsed.level, zapcore.WarnLevel)
		parsed.message = strings.TrimPrefix(parsed.message+": "+strings.TrimSpace(text), ": ")
		delete(parsed.fields, "err")
	}

	return parsed
}

// timeOf reads a time: RFC 3339, or seconds or milliseconds since 1970.
func timeOf(value any) (time.Time, bool) {
	const inMilliseconds = 1 << 35 // seconds: the year 3058

	switch value := value.(type) {
	case string:
		at, err := time.Parse(time.RFC3339Nano, value)

		return at.UTC(), err == nil
	case float64:
		if value > inMilliseconds {
			value /= 1000
		}

		whole, part := math.Modf(value)

		return time.Unix(int64(whole), int64(part*float64(time.Second))).UTC(), true
	default:
		return time.Time{}, false
	}
}

// marshal is the line in Talos' shape.
func (l logLine) marshal(tags map[string]string) ([]byte, error) {
	object := maps.Clone(l.fields)
	if object == nil {
		object = map[string]any{}
	}

	object["msg"] = l.message
	object["talos-time"] = l.at.Format(time.RFC3339Nano)
	object["talos-level"] = l.level.String()

	for key, value := range tags {
		object[key] = value
	}

	return json.Marshal(object)
}

// kernelLine is a line of machined as Talos writes it into the kernel's log, the only part of that which a
// simulated machine has.
func (l logLine) kernelLine(begun time.Time, sequence int) logLine {
	return logLine{message: "[talos] " + l.message + "\n", at: l.at, level: zapcore.WarnLevel, fields: map[string]any{
		"clock": l.at.Sub(begun).Microseconds(), "facility": "user", "priority": "warning", "seq": sequence,
	}}
}

// kernelText is the line as `talosctl dmesg` shows it: the message, and the rest as JSON.
func (l logLine) kernelText() string {
	text := "[talos] " + l.message
	if len(l.fields) == 0 {
		return text
	}

	rest, err := json.Marshal(l.fields)
	if err != nil {
		return text
	}

	return text + " " + string(rest)
}

// logTail gives the lines that are added to a file from now on.
type logTail struct {
	path   string
	offset int64
}

func newLogTail(path string) *logTail {
	tail := &logTail{path: path}
	if info, err := os.Stat(path); err == nil {
		tail.offset = info.Size()
	}

	return tail
}

// read gives the whole lines that are new, empty ones left out.
func (t *logTail) read() [][]byte {
	file, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.offset = 0

		return nil
	} else if err != nil {
		return nil
	}
	defer file.Close()

	data, err := io.ReadAll(io.NewSectionReader(file, t.offset, longestRead))
	if err != nil {
		return nil
	}

	end := bytes.LastIndexByte(data, '\n') + 1
	if end == 0 && len(data) == longestRead {
		end = len(data) // a line without an end
	}

	t.offset += int64(end)

	var lines [][]byte

	for line := range bytes.Lines(data[:end]) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			lines = append(lines, line)
		}
	}

	return lines
}
