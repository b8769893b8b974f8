package world

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/storage"
	"platform.lab/lab/internal/workloads"
)

// storageURL is where backups go; nil without backups.
func (s Settings) storageURL() *url.URL {
	if s.Services.Backup == nil {
		return nil
	}
	return parsed(s.Services.Backup.Endpoint)
}

// storageHost is the only name that the storage has: with the bucket in it or without, as the settings say.
func (s Settings) storageHost() string {
	location := s.storageURL()
	switch {
	case location == nil:
		return ""
	case s.Services.Backup.PathStyle:
		return location.Hostname()
	default:
		return s.Services.Backup.Bucket + "." + location.Hostname()
	}
}

// storageParts say what the storage is, for a run's summary.
func (s *Spec) storageParts() []workloads.Part {
	if s.Settings.storageURL() == nil {
		return nil
	}
	return []workloads.Part{{
		Name: "backup-storage", Kind: "real",
		Says: "Versity's S3 gateway over a folder; the bucket's lifecycle rules are a file of the lab's, and delete nothing",
	}}
}

// serveStorage starts the storage with the bucket of services.backup. It takes the access key that the world's stack has now,
// and nobody has its owner's.
func serveStorage(
	ctx context.Context, serving *sync.WaitGroup, l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr,
	say func(string, ...any),
) error {
	location := spec.Settings.storageURL()
	if location == nil {
		return nil
	}
	server, err := l.storageServer(authority, spec, addresses[spec.Settings.storageHost()])
	if err != nil {
		return err
	}
	ended, err := server.Start(ctx)
	if err != nil {
		return fmt.Errorf("storage for backups: %w", err)
	}
	serving.Go(func() {
		if err := <-ended; ctx.Err() == nil {
			slog.Error("the storage for backups ended", "log", server.Log(), "error", err)
		}
	})
	say("storage for backups at %s://%s, bucket %s (versitygw)", location.Scheme, spec.Settings.storageHost(), server.Bucket)
	return nil
}

// gateway is a folder for what the storage keeps beside the objects, and for its log. Its name does not begin as that of the
// objects' folder does, which the gateway would take for a folder inside.
func (l Layout) gateway() string { return l.path("versitygw") }

// storageServer is the storage at its address, with a certificate of its own where it speaks TLS.
func (l Layout) storageServer(authority *pki.Authority, spec *Spec, address netip.Addr) (storage.Server, error) {
	location, name, backup := spec.Settings.storageURL(), spec.Settings.storageHost(), spec.Settings.Services.Backup
	port, err := portOf(location)
	if err != nil {
		return storage.Server{}, fmt.Errorf("platform:services.backup.endpoint: %w", err)
	}
	server := storage.Server{
		Bin: spec.Bin, Listen: netip.AddrPortFrom(address, port).String(), Bucket: backup.Bucket, Region: backup.Region, Keys: l.Spec(),
		Owner: storage.Owner{ID: rand.Text(), Secret: rand.Text()}, Objects: l.Storage(), State: l.gateway(),
	}
	if !backup.PathStyle {
		server.Domain = location.Hostname()
	}
	if err := network.AddLoopback(address); err != nil {
		return storage.Server{}, err
	}
	if location.Scheme != "https" {
		return server, nil
	}
	if authority, err = spec.Options.Site.authority(authority); err != nil {
		return storage.Server{}, err
	}
	certificate, err := authority.Server(name, time.Now().Add(validity))
	if err != nil {
		return storage.Server{}, err
	}
	if err := os.MkdirAll(server.State, 0o700); err != nil {
		return storage.Server{}, err
	}
	server.Certificate, server.Key = filepath.Join(server.State, "crt"), filepath.Join(server.State, "key")
	return server, writePair(certificate, server.Certificate, server.Key)
}
