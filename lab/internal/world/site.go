package world

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"platform.lab/lab/internal/pki"
)

// Site is what a site has, of which the settings name the public half: the lab's servers stand for those that have it.
type Site struct {
	Authority string `json:"authority"` // the company's: certificate and key, in PEM
	HostKey   string `json:"hostKey"`   // of the Git server's SSH, in PEM
}

// Files of a folder that ReadSite reads, each where it exists.
const (
	siteAuthority = "authority.pem"
	siteHostKey   = "ssh-host-key"
)

// deployKeySecret is what Argo CD reads a private repository with.
const deployKeySecret = "argocdRepositoryKey"

// ReadSite reads a folder; "" is a site that has nothing of its own.
func ReadSite(folder string) (Site, error) {
	var site Site

	if folder == "" {
		return site, nil
	}

	for name, into := range map[string]*string{siteAuthority: &site.Authority, siteHostKey: &site.HostKey} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return site, err
		}

		*into = string(text)
	}

	if site.Authority == "" && site.HostKey == "" {
		return site, fmt.Errorf("--site %s holds neither %s nor %s", folder, siteAuthority, siteHostKey)
	}

	return site, nil
}

// authority is who signs the servers that stand for the site's own: the company, or like all others a public one.
func (s Site) authority(public *pki.Authority) (*pki.Authority, error) {
	if s.Authority == "" {
		return public, nil
	}

	found, err := pki.Load([]byte(s.Authority))
	if err != nil {
		return nil, fmt.Errorf("--site, %s: %w", siteAuthority, err)
	}

	return found, nil
}

// hostKey is the Git server's own over SSH: the site's, or one that no settings can know.
func (s Site) hostKey() (ssh.Signer, error) {
	if s.HostKey == "" {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}

		return ssh.NewSignerFromKey(key)
	}

	found, err := ssh.ParsePrivateKey([]byte(s.HostKey))
	if err != nil {
		return nil, fmt.Errorf("--site, %s: %w", siteHostKey, err)
	}

	return found, nil
}

// newDeployKey makes a private key as ssh-keygen does.
func newDeployKey() (string, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}

	block, err := ssh.MarshalPrivateKey(key, "deploy key of the lab")
	if err != nil {
		return "", err
	}

	return string(pem.EncodeToMemory(block)), nil
}

// madeSecrets are those that cannot be any random text.
func (s *Settings) madeSecrets() (map[string]string, error) {
	made, err := s.madeForOmni()
	if err != nil {
		return nil, err
	}

	maps.Copy(made, s.madeForAlerts())

	key, err := s.newStatusKey()
	if err != nil {
		return nil, err
	}

	if key != "" {
		made[commitStatusSecret] = key
	}

	argocd := s.Services.ArgoCD
	if argocd == nil || argocd.RepositoryAccess == nil || argocd.RepositoryAccess.Kind != "deployKey" {
		return made, nil
	}

	made[deployKeySecret], err = newDeployKey()

	return made, err
}

// deployKey is the public half of the key that the world's stack has now; nil for one that is none.
func (l Layout) deployKey(made *Spec) ssh.PublicKey {
	spec := l.specNow(made)

	key, err := ssh.ParsePrivateKey([]byte(spec.Secrets.Values[deployKeySecret]))
	if err != nil {
		return nil
	}

	return key.PublicKey()
}
