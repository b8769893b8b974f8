package talosplugin

// Layer: machine secrets and client configuration as properties, and back to Talos' own types.

import (
	stdx509 "crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/siderolabs/crypto/x509"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"

	"platform.lab/lab/internal/plugins"
)

var (
	requiredText   = attribute{kind: text, required: true}
	requiredSecret = attribute{kind: text, required: true, secret: true}

	pairSchema = attribute{kind: object, required: true, fields: schema{"cert": requiredText, "key": requiredSecret}}

	clientConfigurationSchema = attribute{kind: object, required: true, fields: schema{
		"caCertificate":     requiredText,
		"clientCertificate": requiredText,
		"clientKey":         requiredSecret,
	}}

	machineSecretsSchema = attribute{kind: object, required: true, fields: schema{
		"cluster": {kind: object, required: true, fields: schema{"id": requiredText, "secret": requiredSecret}},
		"secrets": {kind: object, required: true, fields: schema{
			"bootstrapToken":            requiredSecret,
			"secretboxEncryptionSecret": requiredSecret,
			"aescbcEncryptionSecret":    {kind: text, secret: true},
		}},
		"trustdinfo": {kind: object, required: true, fields: schema{"token": requiredSecret}},
		"certs": {kind: object, required: true, fields: schema{
			"etcd":              pairSchema,
			"k8s":               pairSchema,
			"k8sAggregator":     pairSchema,
			"k8sServiceaccount": {kind: object, required: true, fields: schema{"key": requiredSecret}},
			"os":                pairSchema,
		}},
	}}
)

// machineSecrets gives a bundle as properties; keys and certificates are base64 of PEM.
func machineSecrets(b *secrets.Bundle) map[string]property.Value {
	keys := map[string]property.Value{
		"bootstrapToken":            property.New(b.Secrets.BootstrapToken),
		"secretboxEncryptionSecret": property.New(b.Secrets.SecretboxEncryptionSecret),
	}
	if b.Secrets.AESCBCEncryptionSecret != "" {
		keys["aescbcEncryptionSecret"] = property.New(b.Secrets.AESCBCEncryptionSecret)
	}

	return map[string]property.Value{
		"cluster": property.New(map[string]property.Value{
			"id": property.New(b.Cluster.ID), "secret": property.New(b.Cluster.Secret),
		}),
		"secrets":    property.New(keys),
		"trustdinfo": property.New(map[string]property.Value{"token": property.New(b.TrustdInfo.Token)}),
		"certs": property.New(map[string]property.Value{
			"etcd":              encodedPair(b.Certs.Etcd),
			"k8s":               encodedPair(b.Certs.K8s),
			"k8sAggregator":     encodedPair(b.Certs.K8sAggregator),
			"k8sServiceaccount": property.New(map[string]property.Value{"key": encoded(b.Certs.K8sServiceAccount.Key)}),
			"os":                encodedPair(b.Certs.OS),
		}),
	}
}

func encodedPair(pair *x509.PEMEncodedCertificateAndKey) property.Value {
	return property.New(map[string]property.Value{"cert": encoded(pair.Crt), "key": encoded(pair.Key)})
}

func encoded(pem []byte) property.Value { return property.New(base64.StdEncoding.EncodeToString(pem)) }

// secretsBundle is the reverse of machineSecrets.
func secretsBundle(values property.Map) (*secrets.Bundle, error) {
	cluster, keys, certs := objectOf(values, "cluster"), objectOf(values, "secrets"), objectOf(values, "certs")

	var d decoder

	bundle := &secrets.Bundle{
		Clock:   secrets.NewFixedClock(time.Now()),
		Cluster: &secrets.Cluster{ID: plugins.TextOf(cluster, "id"), Secret: plugins.TextOf(cluster, "secret")},
		Secrets: &secrets.Secrets{
			BootstrapToken:            plugins.TextOf(keys, "bootstrapToken"),
			SecretboxEncryptionSecret: plugins.TextOf(keys, "secretboxEncryptionSecret"),
			AESCBCEncryptionSecret:    plugins.TextOf(keys, "aescbcEncryptionSecret"),
		},
		TrustdInfo: &secrets.TrustdInfo{Token: plugins.TextOf(objectOf(values, "trustdinfo"), "token")},
		Certs: &secrets.Certs{
			Etcd:              d.pair(certs, "etcd"),
			K8s:               d.pair(certs, "k8s"),
			K8sAggregator:     d.pair(certs, "k8sAggregator"),
			K8sServiceAccount: &x509.PEMEncodedKey{Key: d.bytes(objectOf(certs, "k8sServiceaccount"), "key")},
			OS:                d.pair(certs, "os"),
		},
	}

	return bundle, d.err
}

// decoder decodes base64 properties and keeps the first error, which never quotes the value.
type decoder struct{ err error }

func (d *decoder) bytes(values property.Map, name string) []byte {
	decoded, err := base64.StdEncoding.DecodeString(plugins.TextOf(values, name))
	if err != nil && d.err == nil {
		d.err = fmt.Errorf("%s is not base64: %w", name, err)
	}

	return decoded
}

func (d *decoder) pair(values property.Map, name string) *x509.PEMEncodedCertificateAndKey {
	pair := objectOf(values, name)

	return &x509.PEMEncodedCertificateAndKey{Crt: d.bytes(pair, "cert"), Key: d.bytes(pair, "key")}
}

// talosConfig makes a talosconfig from a client configuration, with one context of the cluster's name.
func talosConfig(cluster string, client property.Map) (*clientconfig.Config, error) {
	var d decoder

	config := clientconfig.NewConfig(cluster, nil, d.bytes(client, "caCertificate"), &x509.PEMEncodedCertificateAndKey{
		Crt: d.bytes(client, "clientCertificate"),
		Key: d.bytes(client, "clientKey"),
	})

	return config, d.err
}

// expiresBefore tells whether a certificate (base64 of PEM) ends before a date.
func expiresBefore(certificate string, date time.Time) (bool, error) {
	decoded, err := base64.StdEncoding.DecodeString(certificate)
	if err != nil {
		return false, fmt.Errorf("the certificate is not base64: %w", err)
	}

	block, _ := pem.Decode(decoded)
	if block == nil {
		return false, errors.New("failed to parse PEM block")
	}

	parsed, err := stdx509.ParseCertificate(block.Bytes)
	if err != nil {
		return false, err
	}

	return parsed.NotAfter.Before(date), nil
}
