package world

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/golang-jwt/jwt/v5"

	"platform.lab/lab/internal/githubapi"
	"platform.lab/lab/internal/gitserver"
	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/workloads"
)

const (
	gitHub = "github.com"
	// commitStatusSecret is the key of the GitHub App that sets statuses of commits.
	commitStatusSecret = "commitStatusKey"
	appKeyBits         = 2048
)

// hasGitHubApp says whether Argo CD sets statuses of commits as a GitHub App.
func (s Settings) hasGitHubApp() bool {
	argocd := s.Services.ArgoCD
	return argocd != nil && argocd.GitHost == "github" && argocd.CommitStatuses != nil
}

// asksGitHub says whether a program of a pod sets statuses of commits at GitHub.
func (s *Spec) asksGitHub() bool { return len(s.Options.images()) > 0 && s.Settings.hasGitHubApp() }

// statusHosts are the hosts of their own that take statuses of commits.
func (s *Spec) statusHosts() []string {
	if !s.asksGitHub() || s.Settings.gitHost() != gitHub {
		return nil
	}
	return []string{githubapi.Host}
}

// newAppKey makes a private key as GitHub gives it to who makes an App.
func newAppKey() (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, appKeyBits)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})), nil
}

// appKey is the public half of the key that the world's stack has now; nil for one that is none. Whoever sets a new one
// has made it at GitHub before.
func (l Layout) appKey(made *Spec) *rsa.PublicKey {
	spec := l.specNow(made)
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(spec.Secrets.Values[commitStatusSecret]))
	if err != nil {
		return nil
	}
	return &key.PublicKey
}

// gitHubAPI is the API of the host of the repository; nil where no pod asks it.
func gitHubAPI(l Layout, spec *Spec, repository *gitserver.Server) http.Handler {
	if !spec.asksGitHub() {
		return nil
	}
	argocd := spec.Settings.Services.ArgoCD
	return &githubapi.Server{
		Repository: repository.Name(), Private: argocd.RepositoryAccess != nil,
		AppID: argocd.CommitStatuses.AppID, InstallationID: argocd.CommitStatuses.InstallationID,
		Key: func() *rsa.PublicKey { return l.appKey(spec) }, MayWrite: func() bool { return true }, HasCommit: repository.HasCommit,
	}
}

// serveGitHubAPI serves what takes statuses of commits: under its own name, or beside the repository of an Enterprise
// Server. It gives what answers for the repository's host.
func serveGitHubAPI(answer answerer, l Layout, spec *Spec, authority *pki.Authority, addresses map[string]netip.Addr, repository *gitserver.Server, say func(string, ...any)) (http.Handler, error) {
	api := gitHubAPI(l, spec, repository)
	if api == nil {
		return repository, nil
	}
	if spec.Settings.gitHost() != gitHub {
		host := http.NewServeMux()
		host.Handle(githubapi.EnterprisePath+"/", http.StripPrefix(githubapi.EnterprisePath, api))
		host.Handle("/", repository)
		say("GitHub's API at https://%s%s (simulated): statuses of commits", spec.Settings.gitHost(), githubapi.EnterprisePath)
		return host, nil
	}
	listener, err := listenAt(&url.URL{Scheme: "https", Host: githubapi.Host}, githubapi.Host, "services.argocd.commitStatuses", authority, addresses[githubapi.Host])
	if err != nil {
		return nil, fmt.Errorf("GitHub's API: %w", err)
	}
	answer(listener, api, "GitHub's API")
	say("GitHub's API at https://%s (simulated): statuses of commits", githubapi.Host)
	return repository, nil
}

// gitHubParts say what this server is, for a run's summary.
func (s *Spec) gitHubParts() []workloads.Part {
	if !s.asksGitHub() {
		return nil
	}
	return []workloads.Part{{Name: "github-api", Kind: "simulated", Says: "a GitHub App's tokens and the statuses of commits, with GitHub's rules and words; no rate limits"}}
}
