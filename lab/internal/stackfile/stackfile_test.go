package stackfile

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/config"
	"gopkg.in/yaml.v3"
)

const operators = `secretsprovider: awskms://alias/x
encryptedkey: b3BlcmF0b3I=
config:
  platform:kubernetes:
    version: 1.34.1
  platform:vspherePassword:
    secure: v1:operator:ciphertext
  platform:other:
    secure: v1:operator:other
`

func copied(t *testing.T, text string) (string, *Secrets) {
	t.Helper()
	from, to := filepath.Join(t.TempDir(), "Pulumi.prod.yaml"), filepath.Join(t.TempDir(), "copy.yaml")
	if err := os.WriteFile(from, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets, err := NewSecrets(t.Context(), []string{"vspherePassword"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Copy(from, to, "platform", secrets, &Own{}); err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), secrets
}

func TestACopyHoldsTheLabsSecretsAndNoneOfTheOperators(t *testing.T) {
	out, secrets := copied(t, operators)
	for _, gone := range []string{"awskms", "b3BlcmF0b3I=", "operator"} {
		if strings.Contains(out, gone) {
			t.Errorf("the copy still holds %q:\n%s", gone, out)
		}
	}
	if strings.Contains(out, secrets.Values["vspherePassword"]) {
		t.Error("the copy holds a secret in plain text")
	}
	var file struct {
		Salt   string                    `yaml:"encryptionsalt"`
		Config map[string]map[string]any `yaml:"config"`
	}
	if err := yaml.Unmarshal([]byte(out), &file); err != nil {
		t.Fatal(err)
	}
	if file.Config["platform:kubernetes"]["version"] != "1.34.1" {
		t.Errorf("settings were lost: %v", file.Config)
	}
	salt, err := base64.StdEncoding.DecodeString(strings.Split(file.Salt, ":")[1])
	if err != nil {
		t.Fatal(err)
	}
	crypter := config.NewSymmetricCrypterFromPassphrase(secrets.Passphrase, salt)
	got, err := crypter.DecryptValue(context.Background(), file.Config["platform:vspherePassword"]["secure"].(string))
	if err != nil || got != secrets.Values["vspherePassword"] {
		t.Errorf("decrypted %v, %v", got == secrets.Values["vspherePassword"], err)
	}
}

func TestAPlainValueInASecretsPlaceStaysForTheProgramToRefuse(t *testing.T) {
	out, _ := copied(t, "config:\n  platform:vspherePassword: oops\n")
	if !strings.Contains(out, "oops") || strings.Contains(out, "secure") {
		t.Errorf("the plain value was replaced:\n%s", out)
	}
}

func TestAStacksNameComesFromItsFilesName(t *testing.T) {
	if name, err := StackName("x/Pulumi.prod.yaml"); err != nil || name != "prod" {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := StackName("x/prod.yaml"); err == nil {
		t.Error("a file of another name was accepted")
	}
}
