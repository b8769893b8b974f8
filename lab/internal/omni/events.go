package omni

import (
	"context"
	"encoding/json"
	"net/netip"
	"sync"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/api/omni/management"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/omni/client/pkg/omni/resources/siderolink"
	"github.com/siderolabs/siderolink/pkg/events"
	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// eventSink takes what machines say of themselves.
type eventSink struct{ omni *Omni }

// HandleEvent keeps the last machine status, as the machine's snapshot.
func (s eventSink) HandleEvent(ctx context.Context, event events.Event) error {
	said, is := event.Payload.(*machineapi.MachineStatusEvent)
	if !is {
		return nil
	}
	from, err := netip.ParseAddrPort(event.Node)
	if err != nil {
		return err
	}
	id, err := s.omni.machineAt(ctx, from.Addr())
	if err != nil || id == "" {
		return err
	}
	return put(ctx, s.omni.state, omni.NewMachineStatusSnapshot(id), func(res *omni.MachineStatusSnapshot) error {
		res.TypedSpec().Value.MachineStatus = said
		return nil
	})
}

// machineAt is the machine of a SideroLink address; "" is none.
func (o *Omni) machineAt(ctx context.Context, address netip.Addr) (string, error) {
	links, err := safe.StateListAll[*siderolink.Link](ctx, o.state)
	if err != nil {
		return "", err
	}
	for link := range links.All() {
		if of, err := netip.ParsePrefix(link.TypedSpec().Value.NodeSubnet); err == nil && of.Addr() == address {
			return link.Metadata().ID(), nil
		}
	}
	return "", nil
}

// logLines is how many lines of a machine's kernel log are kept.
const logLines = 1000

// machineLogs keeps the kernel logs of the machines, by their SideroLink addresses.
type machineLogs struct {
	mu    sync.Mutex
	lines map[netip.Addr][][]byte
}

func (l *machineLogs) receive(from netip.Addr, message map[string]any) {
	line, err := json.Marshal(message)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines == nil {
		l.lines = map[netip.Addr][][]byte{}
	}
	kept := append(l.lines[from], line)
	l.lines[from] = kept[max(0, len(kept)-logLines):]
}

// of is the log of an address.
func (l *machineLogs) of(address netip.Addr) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([][]byte(nil), l.lines[address]...)
}

// MachineLogs sends a machine's kernel log.
func (m *managementServer) MachineLogs(request *management.MachineLogsRequest, stream grpc.ServerStreamingServer[common.Data]) error {
	ctx := stream.Context()
	if err := need(ctx, RoleReader); err != nil {
		return err
	}
	link, err := safe.StateGetByID[*siderolink.Link](ctx, m.omni.state, request.GetMachineId())
	if state.IsNotFoundError(err) {
		return status.Error(codes.NotFound, "machine not found")
	} else if err != nil {
		return err
	}
	address, err := netip.ParsePrefix(link.TypedSpec().Value.NodeSubnet)
	if err != nil {
		return err
	}
	if request.GetFollow() {
		return status.Error(codes.Unimplemented, "the simulated Omni shows the log, and does not follow it")
	}
	lines := m.omni.logs.of(address.Addr())
	if tail := int(request.GetTailLines()); tail >= 0 && tail < len(lines) {
		lines = lines[len(lines)-tail:]
	}
	for _, line := range lines {
		if err := stream.Send(&common.Data{Bytes: line}); err != nil {
			return err
		}
	}
	return nil
}
