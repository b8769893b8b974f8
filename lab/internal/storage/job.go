package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Job does what talos-backup 0.1.0-beta.3 does, from the environment that its pod has: a snapshot, encrypted,
// uploaded by Amazon's library. Each of its faults is kept.
type Job struct {
	Environment map[string]string
	Snapshot    func(context.Context) (io.ReadCloser, error)
	HTTP        *http.Client
	Now         func() time.Time
}

// Run does it once, and answers the object's key.
func (j Job) Run(ctx context.Context) (string, error) {
	cluster := j.Environment["CLUSTER_NAME"]

	snapshot, err := j.read(ctx)
	if err != nil {
		return "", fmt.Errorf("failed to take etcd snapshot: %w", err)
	}

	name := cluster + "-" + j.Now().UTC().Format(time.RFC3339) + ".snap"

	if j.Environment["DISABLE_ENCRYPTION"] != "true" {
		if snapshot, err = encrypt(snapshot, j.Environment["AGE_X25519_PUBLIC_KEY"]); err != nil {
			return "", fmt.Errorf("failed to encrypt etcd snapshot: %w", err)
		}

		name += ".age"
	}

	prefix := j.Environment["S3_PREFIX"]
	if prefix == "" {
		prefix = cluster
	}

	key := prefix + "/" + name

	if _, err := j.client().PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String(j.Environment["BUCKET"]), Key: &key, Body: bytes.NewReader(snapshot),
	}); err != nil {
		return "", fmt.Errorf("failed to push snapshot: failed to upload %q snapshot to s3: %w", name, err)
	}

	return key, nil
}

func (j Job) read(ctx context.Context) ([]byte, error) {
	source, err := j.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer source.Close()

	return io.ReadAll(source)
}

func encrypt(plain []byte, key string) ([]byte, error) {
	recipient, err := age.ParseX25519Recipient(key)
	if err != nil {
		return nil, err
	}

	var out bytes.Buffer

	w, err := age.Encrypt(&out, recipient)
	if err != nil {
		return nil, err
	}

	if _, err := w.Write(plain); err != nil {
		return nil, err
	}

	if err := w.Close(); err != nil {
		return nil, err
	}

	return out.Bytes(), nil
}

// client is made as the release makes it: the variable is read the wrong way round (talos-backup, issue 59).
func (j Job) client() *s3.Client {
	return s3.New(s3.Options{
		Region:       j.Environment["AWS_REGION"],
		Credentials:  credentials.NewStaticCredentialsProvider(j.Environment["AWS_ACCESS_KEY_ID"], j.Environment["AWS_SECRET_ACCESS_KEY"], ""),
		HTTPClient:   j.HTTP,
		UsePathStyle: j.Environment["USE_PATH_STYLE"] == "false",
	}, func(o *s3.Options) {
		if endpoint := j.Environment["CUSTOM_S3_ENDPOINT"]; endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
	})
}
