package talosplugin

// Layer: calls of the machine API, with the provider's own way of reaching a machine and of trying again.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/siderolabs/talos/pkg/machinery/client"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"platform.lab/lab/internal/plugins"
)

const defaultTimeout = 10 * time.Minute

// Waits between two tries, as in Terraform's retry helper: half a second, doubled up to ten seconds.
const (
	firstWait = 500 * time.Millisecond
	lastWait  = 10 * time.Second
)

// target is a machine and the credentials to reach it once it is configured.
type target struct {
	endpoint, node string
	credentials    *clientconfig.Config
}

// targetOf reads endpoint, node and clientConfiguration from a resource's planned outputs.
func targetOf(outputs property.Map) (target, error) {
	credentials, err := talosConfig("dynamic", objectOf(outputs, "clientConfiguration"))
	if err != nil {
		return target{}, fmt.Errorf("Error converting config to talos client config: %w", err) //nolint:staticcheck // the provider's own words
	}

	return target{endpoint: plugins.TextOf(outputs, "endpoint"), node: plugins.TextOf(outputs, "node"), credentials: credentials}, nil
}

type operation func(ctx context.Context, c *client.Client) error

// do runs an operation on the machine. A machine in maintenance mode answers Disks without a client certificate;
// any error of that probe means that it is configured and wants mutual TLS.
func (t target) do(ctx context.Context, run operation) error {
	ctx = client.WithNode(ctx, t.node)

	c, err := t.insecureClient(ctx)
	if err != nil {
		return err
	}

	if _, err = c.Disks(ctx); err != nil {
		c.Close()

		if c, err = client.New(ctx, client.WithConfig(t.credentials), client.WithEndpoints(t.endpoint)); err != nil {
			return err
		}
	}
	defer c.Close()

	return run(ctx, c)
}

func (t target) insecureClient(ctx context.Context) (*client.Client, error) {
	return client.New(ctx, client.WithEndpoints(t.endpoint), client.WithTLSConfig(&tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // a machine in maintenance mode has no certificate that anybody could check
	}))
}

// retry repeats an operation until it succeeds, the machine calls the argument invalid, or time is up.
func (t target) retry(ctx context.Context, timeout time.Duration, run operation) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	var last error

	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		err := t.do(ctx, run)
		if err == nil || status.Code(err) == codes.InvalidArgument {
			return err
		}

		// An attempt that the deadline cut off says nothing about the machine: keep the one before.
		if ctx.Err() == nil {
			last = err
		}

		select {
		case <-time.After(wait):
		case <-ctx.Done():
			if last == nil || errors.Is(last, context.DeadlineExceeded) {
				last = fmt.Errorf("timeout while waiting for state to become 'success' (timeout: %s)", timeout)
			}

			return last
		}
	}
}

// timeoutSchema is the attribute `timeouts` with the operations named.
func timeoutSchema(operations ...string) attribute {
	fields := schema{}
	for _, name := range operations {
		fields[name] = attribute{kind: text, valid: validDuration}
	}

	return attribute{kind: object, fields: fields}
}

func validDuration(value string) error {
	if _, err := time.ParseDuration(value); err != nil {
		return fmt.Errorf("Invalid Attribute Value: must be a string containing a sequence of decimal numbers each with optional fraction and a unit suffix, such as \"30s\" or \"2h45m\", got: %q", value) //nolint:staticcheck // the provider's own words
	}

	return nil
}

// timeoutOf returns the timeout that a resource sets for an operation, or the provider's ten minutes.
func timeoutOf(outputs property.Map, operation string) time.Duration {
	if d, err := time.ParseDuration(plugins.TextOf(objectOf(outputs, "timeouts"), operation)); err == nil {
		return d
	}

	return defaultTimeout
}
