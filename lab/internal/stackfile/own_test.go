package stackfile

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/config"
)

// desk is an operator's file, the world's copy of it, and the copy as it was made.
type desk struct {
	t              *testing.T
	from, to, made string
	secrets        *Secrets
	own            Own
}

func newDesk(t *testing.T, text string) *desk {
	t.Helper()
	folder := t.TempDir()
	secrets, err := NewSecrets(t.Context(), []string{"vspherePassword", "dnsToken"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{
		t: t, from: filepath.Join(folder, "Pulumi.prod.yaml"), to: filepath.Join(folder, "copy.yaml"),
		made: filepath.Join(folder, "made.yaml"), secrets: secrets,
	}
	d.write(d.from, text)
	d.copy()
	return d
}

func (d *desk) write(path, text string) {
	d.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) copy() string {
	d.t.Helper()
	for _, to := range []string{d.to, d.made} {
		if err := Copy(d.from, to, "platform", d.secrets, &d.own); err != nil {
			d.t.Fatal(err)
		}
	}
	text, err := os.ReadFile(d.to)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

// engine writes the copy as a command of the engine would.
func (d *desk) engine(settings string) error {
	d.write(d.to, "encryptionsalt: "+d.secrets.Salt+"\nconfig:\n"+settings)
	return d.own.Learn(d.t.Context(), d.made, d.to, "platform", d.secrets)
}

func (d *desk) encrypted(plain string) string {
	d.t.Helper()
	salt, err := base64.StdEncoding.DecodeString(strings.Split(d.secrets.Salt, ":")[1])
	if err != nil {
		d.t.Fatal(err)
	}
	text, err := config.NewSymmetricCrypterFromPassphrase(d.secrets.Passphrase, salt).EncryptValue(context.Background(), plain)
	if err != nil {
		d.t.Fatal(err)
	}
	return text
}

// secret are the copy's secrets, as the engine keeps them when it writes something else.
func (d *desk) secret() string {
	return "  platform:vspherePassword:\n    secure: " + d.secrets.Encrypted["vspherePassword"] +
		"\n  platform:dnsToken:\n    secure: " + d.secrets.Encrypted["dnsToken"] + "\n"
}

const plain = "config:\n  platform:kubernetes: {version: 1.34.1}\n  platform:network: {vip: 10.0.0.1}\n"

func TestASecretThatWasSetInTheCopyIsInEveryLaterCopy(t *testing.T) {
	d := newDesk(t, plain)
	before, set := d.secrets.Encrypted["vspherePassword"], d.encrypted("rotated")
	rest := "  platform:kubernetes: {version: 1.34.1}\n  platform:network: {vip: 10.0.0.1}\n"
	err := d.engine(rest + "  platform:vspherePassword:\n    secure: " + before + "\n  platform:dnsToken:\n    secure: " + set + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if d.secrets.Values["dnsToken"] != "rotated" || d.secrets.Encrypted["vspherePassword"] != before {
		t.Errorf("learnt %v", d.secrets.Encrypted)
	}
	if got := d.own.Keys(); len(got) != 0 {
		t.Errorf("a world's secrets are always its own, and no change: %v", got)
	}
	if text := d.copy(); !strings.Contains(text, set) {
		t.Errorf("the next copy lacks it:\n%s", text)
	}
}

func TestASettingThatWasSetInTheCopyWinsUntilTheOperatorsFileSaysTheSame(t *testing.T) {
	d := newDesk(t, plain)
	// The engine writes every value in a style of its own: only what means something else is a change.
	if err := d.engine("  platform:kubernetes:\n    version: 1.35.0\n  platform:network:\n    vip: 10.0.0.1\n" + d.secret()); err != nil {
		t.Fatal(err)
	}
	if got := d.own.Keys(); !slices.Equal(got, []string{"platform:kubernetes"}) {
		t.Errorf("the world's own are %v", got)
	}
	d.write(d.from, strings.Replace(plain, "10.0.0.1", "10.0.0.2", 1))
	if text := d.copy(); !strings.Contains(text, "1.35.0") || !strings.Contains(text, "10.0.0.2") {
		t.Errorf("the next copy lacks the world's setting, or the operator's edit:\n%s", text)
	}
	d.write(d.from, strings.Replace(plain, "1.34.1", "1.35.0", 1))
	d.copy()
	if got := d.own.Keys(); len(got) != 0 {
		t.Errorf("the world's own are still %v", got)
	}
}

func TestASettingThatWasRemovedInTheCopyStaysAway(t *testing.T) {
	d := newDesk(t, plain)
	if err := d.engine("  platform:kubernetes:\n    version: 1.34.1\n  platform:dnsToken:\n    secure: " + d.secrets.Encrypted["dnsToken"] + "\n"); err != nil {
		t.Fatal(err)
	}
	if got := d.own.Keys(); !slices.Equal(got, []string{"platform:network", "platform:vspherePassword"}) {
		t.Errorf("the world's own are %v", got)
	}
	text := d.copy()
	if strings.Contains(text, "platform:network") || strings.Contains(text, "vspherePassword") || !strings.Contains(text, "dnsToken") {
		t.Errorf("the next copy:\n%s", text)
	}
}

func TestASettingThatBecameASecretIsOneInEveryLaterCopy(t *testing.T) {
	d := newDesk(t, plain)
	rest := "  platform:kubernetes: {version: 1.34.1}\n  platform:network: {vip: 10.0.0.1}\n" + d.secret()
	if err := d.engine(rest + "  platform:note: in clear\n"); err != nil {
		t.Fatal(err)
	}
	set := d.encrypted("hidden")
	if err := d.engine(rest + "  platform:note:\n    secure: " + set + "\n"); err != nil {
		t.Fatal(err)
	}
	if text := d.copy(); strings.Contains(text, "in clear") || !strings.Contains(text, set) {
		t.Errorf("the next copy:\n%s", text)
	}
}

// As `pulumi stack change-secrets-provider passphrase` does: the same passphrase, another salt.
func TestANewSaltIsTakenOverWithTheSecretsThatItEncrypts(t *testing.T) {
	d := newDesk(t, "config: {}\n")
	before := d.secrets.Salt
	salt, crypter, err := newSalt(t.Context(), d.secrets.Passphrase)
	if err != nil {
		t.Fatal(err)
	}
	again, err := crypter.EncryptValue(context.Background(), d.secrets.Values["dnsToken"])
	if err != nil {
		t.Fatal(err)
	}
	d.write(d.to, "encryptionsalt: "+salt+"\nconfig:\n  platform:dnsToken:\n    secure: "+again+"\n")
	if err := d.own.Learn(t.Context(), d.made, d.to, "platform", d.secrets); err != nil {
		t.Fatal(err)
	}
	if text := d.copy(); strings.Contains(text, before) || !strings.Contains(text, salt) || !strings.Contains(text, again) {
		t.Errorf("the next copy:\n%s", text)
	}
}

func TestASaltOfAnotherPassphraseIsRefused(t *testing.T) {
	d := newDesk(t, "config: {}\n")
	salt, _, err := newSalt(t.Context(), "another one")
	if err != nil {
		t.Fatal(err)
	}
	d.write(d.to, "encryptionsalt: "+salt+"\nconfig: {}\n")
	if err := d.own.Learn(t.Context(), d.made, d.to, "platform", d.secrets); err == nil || !strings.Contains(err.Error(), "PULUMI_CONFIG_PASSPHRASE") {
		t.Errorf("got %v", err)
	}
}

func TestASecretOfAnotherPassphraseIsNamedWithItsKey(t *testing.T) {
	d := newDesk(t, "config: {}\n")
	if err := d.engine("  platform:dnsToken:\n    secure: v1:AAAA:BBBB\n"); err == nil || !strings.Contains(err.Error(), "platform:dnsToken") {
		t.Errorf("got %v", err)
	}
}
