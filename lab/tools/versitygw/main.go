// Command versitygw is Versity's S3 gateway over a folder, by the package that it has for programs which embed it: the server of
// its own cmd/versitygw without its other backends. It begins with one bucket, kept as docs/site-requirements.md asks a site to
// keep it, and with two accounts: the bucket's owner, and the platform's key, which has the rights of that page and no others.
//
// It is a program of its own, and no part of the lab's: it changes its process's working directory and runs once in a process,
// and it would bring the lab 185 packages, clients of Kafka, Vault and LDAP among them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"
)

const (
	// lockDays are those of the default retention that docs/site-requirements.md asks for.
	lockDays = 30
	// atOnce are connections and requests; the gateway wants a number.
	atOnce = 1024
	// mostParts is Amazon's limit.
	mostParts = 10_000
	// ownerKey and ownerSecret are variables, with the names of the gateway's own program.
	ownerKey, ownerSecret = "ROOT_ACCESS_KEY", "ROOT_SECRET_KEY"
)

type options struct {
	listen, certificate, key, domain, region, bucket, objects, state, keys string
}

func main() {
	var o options

	flag.StringVar(&o.listen, "listen", "", "address and port, or the path of a socket")
	flag.StringVar(&o.certificate, "certificate", "", "file of the server's certificate, PEM; without it the gateway speaks HTTP")
	flag.StringVar(&o.key, "key", "", "file of its key, PEM")
	flag.StringVar(&o.domain, "domain", "", "name that stands behind the bucket's in the host's name; without it the bucket is in the path only")
	flag.StringVar(&o.region, "region", "", "the bucket's region")
	flag.StringVar(&o.bucket, "bucket", "", "name of the bucket")
	flag.StringVar(&o.objects, "objects", "", "folder of the objects, below a folder for the bucket")
	flag.StringVar(&o.state, "state", "", "folder of older versions, of what is said of each object, and of the bucket's lifecycle rules")
	flag.StringVar(&o.keys, "keys", "", "file of a world, with the platform's access key as it is now")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "versitygw:", err)
		os.Exit(1)
	}
}

// run serves until the context ends.
func (o options) run(ctx context.Context) error {
	if flag.NArg() > 0 || o.listen == "" || o.region == "" || o.bucket == "" || o.objects == "" || o.state == "" || o.keys == "" {
		return errors.New("--listen, --region, --bucket, --objects, --state and --keys are needed; the arguments have no further words")
	}

	for _, path := range []*string{&o.certificate, &o.key, &o.objects, &o.state, &o.keys} {
		if err := absolute(path); err != nil {
			return err
		}
	}

	owner := auth.Account{Access: os.Getenv(ownerKey), Secret: os.Getenv(ownerSecret), Role: auth.RoleAdmin}

	folder, err := o.backend()
	if err != nil {
		return err
	}

	if err := o.makeBucket(ctx, folder, owner); err != nil {
		return fmt.Errorf("bucket %s: %w", o.bucket, err)
	}

	accounts := platformKey{file: o.keys}

	return embedgw.RunVersityGW(ctx, folder, &embedgw.Config{
		RootUserAccess: owner.Access, RootUserSecret: owner.Secret, IAMService: accounts,
		Region: o.region, Ports: []string{o.listen}, CertFile: o.certificate, KeyFile: o.key, VirtualDomain: o.domain,
		MaxConnections: atOnce, MaxRequests: atOnce, MultipartMaxParts: mostParts,
		S3Options: []s3api.Option{s3api.WithMiddleware("/", o.lifecycle(folder, accounts))},
	})
}

// absolute makes a path so before the gateway changes into the folder of its objects.
func absolute(path *string) (err error) {
	if *path != "" {
		*path, err = filepath.Abs(*path)
	}

	return err
}

// backend keeps objects as files. What is said of them lies in files too: not every file system has extended attributes.
func (o options) backend() (*posix.Posix, error) {
	kept := posix.PosixOpts{SideCarDir: filepath.Join(o.state, "attributes"), VersioningDir: filepath.Join(o.state, "versions")}
	kept.SetNewDirPerm(0o700)
	kept.SetNewFilePerm(0o600)

	for _, folder := range []string{o.objects, kept.SideCarDir, kept.VersioningDir} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}

	attributes, err := meta.NewSideCar(kept.SideCarDir)
	if err != nil {
		return nil, err
	}

	return posix.New(o.objects, attributes, kept)
}

// makeBucket makes the bucket with versions and with the default retention of its lock, and gives the platform's key its rights.
func (o options) makeBucket(ctx context.Context, in backend.Backend, owner auth.Account) error {
	access, err := json.Marshal(auth.ACL{Owner: owner.Access})
	if err != nil {
		return err
	}

	lock, err := json.Marshal(auth.BucketLockConfig{
		Enabled: true, CreatedAt: aws.Time(time.Now()),
		DefaultRetention: &types.DefaultRetention{Mode: types.ObjectLockRetentionModeGovernance, Days: aws.Int32(lockDays)},
	})
	if err != nil {
		return err
	}

	rights, err := o.rights()
	if err != nil {
		return err
	}

	if err := in.CreateBucket(ctx, &s3.CreateBucketInput{
		Bucket: &o.bucket, ObjectLockEnabledForBucket: aws.Bool(true), ObjectOwnership: types.ObjectOwnershipBucketOwnerEnforced,
		CreateBucketConfiguration: &types.CreateBucketConfiguration{},
	}, access); err != nil {
		return err
	}

	if err := in.PutObjectLockConfiguration(ctx, o.bucket, lock); err != nil {
		return err
	}

	return in.PutBucketPolicy(ctx, o.bucket, rights)
}
