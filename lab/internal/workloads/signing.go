package workloads

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	caFile              = "ca.crt"
	defaultLifetime     = 90 * 24 * time.Hour // of a cert-manager Certificate
	serialBits          = 128
	pemCertificate      = "CERTIFICATE"
	usageDigital        = "digital signature"
	usageKeyEncipher    = "key encipherment"
	algorithmECDSA      = "ECDSA"
	algorithmEd25519    = "Ed25519"
	defaultRSABits      = 2048
	encodingPKCS8       = "PKCS8"
	rotationNever       = "Never"
	certificateBackdate = time.Minute
)

// signer is who signs a certificate: a CA, or nil for the certificate's own key.
type signer struct {
	certificate *x509.Certificate
	key         crypto.Signer
	// chain is appended to what it signs, root is ca.crt of the Secret; both PEM.
	chain, root []byte
}

// privateKeySpec is spec.privateKey of a Certificate.
type privateKeySpec struct {
	Algorithm      string `json:"algorithm"`
	Encoding       string `json:"encoding"`
	RotationPolicy string `json:"rotationPolicy"`
	Size           int    `json:"size"`
}

func (s privateKeySpec) generate() (crypto.Signer, error) {
	switch s.Algorithm {
	case algorithmECDSA:
		curve, known := map[int]elliptic.Curve{0: elliptic.P256(), 256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[s.Size]
		if !known {
			return nil, fmt.Errorf("privateKey.size %d: an ECDSA key has 256, 384 or 521 bits", s.Size)
		}

		return ecdsa.GenerateKey(curve, rand.Reader)
	case algorithmEd25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)

		return key, err
	default:
		return rsa.GenerateKey(rand.Reader, s.bits())
	}
}

func (s privateKeySpec) bits() int {
	if s.Size == 0 {
		return defaultRSABits
	}

	return s.Size
}

// fits says whether a key is of the algorithm and size.
func (s privateKeySpec) fits(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return s.Algorithm == algorithmECDSA && k.Curve.Params().BitSize == max(s.Size, 256)
	case ed25519.PublicKey:
		return s.Algorithm == algorithmEd25519
	case *rsa.PublicKey:
		return (s.Algorithm == "" || s.Algorithm == "RSA") && k.N.BitLen() == s.bits()
	default:
		return false
	}
}

// encode is the key as PEM: PKCS#1 (SEC 1 for ECDSA) unless PKCS8 is asked for.
func (s privateKeySpec) encode(key crypto.Signer) ([]byte, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if s.Encoding != encodingPKCS8 {
			return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}), nil
		}
	case *ecdsa.PrivateKey:
		if s.Encoding != encodingPKCS8 {
			der, err := x509.MarshalECPrivateKey(k)

			return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
		}
	}

	der, err := x509.MarshalPKCS8PrivateKey(key)

	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// subject is spec.subject of a Certificate, as far as the simulation honours it.
type subject struct {
	Organizations       []string `json:"organizations"`
	OrganizationalUnits []string `json:"organizationalUnits"`
	Countries           []string `json:"countries"`
}

// template is the certificate that a spec asks for.
func (s certificateSpec) template(now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}

	t := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			CommonName: s.CommonName, Organization: s.Subject.Organizations, OrganizationalUnit: s.Subject.OrganizationalUnits, Country: s.Subject.Countries,
		},
		DNSNames: s.DNSNames, EmailAddresses: s.EmailAddresses,
		NotBefore: now, NotAfter: now.Add(s.lifetime()), IsCA: s.IsCA, BasicConstraintsValid: true,
	}

	for _, text := range s.IPAddresses {
		address := net.ParseIP(text)
		if address == nil {
			return nil, fmt.Errorf("ipAddresses: %q is none", text)
		}

		t.IPAddresses = append(t.IPAddresses, address)
	}

	for _, text := range s.URIs {
		uri, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("uris: %w", err)
		}

		t.URIs = append(t.URIs, uri)
	}

	if s.IsCA {
		t.KeyUsage |= x509.KeyUsageCertSign
	}

	return t, s.addUsages(t)
}

var (
	keyUsages = map[string]x509.KeyUsage{
		usageDigital: x509.KeyUsageDigitalSignature, "signing": x509.KeyUsageDigitalSignature, usageKeyEncipher: x509.KeyUsageKeyEncipherment,
		"data encipherment": x509.KeyUsageDataEncipherment, "key agreement": x509.KeyUsageKeyAgreement,
		"content commitment": x509.KeyUsageContentCommitment, "cert sign": x509.KeyUsageCertSign, "crl sign": x509.KeyUsageCRLSign,
	}
	extendedUsages = map[string]x509.ExtKeyUsage{
		"server auth": x509.ExtKeyUsageServerAuth, "client auth": x509.ExtKeyUsageClientAuth, "any": x509.ExtKeyUsageAny,
		"code signing": x509.ExtKeyUsageCodeSigning, "email protection": x509.ExtKeyUsageEmailProtection,
	}
)

func (s certificateSpec) addUsages(t *x509.Certificate) error {
	usages := s.Usages
	if len(usages) == 0 {
		usages = []string{usageDigital, usageKeyEncipher}
	}

	for _, usage := range usages {
		plain, isPlain := keyUsages[usage]
		extended, isExtended := extendedUsages[usage]

		switch {
		case isPlain:
			t.KeyUsage |= plain
		case isExtended:
			t.ExtKeyUsage = append(t.ExtKeyUsage, extended)
		default:
			return fmt.Errorf("usages: the simulation does not know %q", usage)
		}
	}

	return nil
}

// sign makes the certificate for a key; by is nil for a self-signed one. The answer is tls.crt and ca.crt.
func sign(t *x509.Certificate, key crypto.Signer, by *signer) (chain, root []byte, err error) {
	parent, signing := t, key
	if by != nil {
		parent, signing = by.certificate, by.key
	}

	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signing)
	if err != nil {
		return nil, nil, err
	}

	chain = encodeCertificate(der)
	if by == nil {
		return chain, chain, nil
	}

	return append(chain, by.chain...), by.root, nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})
}

// keyPair reads tls.crt and tls.key of a Secret, which must fit each other.
func keyPair(secret *corev1.Secret) (*x509.Certificate, crypto.Signer, error) {
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, nil, err
	}

	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("the private key cannot sign")
	}

	return pair.Leaf, key, nil
}

// caSigner signs with the CA of a Secret.
func caSigner(secret *corev1.Secret) (*signer, error) {
	certificate, key, err := keyPair(secret)
	if err != nil {
		return nil, err
	}

	if !certificate.IsCA {
		return nil, errNoCA
	}

	by := &signer{certificate: certificate, key: key, root: secret.Data[caFile]}

	selfSigned := bytes.Equal(certificate.RawIssuer, certificate.RawSubject)
	if !selfSigned {
		by.chain = secret.Data[corev1.TLSCertKey]
	}

	if len(by.root) == 0 && selfSigned {
		by.root = secret.Data[corev1.TLSCertKey]
	}

	return by, nil
}

var errNoCA = errors.New("certificate is not a CA")

// meets says whether a certificate is what the spec asks for.
func (s certificateSpec) meets(certificate *x509.Certificate) bool {
	wanted, err := s.template(certificate.NotBefore)
	if err != nil {
		return false
	}

	sameAddresses := slices.EqualFunc(certificate.IPAddresses, wanted.IPAddresses, net.IP.Equal)
	sameURIs := slices.EqualFunc(certificate.URIs, wanted.URIs, func(a, b *url.URL) bool { return a.String() == b.String() })

	return certificate.Subject.CommonName == wanted.Subject.CommonName && slices.Equal(certificate.Subject.Organization, wanted.Subject.Organization) &&
		slices.Equal(certificate.Subject.OrganizationalUnit, wanted.Subject.OrganizationalUnit) && slices.Equal(certificate.Subject.Country, wanted.Subject.Country) &&
		slices.Equal(certificate.DNSNames, wanted.DNSNames) && slices.Equal(certificate.EmailAddresses, wanted.EmailAddresses) &&
		sameAddresses && sameURIs && certificate.IsCA == wanted.IsCA && certificate.KeyUsage == wanted.KeyUsage &&
		slices.Equal(certificate.ExtKeyUsage, wanted.ExtKeyUsage) && certificate.NotAfter.Equal(wanted.NotAfter.Truncate(time.Second)) &&
		s.PrivateKey.fits(certificate.PublicKey)
}
