package releases

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
)

// digestOf finds the digest of a file in what its vendor publishes: lines as sha256sum and sha512sum write them, or the digest
// alone. The length says which of the two it is.
func digestOf(text, address string) (string, error) {
	file := path.Base(address)
	found := map[string]bool{}
	lines := strings.Split(strings.TrimSpace(text), "\n")

	for _, line := range lines {
		words := strings.Fields(line)
		alone := len(words) == 1 && len(lines) == 1
		named := len(words) == 2 && path.Base(strings.TrimPrefix(words[1], "*")) == file

		if !alone && !named {
			continue
		}

		digest, err := asDigest(words[0])
		if err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}

		found[digest] = true
	}

	if len(found) > 1 {
		return "", fmt.Errorf("it has %d digests for %s", len(found), file)
	}

	for digest := range found {
		return digest, nil
	}

	return "", fmt.Errorf("it has no digest for %s: without one the file is not taken", file)
}

func asDigest(digits string) (string, error) {
	digits = strings.ToLower(digits)

	_, err := hex.DecodeString(digits)

	switch {
	case err == nil && len(digits) == hex.EncodedLen(sha256.Size):
		return "sha256:" + digits, nil
	case err == nil && len(digits) == hex.EncodedLen(sha512.Size):
		return "sha512:" + digits, nil
	default:
		return "", fmt.Errorf("%q is neither a SHA-256 nor a SHA-512", digits)
	}
}
