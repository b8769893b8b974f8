package world

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"platform.lab/lab/internal/gitserver"
	"platform.lab/lab/internal/pki"
)

// gitURL is where Argo CD's repository is said to be; nil without Argo CD.
func (s Settings) gitURL() *url.URL {
	if s.Services.ArgoCD == nil {
		return nil
	}
	text := s.Services.ArgoCD.RepositoryURL
	// Git's short form of a URL of SSH: USER@HOST:PATH.
	if !strings.Contains(text, "://") {
		host, path, _ := strings.Cut(text, ":")
		text = "ssh://" + host + "/" + path
	}
	return parsed(text)
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
func serveGit(ctx context.Context, answer answerer, l Layout, authority *pki.Authority, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) error {
	location := spec.Settings.gitURL()
	if location == nil {
		return nil
	}
	handler, err := gitserver.New(ctx, gitserver.Options{
		Project: spec.Project, Dir: l.Repository(), URL: location.String(),
		Revision: spec.Settings.Services.ArgoCD.Revision, Log: os.Stderr,
	})
	if err != nil {
		return fmt.Errorf("server of the Git repository: %w", err)
	}
	host := location.Hostname()
	served, err := serveStatuses(answer, l, spec, authority, addresses, handler, say)
	if err != nil {
		return err
	}
	if location.Scheme == "ssh" {
		return serveGitSSH(l, spec, handler, location, addresses[host], say)
	}
	if spec.Settings.Services.ArgoCD.RepositoryAuthority == "company" {
		if authority, err = spec.Options.Site.authority(authority); err != nil {
			return err
		}
	}
	listener, err := listenAt(location, host, "services.argocd.repositoryUrl", authority, addresses[host])
	if err != nil {
		return fmt.Errorf("server of the Git repository: %w", err)
	}
	answer(listener, served, "Git server")
	say("Git repository at %s (simulated): this project's folders, commit %.12s", location, handler.Commit)
	return nil
}

// serveGitSSH serves the repository to the deploy key that the world's stack has now: whoever sets a new one has given
// its public half to the Git host before.
func serveGitSSH(l Layout, spec *Spec, repository *gitserver.Server, location *url.URL, address netip.Addr, say func(string, ...any)) error {
	key, err := spec.Options.Site.hostKey()
	if err != nil {
		return err
	}
	listener, err := listenAt(location, location.Hostname(), "services.argocd.repositoryUrl", nil, address)
	if err != nil {
		return fmt.Errorf("server of the Git repository: %w", err)
	}
	server := &gitserver.SSH{
		Repository: repository, Dir: l.Repository(), HostKey: key, Log: os.Stderr,
		DeployKey: func() ssh.PublicKey { return l.deployKey(spec) },
	}
	go func() {
		if err := server.Serve(listener); err != nil {
			slog.Error("Git server ended", "error", err)
		}
	}()
	say("Git repository at %s (simulated): this project's folders, commit %.12s, host key %s", location, repository.Commit, ssh.FingerprintSHA256(key.PublicKey()))
	return nil
}
