package storage

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

const (
	host    = "s3.example.com"
	bucket  = "platform-prod-etcd"
	content = "what etcd holds"
)

// jobSite is a job with the environment that its pod has.
type jobSite struct {
	t        *testing.T
	identity *age.X25519Identity
	job      Job
}

func newJobSite(t *testing.T) jobSite {
	t.Helper()

	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}

	return jobSite{t: t, identity: identity, job: Job{
		Environment: map[string]string{
			"AWS_REGION": "us-east-1", "BUCKET": bucket, "CUSTOM_S3_ENDPOINT": "https://" + host, "S3_PREFIX": "prod", "CLUSTER_NAME": "prod",
			"AGE_X25519_PUBLIC_KEY": identity.Recipient().String(), "USE_PATH_STYLE": "false",
			"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "of-the-test",
		},
		Snapshot: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil },
		Now:      func() time.Time { return time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC) },
	}}
}

func TestASnapshotThatCannotBeTakenIsTold(t *testing.T) {
	s := newJobSite(t)
	s.job.Snapshot = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("not authorized") }

	if _, err := s.job.Run(t.Context()); err == nil || err.Error() != "failed to take etcd snapshot: not authorized" {
		t.Error(err)
	}
}

func TestASnapshotIsNotUploadedWithoutAKeyToEncryptItFor(t *testing.T) {
	s := newJobSite(t)
	s.job.Environment["AGE_X25519_PUBLIC_KEY"] = "age1x"

	if _, err := s.job.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "failed to encrypt etcd snapshot") {
		t.Error(err)
	}
}
