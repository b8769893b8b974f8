package siderolink

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/siderolabs/siderolink/api/events"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	"platform.lab/lab/internal/machine/events"
	"platform.lab/lab/internal/machine/lifetime"
)

// anyPrefix is what gRPC's own types begin with, where the machine API has eventPrefix.
const (
	anyPrefix   = "type.googleapis.com/"
	eventPrefix = "talos/runtime/"
)

// drainTimeout is how long a system that ends waits for its events to be sent; drainQuiet is how long none may have been left.
const (
	drainTimeout = 10 * time.Second
	drainQuiet   = 2 * lifetime.Tick
)

// Sink sends a machine's events to the server that its configuration names (EventSinkConfig.endpoint).
type Sink struct {
	*lifetime.Lifetime

	// Configuration is the active one; nil when there is none.
	Configuration func() config.Provider
	Events        *events.Stream
	Dial          func(ctx context.Context, protocol, address string) (net.Conn, error)

	mu       sync.Mutex
	endpoint string
	watched  <-chan *machineapi.Event
	// next has been taken and not been sent.
	next *machineapi.Event
}

// Run sends all events of the boot, in order, from the first configuration on that names a server. One that does not arrive is
// sent again.
func (s *Sink) Run() {
	var (
		client *grpc.ClientConn
		stop   = func() {}
		pause  = firstPause
	)

	hangUp := func() {
		if client != nil {
			client.Close()
		}

		client = nil
	}

	defer func() {
		hangUp()
		stop()
	}()

	for !s.IsOver() {
		if wanted := eventsEndpoint(s.Configuration()); wanted != s.endpoint {
			hangUp()

			s.mu.Lock()
			s.endpoint = wanted

			if s.watched == nil { // not before: nothing of the boot is to be missed
				s.watched, stop = s.Events.Watch(-1)
			}
			s.mu.Unlock()
		}

		if s.endpoint == "" {
			s.Sleep(lifetime.Tick)

			continue
		}

		if s.next == nil && !s.take() {
			continue
		}

		var err error
		if client == nil {
			client, err = grpc.NewClient(target(s.endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return s.Dial(ctx, "tcp", address) }))
		}

		if err == nil {
			err = s.publish(client, s.next)
		}

		if err != nil {
			s.LogError("controller failed", fmt.Errorf("v1alpha1.EventsSinkController: error publishing event: %w", err))
			hangUp()
			s.Sleep(pause)
			pause = min(pause*3/2, longestPause)

			continue
		}

		pause = firstPause
		s.setNext(nil)
	}
}

// Drain waits until the events are sent, as a system does that is about to end.
func (s *Sink) Drain() {
	begun := time.Now()
	for quiet := begun; time.Since(quiet) < drainQuiet && time.Since(begun) < drainTimeout && s.Sleep(lifetime.Tick/4); {
		s.mu.Lock()
		if s.endpoint == "" {
			s.mu.Unlock()

			return
		}

		if s.next != nil || len(s.watched) > 0 {
			quiet = time.Now()
		}
		s.mu.Unlock()
	}
}

func (s *Sink) setNext(event *machineapi.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.next = event
}

// take waits for an event for as long as another configuration may take; false when there is none.
func (s *Sink) take() bool {
	select {
	case <-s.Context().Done():
	case event := <-s.watched:
		s.setNext(event)

		return true
	case <-time.After(lifetime.Tick):
	}

	return false
}

func (s *Sink) publish(client *grpc.ClientConn, event *machineapi.Event) error {
	_, err := eventsapi.NewEventSinkServiceClient(client).Publish(s.Context(), &eventsapi.EventRequest{
		Id:      event.Id,
		ActorId: event.ActorId,
		Data:    &anypb.Any{TypeUrl: anyPrefix + strings.TrimPrefix(event.Data.TypeUrl, eventPrefix), Value: event.Data.Value},
	})

	return err
}

func eventsEndpoint(provider config.Provider) string {
	if provider == nil || provider.Runtime() == nil || provider.Runtime().EventsEndpoint() == nil {
		return ""
	}

	return *provider.Runtime().EventsEndpoint()
}
