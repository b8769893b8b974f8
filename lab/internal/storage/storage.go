// Package storage is what stands outside the platform for its backups: a storage that speaks S3, and what the
// backup job does with it.
//
// The storage's objects and answers are gofakes3's. It takes anybody's calls, so what a real storage is strict
// about is checked before it: the host, the signature of each call (by Amazon's own signer), and the checksums.
package storage

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// Options say where the storage is, and who may use it.
type Options struct {
	Host   string // of the endpoint, with its port if that is not the scheme's own
	Bucket string // the only one
	Region string
	// HostStyle says that the bucket is part of the host's name, not of the path.
	HostStyle bool
	// Credentials are the access key's id and its secret, as they are now.
	Credentials func() (id, secret string)
	// Dir gets a copy of each object, for who looks; empty: none.
	Dir string
}

// Server is an http.Handler for one bucket.
type Server struct {
	options Options
	objects http.Handler
	keeping *keeping
}

const (
	contentHash  = "X-Amz-Content-Sha256"
	unsigned     = "UNSIGNED-PAYLOAD"
	inChunks     = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	checksum     = "X-Amz-Checksum-Crc32"
	amzTime      = "20060102T150405Z"
	largestBody  = 1 << 30
	largestChunk = 1 << 26
)

// New makes the storage with its empty bucket.
func New(options Options) (*Server, error) {
	backend := s3mem.New()
	if err := backend.CreateBucket(options.Bucket); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", options.Bucket, err)
	}

	versions := gofakes3.VersioningConfiguration{Status: gofakes3.VersioningEnabled}
	if err := backend.SetVersioningConfiguration(options.Bucket, versions); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", options.Bucket, err)
	}

	return &Server{options: options, objects: gofakes3.New(backend).Server(), keeping: asAsked()}, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Host != s.ownHost() {
		refuse(w, http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist", "this storage answers as "+s.ownHost())

		return
	}

	if code, says := s.unauthorized(r); code != "" {
		status := http.StatusForbidden
		if code == "AuthorizationHeaderMalformed" {
			status = http.StatusBadRequest
		}

		refuse(w, status, code, says, r.URL.Path)

		return
	}

	body, code, says := readBody(r)
	if code != "" {
		refuse(w, http.StatusBadRequest, code, says, r.URL.Path)

		return
	}

	inside := r.Clone(r.Context())
	inside.Body, inside.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	inside.Header.Set(contentHash, unsigned)
	inside.Header.Set("Content-Length", strconv.Itoa(len(body)))
	inside.Header.Del("Content-Encoding")

	if s.options.HostStyle {
		inside.URL.Path, inside.URL.RawPath = "/"+s.options.Bucket+r.URL.Path, ""
	}

	if s.keeping.serve(w, inside, body) {
		return
	}

	answer := &recorder{ResponseWriter: w, status: http.StatusOK}
	s.objects.ServeHTTP(answer, inside)

	if r.Method == http.MethodPut && answer.status == http.StatusOK {
		s.keep(inside.URL.Path, body)
	}
}

func (s *Server) ownHost() string {
	if s.options.HostStyle {
		return s.options.Bucket + "." + s.options.Host
	}

	return s.options.Host
}

// keep leaves a copy of an object for who looks into the world's folder.
func (s *Server) keep(where string, body []byte) {
	name := strings.TrimPrefix(where, "/"+s.options.Bucket+"/")
	if s.options.Dir == "" || !filepath.IsLocal(name) {
		return
	}

	path := filepath.Join(s.options.Dir, s.options.Bucket, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
		_ = os.WriteFile(path, body, 0o600) // the object itself is in the storage
	}
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// authorization is the header of signature version 4 (Amazon S3 API Reference, "Authorization header").
var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, SignedHeaders=([^,]+), Signature=[0-9a-f]{64}$`)

// unauthorized is S3's code and text for a call that the storage does not take; "" is for one that it does.
func (s *Server) unauthorized(r *http.Request) (code, says string) {
	given := r.Header.Get("Authorization")
	if given == "" {
		return "AccessDenied", "Access Denied."
	}

	parts := authorization.FindStringSubmatch(given)
	at, err := time.Parse(amzTime, r.Header.Get("X-Amz-Date"))

	if parts == nil || err != nil {
		return "AuthorizationHeaderMalformed", "The authorization header that you provided is not valid."
	}

	if parts[3] != s.options.Region {
		return "AuthorizationHeaderMalformed", fmt.Sprintf("The authorization header is malformed; the region %q is wrong; expecting %q", parts[3], s.options.Region)
	}

	id, secret := s.options.Credentials()
	if parts[1] != id {
		return "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records."
	}

	signed, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+r.Host+r.URL.RequestURI(), nil)
	if err != nil {
		return "AuthorizationHeaderMalformed", err.Error()
	}

	for name := range strings.SplitSeq(parts[4], ";") {
		switch name {
		case "host":
		case "content-length":
			signed.ContentLength = r.ContentLength
		default:
			signed.Header[textproto.CanonicalMIMEHeaderKey(name)] = r.Header.Values(name)
		}
	}

	err = v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, signed,
		r.Header.Get(contentHash), "s3", s.options.Region, at, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err != nil || subtle.ConstantTimeCompare([]byte(signed.Header.Get("Authorization")), []byte(given)) != 1 {
		return "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided. Check your key and signing method."
	}

	return "", ""
}

// readBody reads what a call brings, and holds it against the hash or the checksum that the call names.
func readBody(r *http.Request) (body []byte, code, says string) {
	source := io.LimitReader(r.Body, largestBody)
	hash := r.Header.Get(contentHash)
	given := r.Header.Get(checksum)

	var err error

	if hash == inChunks {
		body, given, err = readChunks(bufio.NewReader(source))
	} else {
		body, err = io.ReadAll(source)
	}

	sum := sha256.Sum256(body)

	switch {
	case err != nil:
		return nil, "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header: " + err.Error()
	case hash != inChunks && hash != unsigned && hash != hex.EncodeToString(sum[:]):
		return nil, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed."
	case given != "" && given != crcOf(body):
		return nil, "BadDigest", "The CRC32 you specified did not match the calculated checksum."
	}

	return body, "", ""
}

// readChunks reads a body in chunks, and the checksum that its trailer gives (Amazon S3 User Guide, "Trailing
// checksums").
func readChunks(source *bufio.Reader) (body []byte, given string, err error) {
	lines := textproto.NewReader(source)

	for {
		line, err := lines.ReadLine()
		if err != nil {
			return nil, "", err
		}

		size, err := strconv.ParseUint(line, 16, 32)
		if err != nil || size > largestChunk {
			return nil, "", fmt.Errorf("a chunk of size %q", line)
		}

		if size == 0 {
			break
		}

		chunk := make([]byte, size+2)
		if _, err := io.ReadFull(source, chunk); err != nil {
			return nil, "", err
		}

		body = append(body, chunk[:size]...)
	}

	trailer, err := lines.ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}

	return body, trailer.Get(checksum), nil
}

func crcOf(body []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(body)))
}

func refuse(w http.ResponseWriter, status int, code, says, resource string) {
	type answer struct {
		XMLName  xml.Name `xml:"Error"`
		Code     string
		Message  string
		Resource string
	}

	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(answer{Code: code, Message: says, Resource: resource}) // who asked may be gone
}
