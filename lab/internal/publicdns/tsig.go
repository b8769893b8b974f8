package publicdns

import (
	"crypto/hmac"
	"crypto/sha1" // what an operator's name server may use
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"strings"

	"github.com/miekg/dns"
)

// Algorithms are those that cert-manager knows, by its names; HMACMD5 is left out.
var Algorithms = map[string]string{"HMACSHA1": dns.HmacSHA1, "HMACSHA256": dns.HmacSHA256, "HMACSHA512": dns.HmacSHA512}

var hashes = map[string]func() hash.Hash{dns.HmacSHA1: sha1.New, dns.HmacSHA256: sha256.New, dns.HmacSHA512: sha512.New}

// Key signs and checks messages (RFC 8945) with the secret that holds now, in base64. The library's own takes one that
// never changes.
type Key func() string

// Generate gives a message's signature.
func (k Key) Generate(message []byte, signature *dns.TSIG) ([]byte, error) {
	secret, err := base64.StdEncoding.DecodeString(k())
	if err != nil {
		return nil, err
	}

	algorithm, known := hashes[strings.ToLower(dns.Fqdn(signature.Algorithm))]
	if !known {
		return nil, dns.ErrKeyAlg
	}

	mac := hmac.New(algorithm, secret)
	mac.Write(message)

	return mac.Sum(nil), nil
}

// Verify checks a message's signature.
func (k Key) Verify(message []byte, signature *dns.TSIG) error {
	wanted, err := k.Generate(message, signature)
	if err != nil {
		return err
	}

	given, err := hex.DecodeString(signature.MAC)
	if err != nil {
		return err
	}

	if !hmac.Equal(wanted, given) {
		return dns.ErrSig
	}

	return nil
}
