package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"go.uber.org/zap/zapcore"
)

// shippedServices are the services whose logs leave the machine: Talos' own, not the static pods'.
var shippedServices = []string{"machined", "kubelet", "etcd"}

const (
	// logBuffer lines wait for a destination that does not take them; then the oldest are lost. Talos keeps
	// about as much in its circular buffers.
	logBuffer = 4096
	// sendTimeout and resendPause are Talos' own.
	sendTimeout = 5 * time.Second
	resendPause = time.Second
	// longestRead bytes of a log are taken at once.
	longestRead = 1 << 20
)

// serviceLog is the log of one of Talos' services that this program plays: it goes to the lab's log and to
// the file that `talosctl logs` reads, one JSON object a line. (Talos' machined writes text.)
func (m *machine) serviceLog(service string) *slog.Logger {
	return slog.New(slog.NewMultiHandler(
		m.log.Handler(), slog.NewJSONHandler(appender(m.path(logsFolder, service+".log")), nil),
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

// destination is where log lines go: a TCP stream of lines, or a UDP packet a line.
type destination struct {
	endpoint *url.URL
	tags     map[string]string
	kernel   bool
}

func (d destination) key() string {
	return string(mustJSON([]any{d.endpoint.String(), d.tags, d.kernel}))
}

// destinations are those of a machine configuration: machine.logging for the services, KmsgLogConfig documents
// for the kernel.
func destinations(provider config.Provider) []destination {
	var all []destination

	if provider == nil {
		return nil
	}

	if provider.Machine() != nil && provider.Machine().Logging() != nil {
		for _, one := range provider.Machine().Logging().Destinations() {
			all = append(all, destination{endpoint: one.Endpoint(), tags: one.ExtraTags()})
		}
	}

	if provider.Runtime() != nil {
		for _, endpoint := range provider.Runtime().KmsgLogURLs() {
			all = append(all, destination{endpoint: endpoint, kernel: true})
		}
	}

	return all
}

// shipper sends lines to a destination, in order, for as long as it takes.
type shipper struct {
	destination
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu      sync.Mutex
	waiting [][]byte
	lost    int
	wake    chan struct{}
}

func newShipper(to destination, dial func(ctx context.Context, network, address string) (net.Conn, error)) *shipper {
	return &shipper{destination: to, dial: dial, wake: make(chan struct{}, 1)}
}

// put adds a line; the oldest is lost when too many wait.
func (s *shipper) put(line logLine) error {
	data, err := line.marshal(s.tags)
	if err != nil {
		return err
	}

	if s.endpoint.Scheme == "tcp" {
		data = append(data, '\n')
	}

	s.mu.Lock()
	s.waiting = append(s.waiting, data)

	if over := len(s.waiting) - logBuffer; over > 0 {
		s.waiting = slices.Delete(s.waiting, 0, over)
		s.lost += over
	}
	s.mu.Unlock()

	select {
	case s.wake <- struct{}{}:
	default:
	}

	return nil
}

// next takes the oldest line; none when nothing waits.
func (s *shipper) next() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()

	if len(s.waiting) == 0 {
		return nil
	}

	line := s.waiting[0]
	s.waiting = s.waiting[1:]

	return line
}

// run sends what waits until the context ends. A line whose sending failed halfway is not sent again.
func (s *shipper) run(ctx context.Context) {
	var conn net.Conn

	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()

	for ctx.Err() == nil {
		line := s.next()
		if line == nil {
			select {
			case <-ctx.Done():
			case <-s.wake:
			}
		}

		for line != nil && ctx.Err() == nil {
			var sent bool
			if sent, conn = s.send(ctx, conn, line); sent {
				break
			}

			select {
			case <-ctx.Done():
			case <-time.After(resendPause):
			}
		}
	}
}

// send gives a line to the connection, and opens that when there is none; false: try again.
func (s *shipper) send(ctx context.Context, conn net.Conn, line []byte) (bool, net.Conn) {
	deadline := time.Now().Add(sendTimeout)

	if conn == nil {
		opening, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()

		opened, err := s.dial(opening, s.endpoint.Scheme, s.endpoint.Host)
		if err != nil {
			return false, nil
		}

		conn = opened
	}

	_ = conn.SetWriteDeadline(deadline)

	written, err := conn.Write(line)
	if err != nil {
		conn.Close()

		return written > 0, nil
	}

	return true, conn
}

// shipLogs sends the logs of the machine's services and its kernel to the destinations of the configuration,
// from the boot to its very end.
func (b *boot) shipLogs() {
	tails := map[string]*logTail{}
	for _, service := range shippedServices {
		tails[service] = newLogTail(b.machine.path(logsFolder, service+".log"))
	}

	var (
		known    config.Provider
		shippers = map[string]*running{}
		sequence int
	)

	for ; b.ctx.Err() == nil; b.sleep(tick) {
		if provider := b.provider(); provider != known {
			known = provider
			b.reship(shippers, destinations(provider))
		}

		if len(shippers) == 0 {
			continue // what is written meanwhile waits in the files, as in Talos' buffers
		}

		for _, service := range shippedServices {
			for _, line := range tails[service].read() {
				parsed := parseLog(line, time.Now())
				sequence++

				for _, one := range shippers {
					b.logError("log line", one.take(service, parsed, b.begun, sequence))
				}
			}
		}
	}
}

// running is a shipper at work.
type running struct {
	*shipper
	cancel context.CancelFunc
}

// reship stops what the configuration has not got any more and starts what is new in it.
func (b *boot) reship(shippers map[string]*running, wanted []destination) {
	keep := map[string]bool{}

	for _, to := range wanted {
		key := to.key()
		keep[key] = true

		if shippers[key] == nil {
			ctx, cancel := context.WithCancel(b.ctx)
			one := &running{newShipper(to, b.dial), cancel}
			shippers[key] = one

			b.goroutine(func() { one.run(ctx) })
		}
	}

	maps.DeleteFunc(shippers, func(key string, one *running) bool {
		if !keep[key] {
			one.cancel()
		}

		return !keep[key]
	})
}

// take queues a service's line in the destination's form; the kernel's destinations get machined's lines only.
func (s *shipper) take(service string, line logLine, begun time.Time, sequence int) error {
	if s.kernel {
		if service != "machined" {
			return nil
		}

		return s.put(line.kernelLine(begun, sequence))
	}

	line.fields = maps.Clone(line.fields)
	if line.fields == nil {
		line.fields = map[string]any{}
	}

	line.fields["talos-service"] = service

	return s.put(line)
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
