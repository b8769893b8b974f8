// Package vip is the competition of the control planes for the address that they share.
package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"go.etcd.io/etcd/client/v3/concurrency"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/etcd"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/services"
)

const (
	campaignRetryInterval = time.Second
	resignTimeout         = 10 * time.Second
)

// Machine is what the competition for a VIP needs of the machine.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	Network  *guestnetwork.Network
	Services *services.Services
	Etcd     *etcd.Service
}

// Run competes for the VIPs of the machine configuration (Layer2VIPConfig, or the older vip of an
// interface), as Talos' VIP operator does (controllers/network/operator/vip.go): an election in etcd whose
// session lives 60 s. A holder that stops in order hands over at once; the VIP of one that loses its power
// is back only when its session has expired.
func (v Machine) Run() {
	for ; !v.IsStopping(); v.Sleep(campaignRetryInterval) {
		provider := v.Provider()

		address, ok := guestnetwork.VirtualIP(provider)
		if !ok || !v.Services.IsUp("etcd") || !v.Services.IsUp("kubelet") {
			continue
		}

		if err := v.campaign(provider, address); err != nil && !errors.Is(err, context.Canceled) {
			v.Log.Warn("VIP campaign failed", "vip", address, "error", err)
		}
	}
}

// campaign takes part in one election, and holds the VIP until it is lost or given up.
func (v Machine) campaign(provider config.Provider, address netip.Addr) error {
	ctx, cancel := context.WithCancel(v.Context())
	defer cancel()

	client, err := v.Etcd.Local()
	if err != nil {
		return err
	}
	defer client.Close()

	session, err := concurrency.NewSession(client)
	if err != nil {
		return fmt.Errorf("failed to create concurrency session: %w", err)
	}
	defer v.Etcd.EndSession(client, session)

	election := concurrency.NewElection(session, fmt.Sprintf("%s:vip:election:%s", constants.EtcdRootTalosKey, address))

	if err := v.resignPrevious(ctx, session, election); err != nil {
		return err
	}

	lost := v.untilLost(ctx, provider, session)
	won := make(chan error, 1)

	go func() { won <- election.Campaign(ctx, v.Network.Hostname()) }()

	select {
	case <-lost:
		return nil
	case err := <-won:
		if err != nil {
			return fmt.Errorf("failed to conduct campaign: %w", err)
		}
	}

	return v.hold(ctx, election, address, lost)
}

// resignPrevious gives up what this machine still holds from before its last start.
func (v Machine) resignPrevious(ctx context.Context, session *concurrency.Session, election *concurrency.Election) error {
	leader, err := election.Leader(ctx)
	if errors.Is(err, concurrency.ErrElectionNoLeader) {
		return nil
	} else if err != nil {
		return fmt.Errorf("failed getting current leader: %w", err)
	}

	entry := leader.Kvs[0]
	if string(entry.Value) != v.Network.Hostname() {
		return nil
	}

	return concurrency.ResumeElection(session, "", string(entry.Key), entry.CreateRevision).Resign(ctx)
}

// untilLost is closed when this machine must give up the VIP: its services stop, its etcd or its session
// is gone, or the configuration has changed.
func (v Machine) untilLost(ctx context.Context, provider config.Provider, session *concurrency.Session) <-chan struct{} {
	lost := make(chan struct{})

	go func() {
		defer close(lost)

		before, _ := guestnetwork.VirtualIP(provider)

		for {
			select {
			case <-ctx.Done():
				return
			case <-v.Stopping():
				return
			case <-session.Done():
				return
			case <-time.After(lifetime.Tick):
			}

			address, ok := guestnetwork.VirtualIP(v.Provider())
			if !ok || address != before || v.Services.State("etcd") != services.StateRunning {
				return
			}
		}
	}()

	return lost
}

func (v Machine) hold(ctx context.Context, election *concurrency.Election, address netip.Addr, lost <-chan struct{}) error {
	prefix := netip.PrefixFrom(address, address.BitLen())

	if err := v.Network.AddAddress(prefix); err != nil {
		return err
	}

	v.Log.Info("VIP is here", "vip", address)
	v.LogError("gratuitous ARP", v.Network.Announce(address))

	defer func() {
		v.LogError("VIP not removed", v.Network.RemoveAddress(prefix))
		v.Log.Info("VIP is given up", "vip", address)

		resign, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
		defer cancel()

		if !v.IsOver() {
			_ = election.Resign(resign)
		}
	}()

	observed := election.Observe(ctx)

	for {
		select {
		case <-lost:
			return nil
		case leader, ok := <-observed:
			if !ok || string(leader.Kvs[0].Value) != v.Network.Hostname() {
				return nil
			}
		}
	}
}
