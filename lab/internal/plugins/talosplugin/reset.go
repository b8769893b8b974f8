package talosplugin

// Layer: the reset of a machine on destroy, followed as talosctl follows it: until all services stop and, when it
// reboots, until it comes back.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"google.golang.org/grpc/codes"
)

const (
	pollInterval = time.Second
	bootIDFile   = "/proc/sys/kernel/random/boot_id"

	// stopTask is the event that shows that the reset is on its way.
	stopTask = "stopAllServices"
)

// wiped are the partitions that hold a machine's configuration and data.
var wiped = []*machineapi.ResetPartitionSpec{{Label: "STATE", Wipe: true}, {Label: "EPHEMERAL", Wipe: true}}

func (t target) reset(ctx context.Context, graceful, reboot bool) error {
	return t.do(ctx, func(ctx context.Context, c *client.Client) error {
		if _, err := c.Version(client.WithNodes(ctx, t.node)); err != nil {
			return fmt.Errorf("error getting server versions: %w", err)
		}

		stopped := make(chan error, 1)
		watching := make(chan struct{})

		go func() { stopped <- waitForStop(ctx, c, watching) }()

		select {
		case <-watching:
		case err := <-stopped:
			return err
		}

		bootID, err := readBootID(ctx, c)
		if err != nil {
			return err
		}

		if err := c.ResetGeneric(ctx, &machineapi.ResetRequest{Graceful: graceful, Reboot: reboot, SystemPartitionsToWipe: wiped}); err != nil {
			return err
		}

		if err := <-stopped; err != nil || !reboot {
			return err
		}

		return poll(ctx, func() error { return t.cameBack(ctx, c, bootID) })
	})
}

// waitForStop follows the machine's events until the task that stops its services. It closes watching when the
// stream stands, so that no event of the reset is missed.
func waitForStop(ctx context.Context, c *client.Client, watching chan<- struct{}) error {
	events := make(chan client.EventResult)

	if err := c.EventsWatchV2(ctx, events); err != nil {
		return err
	}

	close(watching)

	return poll(ctx, func() error {
		if events == nil {
			events = make(chan client.EventResult)

			if err := c.EventsWatchV2(ctx, events, client.WithTailEvents(-1)); err != nil {
				events = nil

				return err
			}
		}

		err := readUntilStop(ctx, events)
		if err != nil {
			events = nil
		}

		return err
	})
}

func readUntilStop(ctx context.Context, events <-chan client.EventResult) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case result := <-events:
			if task, ok := result.Event.Payload.(*machineapi.TaskEvent); ok && task.GetTask() == stopTask {
				return nil
			}

			if result.Error != nil {
				return result.Error
			}
		}
	}
}

var errSameBoot = errors.New("didn't reboot yet")

// cameBack tells whether the machine is in maintenance mode, or up with another boot id.
func (t target) cameBack(ctx context.Context, c *client.Client, bootID string) error {
	insecure, err := t.insecureClient(ctx)
	if err != nil {
		return err
	}
	defer insecure.Close()

	if _, err := insecure.Disks(ctx); err == nil {
		return nil
	}

	current, err := readBootID(ctx, c)
	if err != nil {
		return err
	}

	if current == bootID {
		return errSameBoot
	}

	return nil
}

func readBootID(ctx context.Context, c *client.Client) (string, error) {
	reader, err := c.Read(ctx, bootIDFile)
	if err != nil {
		return "", err
	}
	defer reader.Close()

	content, err := io.ReadAll(reader)

	return strings.TrimSpace(string(content)), err
}

// poll repeats check once a second while the machine is only away. Any other error ends it.
func poll(ctx context.Context, check func() error) error {
	for {
		err := check()
		code := client.StatusCode(err)

		away := errors.Is(err, io.EOF) || errors.Is(err, errSameBoot) || code == codes.Unavailable || code == codes.Canceled
		if !away {
			return err
		}

		select {
		case <-ctx.Done():
			return err
		case <-time.After(pollInterval):
		}
	}
}
