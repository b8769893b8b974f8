// Package services is the state of Talos' services on a machine.
package services

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/protobuf/types/known/timestamppb"

	"platform.lab/lab/internal/machine/lifetime"
)

// Service states as Talos names them (internal/app/machined/pkg/system/events).
const (
	StatePreparing = "Preparing"
	StateRunning   = "Running"
	StateFinished  = "Finished"
)

// maxEvents of a service are kept.
const maxEvents = 64

// Service is one of Talos' services. Without a health check its health is unknown.
type Service struct {
	ID      string
	State   string
	Checked bool
	Healthy bool
	message string
	changed time.Time
	Events  []*machineapi.ServiceEvent
}

func (s *Service) up() bool { return s.State == StateRunning && (!s.Checked || s.Healthy) }

// Services are a running system's services.
type Services struct {
	life           *lifetime.Lifetime
	isControlPlane func() bool

	mu  sync.Mutex
	all map[string]*Service
}

// New makes the services of a machine that has just begun to boot.
func New(life *lifetime.Lifetime, isControlPlane func() bool) *Services {
	return &Services{life: life, isControlPlane: isControlPlane, all: map[string]*Service{}}
}

func (s *Services) get(id string) *Service {
	if s.all[id] == nil {
		s.all[id] = &Service{ID: id}
	}

	return s.all[id]
}

// Running marks services without a process of their own as up and healthy.
func (s *Services) Running(ids ...string) {
	for _, id := range ids {
		s.Set(id, StateRunning, "Started task "+id)
		s.Health(id, nil)
	}
}

// Finished marks services as ended, those that have begun.
func (s *Services) Finished(ids ...string) {
	for _, id := range ids {
		if s.State(id) != "" {
			s.Set(id, StateFinished, "Service finished successfully")
		}
	}
}

// Set moves a service to a state.
func (s *Services) Set(id, state, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()

	entry := s.get(id)
	if entry.State == state && entry.message == message {
		return
	}

	if state != StateRunning {
		entry.Checked, entry.Healthy = false, false
	}

	entry.State, entry.message = state, message
	s.changed(entry, message)
}

// changed keeps and logs what has become of a service, and when.
func (s *Services) changed(entry *Service, message string) {
	entry.changed = time.Now()
	entry.Events = append(entry.Events, &machineapi.ServiceEvent{State: entry.State, Msg: message, Ts: timestamppb.New(entry.changed)})
	entry.Events = entry.Events[max(0, len(entry.Events)-maxEvents):]

	s.life.Log.Info(fmt.Sprintf("service[%s](%s): %s", entry.ID, entry.State, message))
	s.life.Changed()
}

// Health records the result of a service's health check.
func (s *Services) Health(id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	entry := s.get(id)
	healthy := err == nil

	if entry.Checked && entry.Healthy == healthy {
		return
	}

	message := "Health check successful"
	if err != nil {
		message = "Health check failed: " + err.Error()
	}

	entry.Checked, entry.Healthy = true, healthy
	s.changed(entry, message)
}

// State is a service's state; "" of one that has not begun.
func (s *Services) State(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()

	if s.all[id] == nil {
		return ""
	}

	return s.all[id].State
}

// IsUp says whether a service runs and is not unhealthy.
func (s *Services) IsUp(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.all[id] != nil && s.all[id].up()
}

// Snapshot are copies of all services in the order of their names.
func (s *Services) Snapshot() []Service {
	s.mu.Lock()
	defer s.mu.Unlock()

	var list []Service
	for _, entry := range slices.SortedFunc(maps.Values(s.all), func(a, b *Service) int { return cmp.Compare(a.ID, b.ID) }) {
		list = append(list, *entry)
		list[len(list)-1].Events = slices.Clone(entry.Events)
	}

	return list
}

// Required are the services that Talos wants running (MachineStatusController.getReadinessChecks).
func (s *Services) Required() []string {
	required := []string{"apid", "machined", "kubelet"}
	if s.isControlPlane() {
		required = append(required, "etcd", "trustd")
	}

	return required
}

// AllUp says whether all required services are up.
func (s *Services) AllUp() bool {
	for _, id := range s.Required() {
		if !s.IsUp(id) {
			return false
		}
	}

	return true
}

// Proto is the service as the machine API shows it.
func (s *Service) Proto() *machineapi.ServiceInfo {
	return &machineapi.ServiceInfo{
		Id:    s.ID,
		State: s.State,
		Events: &machineapi.ServiceEvents{
			Events: s.Events,
		},
		Health: &machineapi.ServiceHealth{
			Unknown:     !s.Checked,
			Healthy:     s.Checked && s.Healthy,
			LastMessage: "",
			LastChange:  timestamppb.New(s.changed),
		},
	}
}

// ProbeInterval is the time until what answered a probe is asked again. One that is awaited is asked often; one
// that is well less so, though still more often than Talos and the kubelet do: a world's processors are few.
func ProbeInterval(problem error) time.Duration {
	if problem != nil {
		return 2 * lifetime.Tick
	}

	return 2 * time.Second
}
