package world

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"platform.lab/lab/internal/githubapi"
	"platform.lab/lab/internal/gitlabapi"
	"platform.lab/lab/internal/gitserver"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/workloads"
)

// commitStatusSecret is what sets statuses of commits: the key of a GitHub App, or GitLab's token.
const commitStatusSecret = "commitStatusKey"

// statusAPI is where a Git host takes statuses of commits, as config/git.py has it; nil where Argo CD sets none.
func (s Settings) statusAPI() *url.URL {
	argocd := s.Services.ArgoCD
	if argocd == nil || argocd.CommitStatuses == nil {
		return nil
	}
	repository := s.gitURL()
	at := &url.URL{Scheme: "https", Host: repository.Hostname()}
	if repository.Scheme == "https" {
		at.Host = repository.Host
	}
	if given := parsed(argocd.CommitStatuses.URL); given != nil && given.Host != "" {
		at.Host = given.Host
	}
	switch {
	case argocd.GitHost == "gitlab":
		at.Path = gitlabapi.Path
	case argocd.GitHost != "github":
		return nil
	case at.Host == gitHub:
		at.Host = githubapi.Host
	default:
		at.Path = githubapi.EnterprisePath
	}
	return at
}

// newStatusKey makes what the Git host would give to who may set statuses; "" where nobody does.
func (s Settings) newStatusKey() (string, error) {
	switch {
	case s.statusAPI() == nil:
		return "", nil
	case s.Services.ArgoCD.GitHost == "gitlab":
		return newAccessToken(), nil
	}
	return newAppKey()
}

// setsStatuses says whether a program of a pod sets statuses of commits.
func (s *Spec) setsStatuses() bool {
	return len(s.Options.images()) > 0 && s.Settings.statusAPI() != nil
}

// statusHosts are the hosts, other than the repository's, that take statuses of commits.
func (s *Spec) statusHosts() []string {
	if !s.setsStatuses() || s.Settings.statusAPI().Hostname() == s.Settings.gitHost() {
		return nil
	}
	return []string{s.Settings.statusAPI().Hostname()}
}

// serveStatuses serves what takes statuses of commits: beside the repository where that is at the same host and port,
// else at a place of its own. It gives what answers for the repository's host.
func serveStatuses(answer answerer, l Layout, spec *Spec, authority *pki.Authority, addresses map[string]netip.Addr, repository *gitserver.Server, say func(string, ...any)) (http.Handler, error) {
	if !spec.setsStatuses() {
		return repository, nil
	}
	at, name, api := spec.Settings.statusAPI(), "GitHub's API", gitHubAPI(l, spec, repository)
	if spec.Settings.Services.ArgoCD.GitHost == "gitlab" {
		name, api = "GitLab's API", gitLabAPI(l, spec, repository)
	}
	host := http.NewServeMux()
	host.Handle(at.Path+"/", http.StripPrefix(at.Path, api))
	say("%s at %s (simulated): statuses of commits", name, at)
	if location := spec.Settings.gitURL(); location.Scheme == "https" && location.Host == at.Host {
		host.Handle("/", repository)
		return host, nil
	}
	listener, err := listenAt(at, at.Hostname(), "services.argocd.commitStatuses", authority, addresses[at.Hostname()])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	answer(listener, host, name)
	return repository, nil
}

// statusParts say what this server is, for a run's summary.
func (s *Spec) statusParts() []workloads.Part {
	switch {
	case !s.setsStatuses():
		return nil
	case s.Settings.Services.ArgoCD.GitHost == "gitlab":
		return []workloads.Part{{Name: "gitlab-api", Kind: "simulated", Says: "a project access token and the statuses of commits, with GitLab's rules and words; no rate limits"}}
	}
	return []workloads.Part{{Name: "github-api", Kind: "simulated", Says: "a GitHub App's tokens and the statuses of commits, with GitHub's rules and words; no rate limits"}}
}
