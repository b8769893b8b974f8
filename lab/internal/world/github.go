package world

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"

	"github.com/golang-jwt/jwt/v5"

	"platform.lab/lab/internal/githubapi"
	"platform.lab/lab/internal/gitserver"
)

const (
	gitHub     = "github.com"
	appKeyBits = 2048
)

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

// gitHubAPI is the API of a GitHub that has the repository.
func gitHubAPI(l Layout, spec *Spec, repository *gitserver.Server) http.Handler {
	argocd := spec.Settings.Services.ArgoCD
	return &githubapi.Server{
		Repository: repository.Name(), Private: argocd.RepositoryAccess != nil,
		AppID: argocd.CommitStatuses.AppID, InstallationID: argocd.CommitStatuses.InstallationID,
		Key: func() *rsa.PublicKey { return l.appKey(spec) }, MayWrite: func() bool { return true }, HasCommit: repository.HasCommit,
	}
}
