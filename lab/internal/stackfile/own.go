package stackfile

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/config"
	"gopkg.in/yaml.v3"
)

// Own are the settings that a world has of its own: `pulumi config set` and its like were run in it.
// The operator's file is never written.
type Own struct {
	Set     map[string]string `json:"set"`     // YAML, by key with its namespace
	Removed []string          `json:"removed"` // keys with their namespace
}

// Keys are those whose value is not the operator's, sorted.
func (o *Own) Keys() []string {
	keys := slices.Collect(maps.Keys(o.Set))
	keys = append(keys, o.Removed...)
	slices.Sort(keys)
	return keys
}

// apply changes the settings of a fresh copy, and forgets what they say already.
func (o *Own) apply(settings *yaml.Node) error {
	for _, key := range slices.Sorted(maps.Keys(o.Set)) {
		var document yaml.Node
		if err := yaml.Unmarshal([]byte(o.Set[key]), &document); err != nil {
			return fmt.Errorf("%s, as it was set in this world: %w", key, err)
		}
		at := indexOf(settings, key)
		switch {
		case at < 0:
			settings.Content = append(settings.Content, scalar(key), document.Content[0])
		case same(settings.Content[at+1], document.Content[0]):
			delete(o.Set, key)
		default:
			settings.Content[at+1] = document.Content[0]
		}
	}
	o.Removed = slices.DeleteFunc(o.Removed, func(key string) bool {
		at := indexOf(settings, key)
		if at >= 0 {
			settings.Content = slices.Delete(settings.Content, at, at+2)
		}
		return at < 0
	})
	return nil
}

// Learn takes over what a command of the engine wrote into a world's copy; before is the copy as it
// was made, after as it is now.
func (o *Own) Learn(ctx context.Context, before, after, namespace string, secrets *Secrets) error {
	was, err := read(before)
	if err != nil {
		return err
	}
	is, err := read(after)
	if err != nil {
		return err
	}
	if err := secrets.adopt(ctx, is, namespace); err != nil {
		return fmt.Errorf("stack file %s: %w", after, err)
	}
	if o.Set == nil {
		o.Set = map[string]string{}
	}
	for key, value := range is.Config {
		o.Removed = slices.DeleteFunc(o.Removed, func(removed string) bool { return removed == key })
		if strings.HasPrefix(key, namespace+":") && isEncrypted(&value) {
			delete(o.Set, key) // it was in plain text before
			continue
		}
		if old, known := was.Config[key]; known && same(&old, &value) {
			continue
		}
		text, err := yaml.Marshal(&value)
		if err != nil {
			return err
		}
		o.Set[key] = string(text)
	}
	for key := range was.Config {
		if _, there := is.Config[key]; there {
			continue
		}
		delete(o.Set, key)
		name := strings.TrimPrefix(key, namespace+":")
		delete(secrets.Values, name)
		delete(secrets.Encrypted, name)
		o.Removed = append(o.Removed, key)
	}
	return nil
}

// file is what the engine reads of a stack file.
type file struct {
	Provider string               `yaml:"secretsprovider"`
	Salt     string               `yaml:"encryptionsalt"`
	Config   map[string]yaml.Node `yaml:"config"`
}

func read(path string) (*file, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &file{}
	if err := yaml.Unmarshal(text, f); err != nil {
		return nil, fmt.Errorf("stack file %s: %w", path, err)
	}
	return f, nil
}

// errPassphrase is for a copy that the world's passphrase does not open.
var errPassphrase = errors.New("its secrets are not encrypted by the world's passphrase ($PULUMI_CONFIG_PASSPHRASE), which is the only one that a world has")

// adopt takes over the secrets of a copy, and the salt by which they are encrypted.
func (s *Secrets) adopt(ctx context.Context, f *file, namespace string) error {
	parts := strings.SplitN(f.Salt, ":", 3)
	if len(parts) != 3 || f.Provider != "" && f.Provider != "passphrase" {
		return errPassphrase
	}
	salt, err := base64.StdEncoding.DecodeString(parts[1])
	if err != nil {
		return errPassphrase
	}
	crypter := config.NewSymmetricCrypterFromPassphrase(s.Passphrase, salt)
	if _, err := crypter.DecryptValue(ctx, parts[2]); err != nil {
		return errPassphrase
	}
	s.Salt = f.Salt
	for key, value := range f.Config {
		name, ours := strings.CutPrefix(key, namespace+":")
		if !ours || !isEncrypted(&value) || s.Encrypted[name] == value.Content[1].Value {
			continue
		}
		plain, err := crypter.DecryptValue(ctx, value.Content[1].Value)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		s.Values[name], s.Encrypted[name] = plain, value.Content[1].Value
	}
	return nil
}

func indexOf(mapping *yaml.Node, key string) int {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// same says whether two values mean the same: the engine writes them in a style of its own.
func same(a, b *yaml.Node) bool {
	x, y := meaning(a), meaning(b)
	return x != "" && x == y
}

func meaning(n *yaml.Node) string {
	var value any
	if n.Decode(&value) != nil {
		return ""
	}
	text, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	return string(text)
}
