package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"platform.lab/lab/internal/machine/configtest"
)

func TestALogLineIsReadAsTalosReadsIt(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	written := time.Date(2026, 7, 1, 11, 59, 58, 500000000, time.UTC)

	for line, want := range map[string]Line{
		`plain text`: {message: "plain text", At: now, level: zapcore.InfoLevel},
		`{"level":"WARNING","ts":"2026-07-01T11:59:58.5Z","msg":"slow disk","took":"2s"}`: {
			message: "slow disk", At: written, level: zapcore.WarnLevel, fields: map[string]any{"took": "2s"},
		},
		`{"ts":1782907198500,"msg":"milliseconds","v":4}`: {
			message: "milliseconds", At: written, level: zapcore.InfoLevel, fields: map[string]any{"v": 4.0},
		},
		`{"ts":1782907198.5,"msg":"seconds"}`:                  {message: "seconds", At: written, level: zapcore.InfoLevel, fields: map[string]any{}},
		`[talos] applying {"service": "etcd"}`:                 {message: "[talos] applying", At: now, level: zapcore.InfoLevel, fields: map[string]any{"service": "etcd"}},
		`{"msg":"sync failed","err":"refused","level":"info"}`: {message: "sync failed: refused", At: now, level: zapcore.WarnLevel, fields: map[string]any{}},
	} {
		got := Parse([]byte(line), now)
		if got.message != want.message || !got.At.Equal(want.At) || got.level != want.level || !maps.Equal(got.fields, want.fields) {
			t.Errorf("%s\n%+v instead of\n%+v", line, got, want)
		}
	}
}

func TestALineHasTalosShape(t *testing.T) {
	at := time.Date(2026, 7, 1, 12, 0, 0, 5000, time.UTC)
	line := Line{message: "stage running", At: at, level: zapcore.InfoLevel, fields: map[string]any{"talos-service": "machined"}}

	for want, got := range map[string]Line{
		`{"msg":"stage running","site":"lab","talos-level":"info","talos-service":"machined","talos-time":"2026-07-01T12:00:00.000005Z"}`:                                               line,
		`{"clock":2000000,"facility":"user","msg":"[talos] stage running\n","priority":"warning","seq":7,"site":"lab","talos-level":"warn","talos-time":"2026-07-01T12:00:00.000005Z"}`: line.kernelLine(at.Add(-2*time.Second), 7),
	} {
		data, err := got.marshal(map[string]string{"site": "lab"})
		if err != nil || string(data) != want {
			t.Errorf("%s, %v", data, err)
		}
	}
}

// messages reads the texts of the lines that come, one a channel entry.
func messages(t *testing.T, listener net.Listener) <-chan string {
	t.Helper()

	texts := make(chan string, 2*logBuffer)

	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}

			for lines := bufio.NewScanner(conn); lines.Scan(); {
				var line struct {
					Msg string `json:"msg"`
				}

				if json.Unmarshal(lines.Bytes(), &line) != nil {
					line.Msg = "broken: " + lines.Text()
				}

				texts <- line.Msg
			}
		}
	}()

	return texts
}

func start(t *testing.T, to destination, dial func(context.Context, string, string) (net.Conn, error)) *shipper {
	t.Helper()

	ctx, cancel := context.WithCancel(t.Context())
	s := newShipper(to, dial)
	done := make(chan struct{})

	go func() {
		defer close(done)
		s.run(ctx)
	}()

	t.Cleanup(func() {
		cancel()
		<-done
	})

	return s
}

func TestLinesWaitForADestinationThatIsDownAndTheOldestAreLost(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	var down atomic.Bool

	down.Store(true)

	s := start(t, destination{endpoint: &url.URL{Scheme: "tcp", Host: listener.Addr().String()}},
		func(ctx context.Context, network, address string) (net.Conn, error) {
			if down.Load() {
				return nil, errors.New("no route to host")
			}

			return new(net.Dialer).DialContext(ctx, network, address)
		})

	for number := range 2 * logBuffer {
		if err := s.put(Line{message: strconv.Itoa(number)}); err != nil {
			t.Fatal(err)
		}
	}

	down.Store(false)

	var got []int

	for texts := messages(t, listener); len(got) == 0 || got[len(got)-1] != 2*logBuffer-1; {
		number, err := strconv.Atoi(<-texts)
		if err != nil {
			t.Fatal(err)
		}

		got = append(got, number)
	}

	if !slices.IsSorted(got) || len(got) < logBuffer || len(got) > logBuffer+1 || s.lost < logBuffer-1 {
		t.Errorf("%d lines, from %d on; %d lost", len(got), got[0], s.lost)
	}
}

func TestADestinationThatComesBackGetsTheNextLines(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	conns := make(chan net.Conn, 8)
	s := start(t, destination{endpoint: &url.URL{Scheme: "tcp", Host: listener.Addr().String()}},
		func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				conns <- conn
			}

			return conn, err
		})
	texts := messages(t, listener)

	for _, text := range []string{"before", "after"} {
		if err := s.put(Line{message: text}); err != nil {
			t.Fatal(err)
		}

		if got := <-texts; got != text {
			t.Errorf("%q instead of %q", got, text)
		}

		(<-conns).Close() // the connection breaks
	}

	listener.Close()
}

func TestAPacketIsALine(t *testing.T) {
	listener, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	s := start(t, destination{endpoint: &url.URL{Scheme: "udp", Host: listener.LocalAddr().String()}}, new(net.Dialer).DialContext)
	if err := s.take("etcd", Line{message: "ready"}, time.Now(), 1); err != nil {
		t.Fatal(err)
	}

	data := make([]byte, 1024)

	length, _, err := listener.ReadFrom(data)
	if err != nil {
		t.Fatal(err)
	}

	if text := string(data[:length]); strings.HasSuffix(text, "\n") || !strings.Contains(text, `"talos-service":"etcd"`) {
		t.Error(text)
	}
}

func TestOnlyNewWholeLinesAreTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etcd.log")
	add := func(text string) {
		if _, err := appender(path).Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}

	add("of the boot before\n")

	tail := NewTail(path)

	add("one\n\n two \nthr")

	if got := tail.Read(); len(got) != 2 || string(got[0]) != "one" || string(got[1]) != "two" {
		t.Errorf("%q", got)
	}

	add("ee\n")

	if got := tail.Read(); len(got) != 1 || string(got[0]) != "three" {
		t.Errorf("%q", got)
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}

	tail.Read()
	add("four\n")

	if got := tail.Read(); len(got) != 1 || string(got[0]) != "four" {
		t.Errorf("%q", got)
	}
}

func TestDestinationsAreThoseOfTheConfiguration(t *testing.T) {
	provider := configtest.Patched(t, configtest.Base(t), `machine:
  logging:
    destinations: [{endpoint: "tcp://172.16.20.1:5044", format: json_lines, extraTags: {site: lab}}]
---
apiVersion: v1alpha1
kind: KmsgLogConfig
name: collector
url: udp://172.16.20.1:5045
`)

	all := destinations(provider)
	if len(all) != 2 || all[0].endpoint.String() != "tcp://172.16.20.1:5044" || all[0].tags["site"] != "lab" || all[0].kernel ||
		all[1].endpoint.String() != "udp://172.16.20.1:5045" || !all[1].kernel {
		t.Errorf("%+v", all)
	}
}

func TestALineOfTheKernelsLogKeepsItsFields(t *testing.T) {
	line := Parse([]byte(`{"time":"2026-07-01T12:00:00Z","level":"WARN","msg":"cable","plugged":false}`), time.Now())
	if got := line.KernelText(); got != `[talos] cable {"plugged":false}` {
		t.Error(got)
	}
}
