package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/versity/versitygw/auth"
)

// platformUser is whose the platform's key is: the policy names the user, so that another key has the same rights.
const platformUser = "arn:aws:iam::000000000000:user/platform"

// platformKey is the gateway's list of accounts. It has one: the access key that the world's stack has now. Whoever sets a new
// one has made it at the storage before.
type platformKey struct {
	auth.IAMServiceSingle // nobody makes, changes or lists accounts

	file string
}

// GetUserAccount implements auth.IAMService.
func (k platformKey) GetUserAccount(access string) (auth.Account, error) {
	text, err := os.ReadFile(k.file)
	if err != nil {
		return auth.Account{}, err
	}

	var world struct {
		Secrets struct {
			Values map[string]string `json:"values"`
		} `json:"secrets"`
	}
	if err := json.Unmarshal(text, &world); err != nil {
		return auth.Account{}, fmt.Errorf("%s: %w", k.file, err)
	}

	id, secret := world.Secrets.Values["backupAccessKey"], world.Secrets.Values["backupSecretKey"]
	if id == "" || secret == "" || access != id {
		return auth.Account{}, auth.ErrNoSuchUser
	}

	return auth.Account{Access: id, Secret: secret, Role: auth.RoleUser, Arn: platformUser}, nil
}

// statement is one of a bucket's policy.
type statement struct {
	Effect    string
	Principal map[string]string
	Action    []auth.Action
	Resource  string
}

// rights is the bucket's policy: what docs/site-requirements.md says that the key needs.
func (o options) rights() ([]byte, error) {
	platform, bucket := map[string]string{"AWS": platformUser}, "arn:aws:s3:::"+o.bucket

	return json.Marshal(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", []statement{
		{"Allow", platform, []auth.Action{auth.PutObjectAction, auth.GetObjectAction}, bucket + "/*"},
		{"Allow", platform, []auth.Action{
			auth.ListBucketAction, auth.GetBucketVersioningAction, auth.GetLifecycleConfigurationAction, auth.GetBucketObjectLockConfigurationAction,
		}, bucket},
	}})
}
