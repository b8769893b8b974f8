// Package storage is what stands outside the platform for its backups: a storage that speaks S3, and what the
// backup job does with it.
//
// The storage is a real one, Versity's S3 gateway over a folder (lab/tools/versitygw). Signatures, checksums, rights, versions
// and the lock of objects are its own, and so are its words. The bucket's lifecycle rules alone are the lab's: the gateway has none.
package storage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"platform.lab/lab/internal/network"
)

const (
	// Program is the gateway, as lab/tools/versitygw makes it.
	Program = "versitygw"
	// longestStart ends a start that is broken; it takes a small part of a second.
	longestStart = 30 * time.Second
)

// lifecycleRules are those that docs/site-requirements.md asks for: an object for 90 days, its older versions a day longer.
const lifecycleRules = `<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Rule><ID>backups</ID>` +
	`<Filter><Prefix></Prefix></Filter><Status>Enabled</Status><Expiration><Days>90</Days></Expiration>` +
	`<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration></Rule></LifecycleConfiguration>`

// Server is a storage with one bucket.
type Server struct {
	Bin    string // folder of the built programs
	Listen string // address and port, or the path of a socket

	// Certificate and Key are files, PEM; without them the storage speaks HTTP.
	Certificate, Key string
	Bucket, Region   string
	// Domain is what the host's name has behind the bucket's; without it the bucket is in the path only.
	Domain string
	// Keys is a world's file, with the access key that the storage takes, as it is now.
	Keys string
	// Owner is the account that the bucket belongs to.
	Owner Owner
	// Objects is the folder of the objects, below a folder for the bucket.
	Objects string
	// State is a folder for all else that the gateway keeps, and for its log.
	State string
}

// Owner is an access key's id and its secret.
type Owner struct{ ID, Secret string }

// Log is the file of what the gateway says: a line for each call.
func (s Server) Log() string { return filepath.Join(s.State, "log") }

// RulesFile has the bucket's lifecycle rules, as S3 writes them. Who changes or removes it changes what the bucket says of them.
func (s Server) RulesFile() string { return filepath.Join(s.State, "lifecycle.xml") }

// Start starts the storage with its empty bucket, which ends with ctx, and waits until it listens. The channel gets how it ended.
func (s Server) Start(ctx context.Context) (<-chan error, error) {
	if err := os.MkdirAll(s.State, 0o700); err != nil {
		return nil, err
	}

	if err := os.WriteFile(s.RulesFile(), []byte(lifecycleRules), 0o600); err != nil {
		return nil, err
	}

	ended, err := s.run(ctx)
	if err != nil {
		return nil, err
	}

	if err := s.listens(ctx, ended); err != nil {
		return nil, fmt.Errorf("%w; see %s", err, s.Log())
	}

	return ended, nil
}

func (s Server) run(ctx context.Context) (<-chan error, error) {
	log, err := os.OpenFile(s.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}

	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, Program),
		"--listen="+s.Listen, "--certificate="+s.Certificate, "--key="+s.Key, "--domain="+s.Domain, "--region="+s.Region,
		"--bucket="+s.Bucket, "--objects="+s.Objects, "--state="+s.State, "--keys="+s.Keys)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.Owner.ID, "ROOT_SECRET_KEY="+s.Owner.Secret)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second

	if err := network.Start(cmd); err != nil {
		return nil, errors.Join(err, log.Close())
	}

	ended := make(chan error, 1)

	go func() { ended <- errors.Join(cmd.Wait(), log.Close()) }()

	return ended, nil
}

// listens waits until somebody can connect.
func (s Server) listens(ctx context.Context, ended <-chan error) error {
	kind := "tcp"
	if strings.HasPrefix(s.Listen, "/") {
		kind = "unix"
	}

	timeout := time.After(longestStart)

	for {
		connection, err := new(net.Dialer).DialContext(ctx, kind, s.Listen)
		if err == nil {
			return connection.Close()
		}

		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-ended:
			return fmt.Errorf("it ended at once: %w", err)
		case <-timeout:
			return fmt.Errorf("it does not listen within %s: %w", longestStart, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
