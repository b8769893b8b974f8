// Package stackfile makes the lab's copy of an operator's stack file: the same settings, with a
// secret of the lab's own in the place of every secret. The operator's are never decrypted.
package stackfile

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/config"
	"gopkg.in/yaml.v3"
)

// Secrets are the lab's values for the secret keys of one world, by key without its namespace.
type Secrets struct {
	Passphrase string            `json:"passphrase"`
	Salt       string            `json:"salt"` // as in a stack file's encryptionsalt
	Values     map[string]string `json:"values"`
	Encrypted  map[string]string `json:"encrypted"`
}

// NewSecrets makes a passphrase and a random value for every key that `made` has none for.
func NewSecrets(ctx context.Context, keys []string, made map[string]string) (*Secrets, error) {
	passphrase, err := random()
	if err != nil {
		return nil, err
	}
	salt, crypter, err := newSalt(ctx, passphrase)
	if err != nil {
		return nil, err
	}
	s := &Secrets{Passphrase: passphrase, Salt: salt, Values: map[string]string{}, Encrypted: map[string]string{}}
	for _, key := range keys {
		value, given := made[key]
		if !given {
			if value, err = random(); err != nil {
				return nil, err
			}
		}
		s.Values[key] = value
		if s.Encrypted[key], err = crypter.EncryptValue(ctx, s.Values[key]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newSalt makes a salt for a passphrase, as a stack file has it, and the crypter that both make.
func newSalt(ctx context.Context, passphrase string) (string, config.Crypter, error) {
	salt := make([]byte, 8)
	if _, err := rand.Read(salt); err != nil {
		return "", nil, err
	}
	crypter := config.NewSymmetricCrypterFromPassphrase(passphrase, salt)
	// The engine knows a wrong passphrase by this word (pulumi/pkg/secrets/passphrase).
	check, err := crypter.EncryptValue(ctx, "pulumi")
	return "v1:" + base64.StdEncoding.EncodeToString(salt) + ":" + check, crypter, err
}

func random() (string, error) {
	b := make([]byte, 16)
	_, err := rand.Read(b)
	return hex.EncodeToString(b), err
}

// encryption are the keys by which a stack file says how its secrets are encrypted.
var encryption = map[string]bool{"encryptionsalt": true, "secretsprovider": true, "encryptedkey": true}

// Copy writes the lab's copy of the stack file at from to the path to.
//
// Every secret key of secrets is set under namespace; any other encrypted value is left out, as it
// could not be read. A plain value in a secret's place stays: the program has to refuse it. What was
// changed in the world wins over the operator's file; a change that the file has now too is forgotten.
func Copy(from, to, namespace string, secrets *Secrets, own *Own) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("stack file: %w", err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("stack file %s: %w", from, err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return fmt.Errorf("stack file %s: not a mapping with a key config", from)
	}
	root := document.Content[0]
	settings := &yaml.Node{Kind: yaml.MappingNode}
	var kept []*yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		switch {
		case key.Value == "config" && value.Kind == yaml.MappingNode:
			settings = value
		case !encryption[key.Value]:
			kept = append(kept, key, value)
		}
	}
	replaceSecrets(settings, namespace, secrets)
	if err := own.apply(settings); err != nil {
		return err
	}
	root.Content = append(kept, scalar("encryptionsalt"), scalar(secrets.Salt), scalar("config"), settings)
	out, err := yaml.Marshal(&document)
	if err != nil {
		return err
	}
	return WriteAtomically(to, out)
}

func replaceSecrets(settings *yaml.Node, namespace string, secrets *Secrets) {
	var kept []*yaml.Node
	plain := map[string]bool{}
	for i := 0; i+1 < len(settings.Content); i += 2 {
		key, value := settings.Content[i], settings.Content[i+1]
		if isEncrypted(value) {
			continue
		}
		plain[key.Value] = true
		kept = append(kept, key, value)
	}
	for key, value := range secrets.Encrypted {
		if name := namespace + ":" + key; !plain[name] {
			kept = append(kept, scalar(name), &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{scalar("secure"), scalar(value)}})
		}
	}
	settings.Content = kept
}

func isEncrypted(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && len(n.Content) == 2 && n.Content[0].Value == "secure"
}

func scalar(value string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: value} }

// WriteAtomically replaces a file that another process may be reading; only its owner reads it.
func WriteAtomically(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

var fileName = regexp.MustCompile(`^Pulumi\.([A-Za-z0-9_.-]+)\.ya?ml$`)

// StackName takes the stack's name from its file's name, Pulumi.<stack>.yaml.
func StackName(path string) (string, error) {
	m := fileName.FindStringSubmatch(filepath.Base(path))
	if m == nil {
		return "", fmt.Errorf("stack file %s: its name must be Pulumi.<stack>.yaml", path)
	}
	return strings.ToLower(m[1]), nil
}
