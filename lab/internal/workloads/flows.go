package workloads

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"platform.lab/lab/internal/netpolicy"
)

const (
	// flowsEvery is how long a flow may wait to be written.
	flowsEvery = time.Second
	// mostFlows is how many different ones are told one by one.
	mostFlows = 20_000
)

// Files of a world's folder for flows.
const (
	FlowsFile    = "flows.jsonl"
	PoliciesFile = "policies.json"
)

// Flow is all connections of the same kind: who opened them, to whom, and what the policies said. A line of FlowsFile.
type Flow struct {
	From     netpolicy.Endpoint `json:"from"`
	To       netpolicy.Endpoint `json:"to"`
	Protocol string             `json:"protocol"`
	Port     uint16             `json:"port"`
	// Verdict is "allowed" or "refused".
	Verdict string `json:"verdict"`
	// Egress and Ingress are the rules that allowed it; Open are the ends ("egress", "ingress") that no policy selects.
	Egress  []string `json:"egress"`
	Ingress []string `json:"ingress"`
	Open    []string `json:"open"`
	// Why is for a refused one.
	Why   string    `json:"why,omitempty"`
	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// PolicyUse is what a run made of a policy.
type PolicyUse struct {
	Name string `json:"name"`
	// Rules is how many it has; one without only closes.
	Rules int `json:"rules"`
	// Allowed counts the connections that one of its rules allowed.
	Allowed int `json:"allowed"`
	// Selects is "processes" when it selected a pod that runs as processes at some time, "simulated" when all its pods
	// were simulated ones, which open no connections, and "none".
	Selects string `json:"selects"`
	// Undecided is true for one of a kind that the lab cannot decide.
	Undecided bool `json:"undecided,omitempty"`
}

// Flows are what was seen since the world began.
type Flows struct {
	folder string

	mu      sync.Mutex
	seen    map[string]*Flow
	known   map[string]*PolicyUse
	changed bool
}

// NewFlows keeps them in files of a folder.
func NewFlows(folder string) *Flows {
	return &Flows{folder: folder, seen: map[string]*Flow{}, known: map[string]*PolicyUse{}}
}

// record counts a connection.
func (f *Flows) record(verdict netpolicy.Verdict, packet netpolicy.Packet, at time.Time) {
	flow := Flow{
		From: verdict.From, To: verdict.To, Protocol: string(packet.Protocol), Port: packet.Port, Verdict: "allowed",
		Egress: given(verdict.Egress.By), Ingress: given(verdict.Ingress.By), Open: []string{}, Why: verdict.Why(),
	}

	if flow.Why != "" {
		flow.Verdict = "refused"
	}

	if verdict.From.Kind == netpolicy.Pod && !verdict.Egress.Isolated {
		flow.Open = append(flow.Open, "egress")
	}

	if verdict.To.Kind == netpolicy.Pod && !verdict.Ingress.Isolated {
		flow.Open = append(flow.Open, "ingress")
	}

	key, err := json.Marshal(flow)
	if err != nil {
		return
	}

	f.mu.Lock()
	defer f.mu.Unlock()

	f.changed = true

	for _, policy := range policiesOf(verdict) {
		f.use(policy).Allowed++
	}

	same := f.seen[string(key)]
	if same == nil {
		if len(f.seen) >= mostFlows {
			return
		}

		flow.First = at
		same = &flow
		f.seen[string(key)] = same
	}

	same.Count++
	same.Last = at
}

func given(list []string) []string {
	if list == nil {
		return []string{}
	}

	return list
}

// policiesOf are the policies of the rules that allowed a connection, each once.
func policiesOf(verdict netpolicy.Verdict) []string {
	if !verdict.Allowed() {
		return nil
	}

	var names []string

	for _, rule := range slices.Concat(verdict.Egress.By, verdict.Ingress.By) {
		name, _, _ := strings.Cut(rule, " ")
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}

	return names
}

// use is called with the lock.
func (f *Flows) use(policy string) *PolicyUse {
	known := f.known[policy]
	if known == nil {
		known = &PolicyUse{Name: policy, Selects: "none"}
		f.known[policy] = known
	}

	return known
}

// learn keeps which policies there are, and whose pods they select; `process` says of an address whether its pod runs
// as processes.
func (f *Flows) learn(table *netpolicy.Table, process func(netip.Addr) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()

	f.changed = true

	for _, policy := range table.Policies() {
		one := f.use(policy.Name)
		one.Rules = policy.Rules

		switch {
		case slices.ContainsFunc(policy.Selects, process):
			one.Selects = "processes"
		case len(policy.Selects) > 0 && one.Selects == "none":
			one.Selects = "simulated"
		}
	}

	for _, name := range table.Undecided() {
		f.use(name).Undecided = true
	}
}

// run writes the files of the world's folder until the context ends.
func (f *Flows) run(ctx context.Context) error {
	for sleep(ctx, flowsEvery) {
		if err := f.write(); err != nil {
			return err
		}
	}

	return f.write()
}

func (f *Flows) write() error {
	f.mu.Lock()
	defer f.mu.Unlock()

	if !f.changed {
		return nil
	}

	var list []*Flow
	for _, flow := range f.seen {
		list = append(list, flow)
	}

	slices.SortFunc(list, func(a, b *Flow) int { return a.First.Compare(b.First) })

	var lines bytes.Buffer

	encoder := json.NewEncoder(&lines)
	for _, flow := range list {
		if err := encoder.Encode(flow); err != nil {
			return err
		}
	}

	uses := []*PolicyUse{}
	for _, one := range f.known {
		uses = append(uses, one)
	}

	slices.SortFunc(uses, func(a, b *PolicyUse) int { return strings.Compare(a.Name, b.Name) })

	policies, err := json.MarshalIndent(uses, "", "  ")
	if err != nil {
		return err
	}

	err = errors.Join(replaceFile(filepath.Join(f.folder, FlowsFile), lines.Bytes()), replaceFile(filepath.Join(f.folder, PoliciesFile), policies))
	f.changed = err != nil

	return err
}

// replaceFile is one step for who reads the file.
func replaceFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}

	return os.Rename(path+".new", path)
}
