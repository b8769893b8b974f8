package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"platform.lab/lab/internal/machine/guestnetwork"
)

// join adds the machine to the members as a learner and starts it; false while there is no cluster to join.
func (e *Service) join(provider config.Provider) (bool, error) {
	peers := e.peers(provider)
	if len(peers) == 0 {
		return false, nil
	}

	address, err := e.advertised(provider)
	if err != nil {
		return false, err
	}

	client, err := e.client(peers...)
	if err != nil {
		return false, err
	}

	initial, id, err := e.addMember(client, urlOf(address, peerPort))
	if err != nil {
		client.Close()

		return false, err
	}

	if err := e.start(provider, map[string]string{"initial-cluster-state": "existing", "initial-cluster": initial}); err != nil {
		client.Close()

		return false, err
	}

	e.Go(func() {
		defer client.Close()

		e.promote(client, id)
	})

	return true, nil
}

// peers are the other control planes whose etcd answers.
func (e *Service) peers(provider config.Provider) []netip.Addr {
	own := e.Network.NodeAddresses()

	var peers []netip.Addr

	for _, address := range e.Discovery.ControlPlanes(provider.Cluster().ID()) {
		if !slices.Contains(own, address) && e.Network.Answers(address, ClientPort) {
			peers = append(peers, address)
		}
	}

	return peers
}

// addMember replaces a member of the machine's name by a new learner (services/etcd.go, addMember and
// buildInitialCluster): a machine without etcd data that is a member has lost its disk.
func (e *Service) addMember(client *clientv3.Client, peer string) (initial string, id uint64, err error) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(e.Context()), MemberTimeout)
	defer cancel()

	name := e.Network.Hostname()

	list, err := client.MemberList(ctx)
	if err != nil {
		return "", 0, fmt.Errorf("error getting etcd member list: %w", err)
	}

	for _, member := range list.Members {
		if member.Name == name || slices.Contains(member.PeerURLs, peer) {
			if _, err := client.MemberRemove(ctx, member.ID); err != nil {
				return "", 0, fmt.Errorf("error removing self from the member list: %w", err)
			}
		}
	}

	added, err := client.MemberAddAsLearner(ctx, []string{peer})
	if err != nil {
		return "", 0, fmt.Errorf("error adding member: %w", err)
	}

	var urls []string

	for _, member := range added.Members {
		for _, url := range member.PeerURLs {
			if member.ID == added.Member.ID {
				member.Name = name
			}

			urls = append(urls, member.Name+"="+url)
		}
	}

	return strings.Join(urls, ","), added.Member.ID, nil
}

// promote makes the learner a voter as soon as it has caught up.
func (e *Service) promote(client *clientv3.Client, id uint64) {
	for !e.IsStopping() {
		ctx, cancel := context.WithTimeout(e.Context(), MemberTimeout)
		_, err := client.MemberPromote(ctx, id)

		cancel()

		if err == nil || errors.Is(err, rpctypes.ErrMemberNotLearner) || errors.Is(err, rpctypes.ErrMemberNotFound) {
			e.Log.Info("etcd member is a voter")

			return
		}

		if !e.Sleep(promoteInterval) {
			return
		}
	}
}

// MemberID is the number of the machine's own member.
func (e *Service) MemberID(ctx context.Context) (uint64, error) {
	client, err := e.Local()
	if err != nil {
		return 0, err
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()

	status, err := client.Status(ctx, LocalURL())
	if err != nil {
		return 0, err
	}

	return status.Header.MemberId, nil
}

// Leave removes the machine from the members, stops its etcd and throws the data away.
func (e *Service) Leave(ctx context.Context) error {
	id, err := e.MemberID(ctx)
	if errors.Is(err, errNotBootstrapped) {
		return nil
	} else if err != nil {
		return err
	}

	// Another member is asked: one that removes itself may be gone before it answers.
	others := e.peers(e.Provider())
	if len(others) == 0 {
		others = []netip.Addr{guestnetwork.Loopback}
	}

	client, err := e.client(others...)
	if err != nil {
		return err
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(ctx, MemberTimeout)
	defer cancel()

	if _, err := client.MemberRemove(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("failed to remove member %d: %w", id, err)
	}

	e.Stop(leaveGrace)

	return os.RemoveAll(e.data())
}

// ForfeitLeadership gives the name of the new leader; empty when this member did not lead.
func (e *Service) ForfeitLeadership(ctx context.Context) (string, error) {
	client, err := e.Local()
	if err != nil {
		return "", err
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(ctx, MemberTimeout)
	defer cancel()

	answer, err := client.Status(ctx, LocalURL())
	if err != nil || answer.Leader != answer.Header.MemberId {
		return "", err
	}

	list, err := client.MemberList(ctx)
	if err != nil {
		return "", err
	}

	for _, member := range list.Members {
		if member.ID != answer.Header.MemberId && !member.IsLearner {
			_, err := client.MoveLeader(ctx, member.ID)

			return member.Name, err
		}
	}

	return "", errors.New("cannot forfeit leadership, only one member")
}

// ValidateForUpgrade is ValidateForUpgrade of Talos' etcd client.
func (e *Service) ValidateForUpgrade(ctx context.Context) error {
	client, err := e.Cluster()
	if err != nil {
		return err
	}
	defer client.Close()

	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}

	if len(list.Members) == 2 {
		return fmt.Errorf("etcd member count(%d) is insufficient to maintain quorum if upgrade commences", len(list.Members))
	}

	for _, member := range list.Members {
		if member.Name == "" {
			return fmt.Errorf("etcd member %016x is not started, all members must be running to perform an upgrade", member.ID)
		}

		for _, url := range member.ClientURLs {
			if _, err := client.Status(ctx, url); err != nil {
				return fmt.Errorf("etcd member %016x is not healthy; all members must be healthy to perform an upgrade: %w", member.ID, err)
			}
		}
	}

	return nil
}
