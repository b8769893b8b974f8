package omni

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/constants"
)

// callPatience is how long a call to a machine may take that answers at once in a sound one.
const callPatience = 10 * time.Second

// talosClients keeps a connection to each machine's API, over SideroLink.
type talosClients struct {
	mu   sync.Mutex
	open map[string]talosClient
}

type talosClient struct {
	*client.Client

	// cluster is "" of a machine in maintenance, whose certificate nobody vouches for.
	cluster string
}

// of is a client of the machine at an address: with the cluster's certificates, or, without a cluster, as one in
// maintenance is asked.
func (c *talosClients) of(ctx context.Context, address, cluster string, credentials *tls.Config) (*client.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, open := c.open[address]; open {
		if known.cluster == cluster {
			return known.Client, nil
		}
		known.Close()
		delete(c.open, address)
	}
	if credentials == nil {
		credentials = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a machine in maintenance has nobody's certificate
	}
	made, err := client.New(ctx, client.WithEndpoints(address), client.WithTLSConfig(credentials))
	if err != nil {
		return nil, err
	}
	if c.open == nil {
		c.open = map[string]talosClient{}
	}
	c.open[address] = talosClient{Client: made, cluster: cluster}
	return made, nil
}

// forget closes the connection to an address.
func (c *talosClients) forget(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, open := c.open[address]; open {
		known.Close()
		delete(c.open, address)
	}
}

func (c *talosClients) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var faults []error
	for _, one := range c.open {
		faults = append(faults, one.Close())
	}
	c.open = nil
	return errors.Join(faults...)
}

// apiAddress is where the machine of a SideroLink address answers.
func apiAddress(address string) string {
	return net.JoinHostPort(address, strconv.Itoa(constants.ApidPort))
}
