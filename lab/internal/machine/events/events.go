// Package events is a machine's stream of what happens on it.
package events

import (
	"log/slog"
	"sync"

	"github.com/google/uuid"
	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxEvents of a boot are kept.
const maxEvents = 1024

// Stream is the stream that `talosctl events` and a reset with --wait follow.
type Stream struct {
	log *slog.Logger

	mu       sync.Mutex
	actorID  string
	list     []*machineapi.Event
	watchers map[chan *machineapi.Event]struct{}
}

// New makes an empty stream.
func New(log *slog.Logger) *Stream {
	return &Stream{log: log, watchers: map[chan *machineapi.Event]struct{}{}}
}

// Actor names the API call that caused the events to come.
func (e *Stream) Actor(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()

	e.actorID = id
}

// Sequence tells of the begin or end of one of Talos' sequences.
func (e *Stream) Sequence(name string, action machineapi.SequenceEvent_Action) {
	e.Publish(&machineapi.SequenceEvent{Sequence: name, Action: action})
}

// Task tells of the begin or end of a part of a sequence.
func (e *Stream) Task(name string, action machineapi.TaskEvent_Action) {
	e.Publish(&machineapi.TaskEvent{Task: name, Action: action})
}

// Publish adds an event and sends it to all watchers.
func (e *Stream) Publish(payload proto.Message) {
	data, err := proto.Marshal(payload)
	if err != nil {
		e.log.Error("event", "error", err)

		return
	}

	e.mu.Lock()
	defer e.mu.Unlock()

	event := &machineapi.Event{
		Metadata: &common.Metadata{},
		Data:     &anypb.Any{TypeUrl: eventType(payload), Value: data},
		Id:       uuid.NewString(),
		ActorId:  e.actorID,
	}

	e.list = append(e.list, event)
	e.list = e.list[max(0, len(e.list)-maxEvents):]

	for watcher := range e.watchers {
		select {
		case watcher <- event:
		default: // a watcher that does not read loses events, as in Talos
		}
	}
}

// eventType is the type URL that Talos' clients know.
func eventType(payload proto.Message) string {
	return "talos/runtime/" + string(payload.ProtoReflect().Descriptor().FullName())
}

// Watch gives a channel of events, first the last `tail` ones (-1: all).
func (e *Stream) Watch(tail int) (chan *machineapi.Event, func()) {
	e.mu.Lock()
	defer e.mu.Unlock()

	watcher := make(chan *machineapi.Event, 2*maxEvents)

	if tail < 0 || tail > len(e.list) {
		tail = len(e.list)
	}

	for _, event := range e.list[len(e.list)-tail:] {
		watcher <- event
	}

	e.watchers[watcher] = struct{}{}

	return watcher, func() {
		e.mu.Lock()
		defer e.mu.Unlock()

		delete(e.watchers, watcher)
	}
}
