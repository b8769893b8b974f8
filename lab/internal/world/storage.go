package world

import (
	"fmt"
	"net/netip"
	"net/url"

	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/storage"
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

// serveStorage serves the bucket of services.backup. It takes the access key that the world's stack has now: whoever
// sets a new one has made it at the storage before.
func serveStorage(answer answerer, l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) error {
	location := spec.Settings.storageURL()
	if location == nil {
		return nil
	}
	name := spec.Settings.storageHost()
	backup := spec.Settings.Services.Backup
	handler, err := storage.New(storage.Options{
		Host: location.Host, Bucket: backup.Bucket, Region: backup.Region, HostStyle: !backup.PathStyle, Dir: l.Storage(),
		Credentials: func() (id, secret string) { return l.storageKey(spec) },
	})
	if err != nil {
		return err
	}
	if authority, err = spec.Options.Site.authority(authority); err != nil {
		return err
	}
	listener, err := listenAt(location, name, "services.backup.endpoint", authority, addresses[name])
	if err != nil {
		return fmt.Errorf("storage for backups: %w", err)
	}
	answer(listener, handler, "the storage for backups")
	say("storage for backups at %s://%s, bucket %s (simulated)", location.Scheme, name, backup.Bucket)
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
