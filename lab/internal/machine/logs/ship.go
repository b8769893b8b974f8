package logs

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/machine/lifetime"
)

const (
	// logBuffer lines wait for a destination that does not take them; then the oldest are lost. Talos keeps
	// about as much in its circular buffers.
	logBuffer = 4096
	// sendTimeout and resendPause are Talos' own.
	sendTimeout = 5 * time.Second
	resendPause = time.Second
)

// destination is where log lines go: a TCP stream of lines, or a UDP packet a line.
type destination struct {
	endpoint *url.URL
	tags     map[string]string
	kernel   bool
}

func (d destination) key() string {
	return fmt.Sprint(d.endpoint, d.tags, d.kernel)
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
func (s *shipper) put(line Line) error {
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

// Machine is what the sending of logs needs of the machine that writes them.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	Disk  disk.Disk
	Begun time.Time
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
}

// Ship sends the logs of the machine's services and its kernel to the destinations of the configuration,
// from the boot to its very end.
func (s Machine) Ship() {
	tails := map[string]*Tail{}
	for _, service := range Shipped {
		tails[service] = NewTail(s.Disk.Log(service))
	}

	var (
		known    config.Provider
		shippers = map[string]*running{}
		sequence int
	)

	for ; !s.IsOver(); s.Sleep(lifetime.Tick) {
		if provider := s.Provider(); provider != known {
			known = provider
			s.reship(shippers, destinations(provider))
		}

		if len(shippers) == 0 {
			continue // what is written meanwhile waits in the files, as in Talos' buffers
		}

		for _, service := range Shipped {
			for _, line := range tails[service].Read() {
				parsed := Parse(line, time.Now())
				sequence++

				for _, one := range shippers {
					s.LogError("log line", one.take(service, parsed, s.Begun, sequence))
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
func (s Machine) reship(shippers map[string]*running, wanted []destination) {
	keep := map[string]bool{}

	for _, to := range wanted {
		key := to.key()
		keep[key] = true

		if shippers[key] == nil {
			ctx, cancel := context.WithCancel(s.Context())
			one := &running{newShipper(to, s.Dial), cancel}
			shippers[key] = one

			s.Go(func() { one.run(ctx) })
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
func (s *shipper) take(service string, line Line, begun time.Time, sequence int) error {
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
