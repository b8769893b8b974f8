package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/services"
)

const (
	campaignRetryInterval = time.Second
	resignTimeout         = 10 * time.Second
)

// runVirtualIP competes for the VIPs of the machine configuration (Layer2VIPConfig, or the older vip of an
// interface), as Talos' VIP operator does (controllers/network/operator/vip.go): an election in etcd whose
// session lives 60 s. A holder that stops in order hands over at once; the VIP of one that loses its power
// is back only when its session has expired.
func (b *boot) runVirtualIP() {
	for ; !b.IsStopping(); b.Sleep(campaignRetryInterval) {
		provider := b.Provider()

		address, ok := guestnetwork.VirtualIP(provider)
		if !ok || !b.services.IsUp("etcd") || !b.services.IsUp("kubelet") {
			continue
		}

		if err := b.campaign(provider, address); err != nil && !errors.Is(err, context.Canceled) {
			b.Log.Warn("VIP campaign failed", "vip", address, "error", err)
		}
	}
}

// campaign takes part in one election, and holds the VIP until it is lost or given up.
func (b *boot) campaign(provider config.Provider, address netip.Addr) error {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()

	client, err := b.etcd.local()
	if err != nil {
		return err
	}
	defer client.Close()

	session, err := concurrency.NewSession(client)
	if err != nil {
		return fmt.Errorf("failed to create concurrency session: %w", err)
	}
	defer b.endSession(client, session)

	election := concurrency.NewElection(session, fmt.Sprintf("%s:vip:election:%s", constants.EtcdRootTalosKey, address))

	if err := b.resignPrevious(ctx, session, election); err != nil {
		return err
	}

	lost := b.untilLost(ctx, provider, session)
	won := make(chan error, 1)

	go func() { won <- election.Campaign(ctx, b.network.Hostname()) }()

	select {
	case <-lost:
		return nil
	case err := <-won:
		if err != nil {
			return fmt.Errorf("failed to conduct campaign: %w", err)
		}
	}

	return b.holdVirtualIP(ctx, election, address, lost)
}

// resignPrevious gives up what this machine still holds from before its last start.
func (b *boot) resignPrevious(ctx context.Context, session *concurrency.Session, election *concurrency.Election) error {
	leader, err := election.Leader(ctx)
	if errors.Is(err, concurrency.ErrElectionNoLeader) {
		return nil
	} else if err != nil {
		return fmt.Errorf("failed getting current leader: %w", err)
	}

	entry := leader.Kvs[0]
	if string(entry.Value) != b.network.Hostname() {
		return nil
	}

	return concurrency.ResumeElection(session, "", string(entry.Key), entry.CreateRevision).Resign(ctx)
}

// untilLost is closed when this machine must give up the VIP: its services stop, its etcd or its session
// is gone, or the configuration has changed.
func (b *boot) untilLost(ctx context.Context, provider config.Provider, session *concurrency.Session) <-chan struct{} {
	lost := make(chan struct{})

	go func() {
		defer close(lost)

		before, _ := guestnetwork.VirtualIP(provider)

		for {
			select {
			case <-ctx.Done():
				return
			case <-b.Stopping():
				return
			case <-session.Done():
				return
			case <-time.After(lifetime.Tick):
			}

			address, ok := guestnetwork.VirtualIP(b.Provider())
			if !ok || address != before || b.services.State("etcd") != services.StateRunning {
				return
			}
		}
	}()

	return lost
}

func (b *boot) holdVirtualIP(ctx context.Context, election *concurrency.Election, address netip.Addr, lost <-chan struct{}) error {
	prefix := netip.PrefixFrom(address, address.BitLen())

	if err := b.network.AddAddress(prefix); err != nil {
		return err
	}

	b.Log.Info("VIP is here", "vip", address)
	b.LogError("gratuitous ARP", b.network.Announce(address))

	defer func() {
		b.LogError("VIP not removed", b.network.RemoveAddress(prefix))
		b.Log.Info("VIP is given up", "vip", address)

		resign, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
		defer cancel()

		if !b.IsOver() {
			_ = election.Resign(resign)
		}
	}()

	observed := election.Observe(ctx)

	for {
		select {
		case <-lost:
			return nil
		case leader, ok := <-observed:
			if !ok || string(leader.Kvs[0].Value) != b.network.Hostname() {
				return nil
			}
		}
	}
}

// endSession revokes the session's lease, and with it the machine's place in the election. A machine without
// power cannot: its lease expires.
func (b *boot) endSession(client *clientv3.Client, session *concurrency.Session) {
	session.Orphan()

	if b.IsOver() {
		return
	}

	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), resignTimeout)
	defer cancel()

	_, _ = client.Revoke(ctx, session.Lease())
}
