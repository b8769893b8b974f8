package siderolink

import (
	"context"
	"fmt"
	"net"
	"strings"
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

// Sink sends a machine's events to the server that its configuration names (EventSinkConfig.endpoint).
type Sink struct {
	*lifetime.Lifetime

	// Configuration is the active one; nil when there is none.
	Configuration func() config.Provider
	Events        *events.Stream
	Dial          func(ctx context.Context, protocol, address string) (net.Conn, error)
}

// Run sends all events of the boot, in order, from the first configuration on that names a server. One that does not arrive is
// sent again.
func (s Sink) Run() {
	var (
		endpoint string
		watched  <-chan *machineapi.Event
		next     *machineapi.Event
		client   *grpc.ClientConn
		pause    = firstPause
	)

	hangUp := func() {
		if client != nil {
			client.Close()
		}

		client = nil
	}
	defer hangUp()

	for !s.IsOver() {
		wanted := eventsEndpoint(s.Configuration())
		if wanted != endpoint {
			endpoint = wanted

			hangUp()
		}

		if endpoint == "" {
			s.Sleep(lifetime.Tick)

			continue
		}

		if watched == nil { // not before: nothing of the boot is to be missed
			stream, stop := s.Events.Watch(-1)
			defer stop()

			watched = stream
		}

		if next == nil {
			if next = s.take(watched); next == nil {
				continue
			}
		}

		var err error
		if client == nil {
			client, err = grpc.NewClient(target(endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return s.Dial(ctx, "tcp", address) }))
		}

		if err == nil {
			err = s.publish(client, next)
		}

		if err != nil {
			s.LogError("controller failed", fmt.Errorf("v1alpha1.EventsSinkController: error publishing event: %w", err))
			hangUp()
			s.Sleep(pause)
			pause = min(pause*3/2, longestPause)

			continue
		}

		next, pause = nil, firstPause
	}
}

// take waits for an event for as long as another configuration may take.
func (s Sink) take(watched <-chan *machineapi.Event) *machineapi.Event {
	select {
	case <-s.Context().Done():
	case event := <-watched:
		return event
	case <-time.After(lifetime.Tick):
	}

	return nil
}

func (s Sink) publish(client *grpc.ClientConn, event *machineapi.Event) error {
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
