package world

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/storage"
)

// storageURL is where backups go; nil without backups.
func (s Settings) storageURL() *url.URL {
	if s.Services.Backup == nil {
		return nil
	}
	location, err := url.Parse(s.Services.Backup.Endpoint)
	if err != nil {
		return nil // the program's own check refuses it
	}
	return location
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

// serveStorage serves the bucket of services.backup. It takes the access key that the world's stack has now: whoever
// sets a new one has made it at the storage before.
func serveStorage(l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) error {
	location := spec.Settings.storageURL()
	if location == nil {
		return nil
	}
	name := spec.Settings.storageHost()
	address := addresses[name]
	if err := network.AddLoopback(address); err != nil {
		return err
	}
	port := uint64(443)
	if given := location.Port(); given != "" {
		var err error
		if port, err = strconv.ParseUint(given, 10, 16); err != nil {
			return fmt.Errorf("platform:services.backup.endpoint: port %s: %w", given, err)
		}
	}
	certificate, err := authority.Server(name, time.Now().Add(validity))
	if err != nil {
		return err
	}
	backup := spec.Settings.Services.Backup
	handler, err := storage.New(storage.Options{
		Host: location.Host, Bucket: backup.Bucket, Region: backup.Region, HostStyle: !backup.PathStyle, Dir: l.Storage(),
		Credentials: func() (id, secret string) { return l.storageKey(spec) },
	})
	if err != nil {
		return err
	}
	listener, err := listen(netip.AddrPortFrom(address, uint16(port)), &certificate)
	if err != nil {
		return fmt.Errorf("storage for backups: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			slog.Error("the storage for backups ended", "error", err)
		}
	}()
	say("storage for backups at https://%s, bucket %s (simulated)", name, backup.Bucket)
	return nil
}

// storageKey is the access key's id and its secret, as the world's stack has them.
func (l Layout) storageKey(made *Spec) (id, secret string) {
	spec, err := l.readSpec()
	if err != nil {
		spec = made
	}
	return spec.Secrets.Values["backupAccessKey"], spec.Secrets.Values["backupSecretKey"]
}
