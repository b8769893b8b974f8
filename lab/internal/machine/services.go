package machine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Service states as Talos names them (internal/app/machined/pkg/system/events).
const (
	statePreparing = "Preparing"
	stateRunning   = "Running"
	stateFinished  = "Finished"
)

// maxServiceEvents of a service are kept.
const maxServiceEvents = 64

// service is one of Talos' services. Without a health check its health is unknown.
type service struct {
	id      string
	state   string
	checked bool
	healthy bool
	message string
	changed time.Time
	events  []*machineapi.ServiceEvent
}

func (s *service) up() bool { return s.state == stateRunning && (!s.checked || s.healthy) }

// services are a running system's services.
type services struct {
	boot *boot

	mu  sync.Mutex
	all map[string]*service
}

func newServices(b *boot) *services {
	return &services{boot: b, all: map[string]*service{}}
}

func (s *services) get(id string) *service {
	if s.all[id] == nil {
		s.all[id] = &service{id: id}
	}

	return s.all[id]
}

// running marks services without a process of their own as up and healthy.
func (s *services) running(ids ...string) {
	for _, id := range ids {
		s.set(id, stateRunning, "Started task "+id)
		s.health(id, nil)
	}
}

func (s *services) finished(ids ...string) {
	for _, id := range ids {
		if s.state(id) != "" {
			s.set(id, stateFinished, "Service finished successfully")
		}
	}
}

// set moves a service to a state.
func (s *services) set(id, state, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()

	entry := s.get(id)
	if entry.state == state && entry.message == message {
		return
	}

	if state != stateRunning {
		entry.checked, entry.healthy = false, false
	}

	entry.state, entry.message, entry.changed = state, message, time.Now()
	entry.events = append(entry.events, &machineapi.ServiceEvent{State: state, Msg: message, Ts: timestamppb.Now()})
	entry.events = entry.events[max(0, len(entry.events)-maxServiceEvents):]

	s.boot.Log.Info(fmt.Sprintf("service[%s](%s): %s", id, state, message))
}

// health records the result of a service's health check.
func (s *services) health(id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	entry := s.get(id)
	healthy := err == nil

	if entry.checked && entry.healthy == healthy {
		return
	}

	message := "Health check successful"
	if err != nil {
		message = "Health check failed: " + err.Error()
	}

	entry.checked, entry.healthy, entry.changed = true, healthy, time.Now()
	entry.events = append(entry.events, &machineapi.ServiceEvent{State: entry.state, Msg: message, Ts: timestamppb.Now()})
	entry.events = entry.events[max(0, len(entry.events)-maxServiceEvents):]

	s.boot.Log.Info(fmt.Sprintf("service[%s](%s): %s", id, entry.state, message))
}

func (s *services) state(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()

	if s.all[id] == nil {
		return ""
	}

	return s.all[id].state
}

func (s *services) isUp(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.all[id] != nil && s.all[id].up()
}

// snapshot are copies of all services in the order of their names.
func (s *services) snapshot() []service {
	s.mu.Lock()
	defer s.mu.Unlock()

	var list []service
	for _, entry := range slices.SortedFunc(maps.Values(s.all), func(a, b *service) int { return cmp.Compare(a.id, b.id) }) {
		list = append(list, *entry)
		list[len(list)-1].events = slices.Clone(entry.events)
	}

	return list
}

// required are the services that Talos wants running (MachineStatusController.getReadinessChecks).
func (s *services) required() []string {
	required := []string{"apid", "machined", "kubelet"}
	if s.boot.isControlPlane() {
		required = append(required, "etcd", "trustd")
	}

	return required
}

func (s *services) allUp() bool {
	for _, id := range s.required() {
		if !s.isUp(id) {
			return false
		}
	}

	return true
}

func (s *service) proto() *machineapi.ServiceInfo {
	return &machineapi.ServiceInfo{
		Id:    s.id,
		State: s.state,
		Events: &machineapi.ServiceEvents{
			Events: s.events,
		},
		Health: &machineapi.ServiceHealth{
			Unknown:     !s.checked,
			Healthy:     s.checked && s.healthy,
			LastMessage: "",
			LastChange:  timestamppb.New(s.changed),
		},
	}
}
