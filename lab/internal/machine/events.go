package machine

import (
	"sync"

	"github.com/google/uuid"
	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxEvents of a boot are kept.
const maxEvents = 1024

// events is the stream that `talosctl events` and a reset with --wait follow.
type events struct {
	boot *boot

	mu       sync.Mutex
	actorID  string
	list     []*machineapi.Event
	watchers map[chan *machineapi.Event]struct{}
}

func newEvents(b *boot) *events {
	return &events{boot: b, watchers: map[chan *machineapi.Event]struct{}{}}
}

// actor names the API call that caused the events to come.
func (e *events) actor(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()

	e.actorID = id
}

func (e *events) sequence(name string, action machineapi.SequenceEvent_Action) {
	e.publish(&machineapi.SequenceEvent{Sequence: name, Action: action})
}

func (e *events) task(name string, action machineapi.TaskEvent_Action) {
	e.publish(&machineapi.TaskEvent{Task: name, Action: action})
}

func (e *events) publish(payload proto.Message) {
	data, err := proto.Marshal(payload)
	if err != nil {
		e.boot.LogError("event", err)

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

// watch gives a channel of events, first the last `tail` ones (-1: all).
func (e *events) watch(tail int) (chan *machineapi.Event, func()) {
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
