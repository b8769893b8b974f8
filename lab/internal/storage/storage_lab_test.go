//go:build lab

package storage

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"platform.lab/lab/internal/pki"
)

// binFolder has versitygw.
var binFolder = os.Getenv("LAB_BIN")

// site is a storage under its own name, and a job that is to reach it.
type site struct {
	jobSite

	server    Server
	name      string // the only one that resolves
	authority *pki.Authority
	asked     []string // hosts
}

func newSite(t *testing.T) *site {
	t.Helper()

	if binFolder == "" {
		t.Fatal("LAB_BIN is not set: name the folder of the programs, as `make go-lab-test` does")
	}

	authority, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}

	folder := t.TempDir()
	s := &site{jobSite: newJobSite(t), name: host, authority: authority, server: Server{
		Bin: binFolder, Listen: filepath.Join(folder, "socket"), Bucket: bucket, Region: "us-east-1",
		Certificate: filepath.Join(folder, "crt"), Key: filepath.Join(folder, "key"), Keys: filepath.Join(folder, "world.json"),
		Owner: Owner{"owner", "of-the-bucket"}, Objects: filepath.Join(folder, "objects"), State: filepath.Join(folder, "state"),
	}}
	s.setKey("id", "of-the-test")

	return s
}

// setKey says which access key the world's stack has.
func (s *site) setKey(id, secret string) {
	s.t.Helper()

	text, err := json.Marshal(map[string]any{"secrets": map[string]any{"values": map[string]string{"backupAccessKey": id, "backupSecretKey": secret}}})
	if err == nil {
		err = os.WriteFile(s.server.Keys, text, 0o600)
	}

	if err != nil {
		s.t.Fatal(err)
	}
}

// certify gives the storage a certificate for its name.
func (s *site) certify() {
	s.t.Helper()

	pair, err := s.authority.Server(s.name, time.Now().Add(time.Hour))
	if err != nil {
		s.t.Fatal(err)
	}

	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		s.t.Fatal(err)
	}

	for path, block := range map[string]pem.Block{
		s.server.Certificate: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, s.server.Key: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(&block), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// start starts the storage.
func (s *site) start() {
	s.t.Helper()

	if s.server.Certificate != "" {
		s.certify()
	}

	ctx, cancel := context.WithCancel(s.t.Context())

	ended, err := s.server.Start(ctx)
	if err != nil {
		log, _ := os.ReadFile(s.server.Log())
		s.t.Fatalf("%v: %s", err, log)
	}

	s.t.Cleanup(func() {
		cancel()

		s.t.Log("it was told to end:", <-ended)
	})

	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(s.authority.PEM())
	s.job.HTTP = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			name, _, _ := net.SplitHostPort(address)
			s.asked = append(s.asked, name)

			if name != s.name {
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}

			return new(net.Dialer).DialContext(ctx, "unix", s.server.Listen)
		},
	}}
}

// run runs the job.
func (s *site) run() (string, error) {
	s.t.Helper()

	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()

	return s.job.Run(ctx)
}

// owner speaks as who the bucket belongs to.
func (s *site) owner() *s3.Client {
	job := s.job
	job.Environment = maps.Clone(job.Environment)
	job.Environment["AWS_ACCESS_KEY_ID"], job.Environment["AWS_SECRET_ACCESS_KEY"] = s.server.Owner.ID, s.server.Owner.Secret

	return job.client()
}

// stored runs the job, and gives the version that it has stored.
func (s *site) stored() (key, version string) {
	s.t.Helper()

	key, err := s.run()
	if err != nil {
		s.t.Fatal(err)
	}

	versions, err := s.owner().ListObjectVersions(s.t.Context(), &s3.ListObjectVersionsInput{Bucket: aws.String(bucket)})
	if err != nil || len(versions.Versions) == 0 {
		s.t.Fatalf("%v, %v", versions, err)
	}

	return key, *versions.Versions[0].VersionId
}

func TestAJobsSnapshotCanBeReadWithThePrivateKeyAlone(t *testing.T) {
	s := newSite(t)
	s.start()

	key, err := s.run()
	if err != nil || key != "prod/prod-2026-01-31T12:00:00Z.snap.age" {
		t.Fatalf("%q, %v", key, err)
	}

	stored, err := os.ReadFile(filepath.Join(s.server.Objects, bucket, key))
	if err != nil || bytes.Contains(stored, []byte(content)) {
		t.Fatalf("not encrypted, or not there: %v", err)
	}

	plain, err := age.Decrypt(bytes.NewReader(stored), s.identity)
	if err != nil {
		t.Fatal(err)
	}

	if text, err := io.ReadAll(plain); err != nil || string(text) != content {
		t.Errorf("%q, %v", text, err)
	}
}

func TestABucketThatIsPartOfTheHostsNameIsReachedByThatName(t *testing.T) {
	s := newSite(t)
	s.name, s.server.Domain = bucket+"."+host, host
	s.job.Environment["USE_PATH_STYLE"] = "true" // the wrong way round
	s.start()

	if key, err := s.run(); err != nil || s.asked[0] != bucket+"."+host {
		t.Errorf("%q of %v, %v", key, s.asked, err)
	}

	rules, err := s.job.client().GetBucketLifecycleConfiguration(t.Context(), &s3.GetBucketLifecycleConfigurationInput{Bucket: aws.String(bucket)})
	if err != nil || len(rules.Rules) != 1 {
		t.Errorf("%v, %v", rules, err)
	}
}

func TestAStorageWithoutACertificateSpeaksHTTP(t *testing.T) {
	s := newSite(t)
	s.server.Certificate, s.server.Key = "", ""
	s.job.Environment["CUSTOM_S3_ENDPOINT"] = "http://" + host
	s.start()

	if _, err := s.run(); err != nil {
		t.Error(err)
	}
}

func TestAStorageThatDoesNotStartIsToldWithItsLog(t *testing.T) {
	s := newSite(t)
	s.certify()
	s.server.Region = ""

	_, err := s.server.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "it ended at once") || !strings.Contains(err.Error(), s.server.Log()) {
		t.Fatal(err)
	}
}

func TestAStorageRefusesWhatIsWrong(t *testing.T) {
	s := newSite(t)
	s.start()

	right := s.job.Environment

	for name, test := range map[string]struct {
		environment map[string]string
		says        []string
	}{
		"the bucket in the host's name": {
			map[string]string{"USE_PATH_STYLE": "true"}, []string{"operation error S3: PutObject", "lookup " + bucket + "." + host + ": no such host"},
		},
		"nothing said about the style": {map[string]string{"USE_PATH_STYLE": ""}, []string{"lookup " + bucket + "." + host + ": no such host"}},
		"another id":                   {map[string]string{"AWS_ACCESS_KEY_ID": "other"}, []string{"StatusCode: 403", "InvalidAccessKeyId"}},
		"another key":                  {map[string]string{"AWS_SECRET_ACCESS_KEY": "other"}, []string{"StatusCode: 403", "SignatureDoesNotMatch"}},
		"another bucket":               {map[string]string{"BUCKET": "another"}, []string{"StatusCode: 404", "NoSuchBucket"}},
		"another region":               {map[string]string{"AWS_REGION": "eu-west-1"}, []string{"StatusCode: 400", `expecting "us-east-1"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s.job.Environment = maps.Clone(right)
			maps.Copy(s.job.Environment, test.environment)

			_, err := s.run()
			if err == nil {
				t.Fatal("taken")
			}

			for _, word := range test.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q lacks %q", err, word)
				}
			}
		})
	}
}

func TestAKeyThatTheStackHasNowIsTakenAndTheOneBeforeIsNot(t *testing.T) {
	s := newSite(t)
	s.start()
	s.setKey("next", "of-the-test")

	if _, err := s.run(); err == nil || !strings.Contains(err.Error(), "InvalidAccessKeyId") {
		t.Errorf("the key before: %v", err)
	}

	s.job.Environment["AWS_ACCESS_KEY_ID"] = "next"

	if _, err := s.run(); err != nil {
		t.Error(err)
	}
}

func TestACallIsReadOnlyWithASignature(t *testing.T) {
	s := newSite(t)
	s.start()

	for path, wanted := range map[string]struct {
		status int
		says   string
	}{
		bucket:                {http.StatusForbidden, "AccessDenied"},
		bucket + "?lifecycle": {http.StatusForbidden, "AccessDenied"},
		"another":             {http.StatusNotFound, "NoSuchBucket"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}

		if status, text := s.call(request); status != wanted.status || !strings.Contains(text, wanted.says) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
}

func (s *site) call(request *http.Request) (status int, text string) {
	s.t.Helper()

	answer, err := s.job.HTTP.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()

	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}

	return answer.StatusCode, string(body)
}

// The sum is that of "ab".
func TestABodyThatIsNotWhatItsChecksumSaysIsRefused(t *testing.T) {
	const sum = "x-amz-checksum-crc32:noNIbQ==\r\n\r\n"

	s := newSite(t)
	s.start()

	for body, wanted := range map[string]struct {
		status int
		says   string
	}{
		"2\r\nab\r\n0\r\n" + sum: {http.StatusOK, ""},
		"2\r\nac\r\n0\r\n" + sum: {http.StatusBadRequest, "BadDigest"},
		"9\r\nab\r\n0\r\n" + sum: {http.StatusBadRequest, "IncompleteBody"},
		"x\r\nab\r\n0\r\n" + sum: {http.StatusBadRequest, "IncompleteBody"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+host+"/"+bucket+"/prod/body", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}

		const inChunks = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

		for name, value := range map[string]string{
			"Content-Encoding": "aws-chunked", "X-Amz-Content-Sha256": inChunks, "X-Amz-Decoded-Content-Length": "2", "X-Amz-Trailer": "x-amz-checksum-crc32",
		} {
			request.Header.Set(name, value)
		}

		key := aws.Credentials{AccessKeyID: "id", SecretAccessKey: "of-the-test"}
		if err := v4.NewSigner().SignHTTP(t.Context(), key, request, inChunks, "s3", "us-east-1", time.Now()); err != nil {
			t.Fatal(err)
		}

		if status, text := s.call(request); status != wanted.status || !strings.Contains(text, wanted.says) {
			t.Errorf("%q: %d %s", body, status, text)
		}
	}
}

func TestABucketBeginsAsASiteIsAskedToKeepItAndSaysWhatWasChanged(t *testing.T) {
	s := newSite(t)
	s.start()

	client, ctx, own := s.job.client(), t.Context(), aws.String(bucket)

	versions, err := client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: own})
	if err != nil || versions.Status != types.BucketVersioningStatusEnabled {
		t.Errorf("%v, %v", versions, err)
	}

	lock, err := client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: own})
	if err != nil {
		t.Fatal(err)
	}

	if kept := lock.ObjectLockConfiguration.Rule.DefaultRetention; kept.Mode != types.ObjectLockRetentionModeGovernance || *kept.Days != 30 {
		t.Errorf("%+v", kept)
	}

	rules, err := client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: own})
	if err != nil || *rules.Rules[0].Expiration.Days != 90 {
		t.Errorf("%v, %v", rules, err)
	}

	if err := os.Remove(s.server.RulesFile()); err != nil {
		t.Fatal(err)
	}

	_, err = client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: own})
	if err == nil || !strings.Contains(err.Error(), "NoSuchLifecycleConfiguration") {
		t.Error(err)
	}
}

func TestThePlatformsKeyHasTheRightsOfThePageAndNoOthers(t *testing.T) {
	s := newSite(t)
	s.start()

	key, version := s.stored()
	client, ctx, own := s.job.client(), t.Context(), aws.String(bucket)

	if _, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: own, Key: &key}); err != nil {
		t.Errorf("read: %v", err)
	}

	found, err := client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: own, Prefix: aws.String("prod/")})
	if err != nil || len(found.Contents) != 1 || *found.Contents[0].Key != key {
		t.Errorf("list: %v, %v", found, err)
	}

	for name, call := range map[string]func() error{
		"delete": func() error {
			_, err := client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: own, Key: &key})

			return err
		},
		"delete a version": func() error {
			_, err := client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: own, Key: &key, VersionId: &version})

			return err
		},
		"make a bucket": func() error {
			_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("another")})

			return err
		},
		"shorten the lock": func() error {
			_, err := client.PutObjectLockConfiguration(ctx, &s3.PutObjectLockConfigurationInput{
				Bucket: own, ObjectLockConfiguration: &types.ObjectLockConfiguration{ObjectLockEnabled: types.ObjectLockEnabledEnabled},
			})

			return err
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Its owner has all rights, and is held by the lock alone.
func TestALockedVersionCannotBeDeleted(t *testing.T) {
	s := newSite(t)
	s.start()

	key, version := s.stored()
	one := &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: &key, VersionId: &version}

	if _, err := s.owner().DeleteObject(t.Context(), one); err == nil || !strings.Contains(err.Error(), "protected by object lock") {
		t.Error(err)
	}

	one.BypassGovernanceRetention = aws.Bool(true)

	if _, err := s.owner().DeleteObject(t.Context(), one); err != nil {
		t.Errorf("governance lets the owner do it who says so: %v", err)
	}
}

func TestAnObjectThatIsReplacedIsKeptAsAVersion(t *testing.T) {
	s := newSite(t)
	s.start()

	key, version := s.stored()
	first, err := os.ReadFile(filepath.Join(s.server.Objects, bucket, key))
	if err != nil {
		t.Fatal(err)
	}

	if _, err := s.run(); err != nil { // encrypted anew: other bytes
		t.Fatal(err)
	}

	old, err := s.owner().GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &key, VersionId: &version})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Body.Close()

	if kept, err := io.ReadAll(old.Body); err != nil || !bytes.Equal(kept, first) {
		t.Errorf("%d bytes of %d, %v", len(kept), len(first), err)
	}
}
