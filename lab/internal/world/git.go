package world

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	"platform.lab/lab/internal/gitserver"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/pki"
)

// gitURL is where Argo CD's repository is said to be; nil without Argo CD.
func (s Settings) gitURL() *url.URL {
	if s.Services.ArgoCD == nil {
		return nil
	}
	location, err := url.Parse(s.Services.ArgoCD.RepositoryURL)
	if err != nil {
		return nil // the program's own check refuses it
	}
	return location
}

func (s Settings) gitHost() string {
	if location := s.gitURL(); location != nil {
		return location.Hostname()
	}
	return ""
}

// checkGit says before a world is made that it could not serve the repository.
func checkGit(s Settings) error {
	if s.gitURL() == nil {
		return nil
	}
	return gitserver.Available()
}

// serveGit serves the project's GitOps folders under the URL of services.argocd.repositoryUrl.
func serveGit(l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) error {
	location := spec.Settings.gitURL()
	if location == nil {
		return nil
	}
	address := addresses[location.Hostname()]
	if err := network.AddLoopback(address); err != nil {
		return err
	}
	port := uint64(443)
	if given := location.Port(); given != "" {
		var err error
		if port, err = strconv.ParseUint(given, 10, 16); err != nil {
			return fmt.Errorf("platform:services.argocd.repositoryUrl: port %s: %w", given, err)
		}
	}
	certificate, err := authority.Server(location.Hostname(), time.Now().Add(validity))
	if err != nil {
		return err
	}
	handler, err := gitserver.New(context.Background(), gitserver.Options{
		Project: spec.Project, Dir: l.Repository(), URL: location.String(),
		Revision: spec.Settings.Services.ArgoCD.Revision, Log: os.Stderr,
	})
	if err != nil {
		return fmt.Errorf("Git server: %w", err)
	}
	listener, err := listen(netip.AddrPortFrom(address, uint16(port)), &certificate)
	if err != nil {
		return fmt.Errorf("Git server: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			slog.Error("Git server ended", "error", err)
		}
	}()
	say("Git repository at %s (simulated): this project's folders, commit %.12s", location, handler.Commit)
	return nil
}
