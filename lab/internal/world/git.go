package world

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"

	"platform.lab/lab/internal/gitserver"
	"platform.lab/lab/internal/pki"
)

// gitURL is where Argo CD's repository is said to be; nil without Argo CD.
func (s Settings) gitURL() *url.URL {
	if s.Services.ArgoCD == nil {
		return nil
	}
	return parsed(s.Services.ArgoCD.RepositoryURL)
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
	handler, err := gitserver.New(context.Background(), gitserver.Options{
		Project: spec.Project, Dir: l.Repository(), URL: location.String(),
		Revision: spec.Settings.Services.ArgoCD.Revision, Log: os.Stderr,
	})
	if err != nil {
		return fmt.Errorf("Git server: %w", err)
	}
	host := location.Hostname()
	listener, err := listenAt(location, host, "services.argocd.repositoryUrl", authority, addresses[host])
	if err != nil {
		return fmt.Errorf("Git server: %w", err)
	}
	answer(listener, handler, "Git server")
	say("Git repository at %s (simulated): this project's folders, commit %.12s", location, handler.Commit)
	return nil
}
