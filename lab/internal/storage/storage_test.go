package storage

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const (
	host    = "s3.example.com"
	bucket  = "platform-prod-etcd"
	content = "what etcd holds"
)

// site is a storage under its own name, and a job that is to reach it.
type site struct {
	t        *testing.T
	options  Options
	identity *age.X25519Identity
	job      Job
	asked    []string // hosts
}

func newSite(t *testing.T) *site {
	t.Helper()

	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}

	s := &site{t: t, identity: identity}
	s.options = Options{
		Host: host, Bucket: bucket, Region: "us-east-1", Dir: t.TempDir(),
		Credentials: func() (string, string) { return "id", "of-the-test" },
	}
	s.job = Job{
		Environment: map[string]string{
			"AWS_REGION": "us-east-1", "BUCKET": bucket, "CUSTOM_S3_ENDPOINT": "https://" + host, "S3_PREFIX": "prod", "CLUSTER_NAME": "prod",
			"AGE_X25519_PUBLIC_KEY": identity.Recipient().String(), "USE_PATH_STYLE": "false",
			"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "of-the-test",
		},
		Snapshot: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil },
		Now:      func() time.Time { return time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC) },
	}

	return s
}

// run starts the storage and runs the job; only the storage's own name resolves.
func (s *site) run() (string, error) {
	s.t.Helper()

	handler, err := New(s.options)
	if err != nil {
		s.t.Fatal(err)
	}

	server := httptest.NewTLSServer(handler)
	s.t.Cleanup(server.Close)

	own := handler.ownHost()
	s.job.HTTP = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			name, _, _ := net.SplitHostPort(address)
			s.asked = append(s.asked, name)

			if name != own {
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}

			return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
	}}
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()

	return s.job.Run(ctx)
}

func TestAJobsSnapshotCanBeReadWithThePrivateKeyAlone(t *testing.T) {
	s := newSite(t)

	key, err := s.run()
	if err != nil || key != "prod/prod-2026-01-31T12:00:00Z.snap.age" {
		t.Fatalf("%q, %v", key, err)
	}

	stored, err := os.ReadFile(filepath.Join(s.options.Dir, bucket, key))
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
	s.options.HostStyle = true
	s.job.Environment["USE_PATH_STYLE"] = "true" // the wrong way round

	if key, err := s.run(); err != nil || s.asked[0] != bucket+"."+host {
		t.Errorf("%q of %v, %v", key, s.asked, err)
	}
}

func TestAStorageRefusesAsARealOneDoes(t *testing.T) {
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
		"no key to encrypt for":        {map[string]string{"AGE_X25519_PUBLIC_KEY": "age1x"}, []string{"failed to encrypt etcd snapshot"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
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

func TestASnapshotThatCannotBeTakenIsTold(t *testing.T) {
	s := newSite(t)
	s.job.Snapshot = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("not authorized") }

	if _, err := s.run(); err == nil || err.Error() != "failed to take etcd snapshot: not authorized" {
		t.Error(err)
	}
}

func TestACallIsReadOnlyWithASignature(t *testing.T) {
	handler, err := New(newSite(t).options)
	if err != nil {
		t.Fatal(err)
	}

	answer := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, "https://"+host+"/"+bucket, nil)
	handler.ServeHTTP(answer, request)

	if answer.Code != http.StatusForbidden || !strings.Contains(answer.Body.String(), "AccessDenied") {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}

func TestABodyThatIsNotWhatItsChecksumSaysIsRefused(t *testing.T) {
	for body, wanted := range map[string]string{
		"2\r\nab\r\n0\r\nx-amz-checksum-crc32:" + crcOf([]byte("ab")) + "\r\n\r\n": "",
		"2\r\nac\r\n0\r\nx-amz-checksum-crc32:" + crcOf([]byte("ab")) + "\r\n\r\n": "BadDigest",
		"9\r\nab": "IncompleteBody",
		"x\r\nab": "IncompleteBody",
	} {
		request := httptest.NewRequest(http.MethodPut, "https://"+host, strings.NewReader(body))
		request.Header.Set(contentHash, inChunks)

		if _, code, says := readBody(request); code != wanted {
			t.Errorf("%q: %s %s", body, code, says)
		}
	}
}

func TestABucketBeginsAsASiteIsAskedToKeepItAndSaysWhatWasChanged(t *testing.T) {
	s := newSite(t)
	if _, err := s.run(); err != nil {
		t.Fatal(err)
	}

	client, ctx, own := s.job.client(), t.Context(), aws.String(bucket)

	versions, err := client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: own})
	if err != nil || versions.Status != types.BucketVersioningStatusEnabled {
		t.Errorf("%v, %v", versions, err)
	}

	lock, err := client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: own})
	if err != nil || *lock.ObjectLockConfiguration.Rule.DefaultRetention.Days != 30 {
		t.Errorf("%v, %v", lock, err)
	}

	rules, err := client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: own})
	if err != nil || *rules.Rules[0].Expiration.Days != 90 {
		t.Errorf("%v, %v", rules, err)
	}

	if _, err := client.DeleteBucketLifecycle(ctx, &s3.DeleteBucketLifecycleInput{Bucket: own}); err != nil {
		t.Error(err)
	}

	if _, err := client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: own}); err == nil || !strings.Contains(err.Error(), "NoSuchLifecycleConfiguration") {
		t.Error(err)
	}
}

func TestALockedVersionCannotBeDeleted(t *testing.T) {
	s := newSite(t)

	key, err := s.run()
	if err != nil {
		t.Fatal(err)
	}

	client, ctx := s.job.client(), t.Context()

	versions, err := client.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: aws.String(bucket)})
	if err != nil || len(versions.Versions) != 1 {
		t.Fatalf("%v, %v", versions, err)
	}

	_, err = client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: &key, VersionId: versions.Versions[0].VersionId})
	if err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Error(err)
	}
}
