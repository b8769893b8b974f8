// Package logs writes, reads and sends the logs of Talos' services.
package logs

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

	"platform.lab/lab/internal/machine/disk"
)

// Shipped are the services whose logs leave the machine: Talos' own, not the static pods'.
var Shipped = []string{"machined", "kubelet", "etcd"}

// longestRead bytes of a log are taken at once.
const longestRead = 1 << 20

// OfService is the log of one of Talos' services that this program simulates: it goes to the lab's log and to
// the file that `talosctl logs` reads, one JSON object a line. (Talos' machined writes text.)
func OfService(lab *slog.Logger, on disk.Disk, service string) *slog.Logger {
	return slog.New(slog.NewMultiHandler(lab.Handler(), slog.NewJSONHandler(appender(on.Log(service)), nil)))
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

// Line is a line of a log as Talos sends it.
type Line struct {
	message string
	At      time.Time
	level   zapcore.Level
	fields  map[string]any
}

// Parse reads what a log line says, as Talos does (internal/app/machined/pkg/runtime/logging/extract.go): JSON, text
// with JSON behind it, or text.
func Parse(line []byte, now time.Time) Line {
	parsed := Line{At: now, level: zapcore.InfoLevel}

	if json.Unmarshal(line, &parsed.fields) != nil {
		parsed.message, parsed.fields = string(line), nil

		if from := bytes.IndexByte(line, '{'); from >= 0 && json.Unmarshal(line[from:], &parsed.fields) == nil {
			parsed.message = string(bytes.TrimSpace(line[:from]))
		}
	}

	for _, key := range []string{"time", "ts"} {
		if at, ok := timeOf(parsed.fields[key]); ok {
			parsed.At = at
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
func (l Line) marshal(tags map[string]string) ([]byte, error) {
	object := maps.Clone(l.fields)
	if object == nil {
		object = map[string]any{}
	}

	object["msg"] = l.message
	object["talos-time"] = l.At.Format(time.RFC3339Nano)
	object["talos-level"] = l.level.String()

	for key, value := range tags {
		object[key] = value
	}

	return json.Marshal(object)
}

// kernelLine is a line of machined as Talos writes it into the kernel's log, the only part of that which a
// simulated machine has.
func (l Line) kernelLine(begun time.Time, sequence int) Line {
	return Line{message: "[talos] " + l.message + "\n", At: l.At, level: zapcore.WarnLevel, fields: map[string]any{
		"clock": l.At.Sub(begun).Microseconds(), "facility": "user", "priority": "warning", "seq": sequence,
	}}
}

// KernelText is the line as `talosctl dmesg` shows it: the message, and the rest as JSON.
func (l Line) KernelText() string {
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

// Tail gives the lines that are added to a file from now on.
type Tail struct {
	Path   string
	offset int64
}

// NewTail begins at the present end of a file.
func NewTail(path string) *Tail {
	tail := &Tail{Path: path}
	if info, err := os.Stat(path); err == nil {
		tail.offset = info.Size()
	}

	return tail
}

// Read gives the whole lines that are new, empty ones left out.
func (t *Tail) Read() [][]byte {
	file, err := os.Open(t.Path)
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
