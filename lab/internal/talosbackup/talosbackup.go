// Package talosbackup is a stand-in for the program talos-backup 0.1.0-beta.3, whose module no proxy serves: the same
// environment, files and words, over Talos' own client, age and Amazon's library.
package talosbackup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	talosclient "github.com/siderolabs/talos/pkg/machinery/client"

	"platform.lab/lab/internal/storage"
)

// Name is the program's in its image.
const Name = "talos-backup"

// longest is how long one backup may take.
const longest = 2 * time.Minute

// Main takes a snapshot of etcd to the storage that the environment names, and says on out what it did.
func Main(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()

	environment := map[string]string{}

	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		environment[name] = value
	}

	job := storage.Job{Environment: environment, Snapshot: snapshot, HTTP: http.DefaultClient, Now: time.Now}

	key, err := job.Run(ctx)
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "%suploaded %s\n", time.Now().UTC().Format("2006/01/02 15:04:05 "), key)

	return nil
}

// snapshot reads one by the Talos API, with the credentials that Talos made for the pod's account: its library finds them at
// /var/run/secrets/talos.dev. They also say where the API is.
func snapshot(ctx context.Context) (io.ReadCloser, error) {
	client, err := talosclient.New(ctx, talosclient.WithDefaultConfig())
	if err != nil {
		return nil, err
	}

	read, err := client.EtcdSnapshot(ctx, &machineapi.EtcdSnapshotRequest{})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}

	return closing{read, client}, nil
}

// closing ends the connection with what was read by it.
type closing struct {
	io.ReadCloser
	client *talosclient.Client
}

func (s closing) Close() error { return errors.Join(s.ReadCloser.Close(), s.client.Close()) }
