package omni

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/siderolabs/go-api-signature/pkg/pgp"
	"github.com/siderolabs/go-api-signature/pkg/serviceaccount"
	"github.com/siderolabs/omni/client/api/omni/specs"
	"github.com/siderolabs/omni/client/pkg/access"
	"github.com/siderolabs/omni/client/pkg/jointoken"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NewKey makes the key of a service account before there is an Omni: AdoptServiceAccount makes it known. It has the form of
// OMNI_SERVICE_ACCOUNT_KEY.
func NewKey(name string, lifetime time.Duration) (string, error) {
	of := access.ParseServiceAccountFromName(name)

	key, err := pgp.GenerateKey(of.BaseName, runtime.GOOS+"/"+runtime.GOARCH, of.FullID(), lifetime)
	if err != nil {
		return "", err
	}

	return serviceaccount.Encode(name, key)
}

// NewToken makes a join token before there is an Omni: AdoptJoinToken makes it known.
func NewToken() (string, error) { return jointoken.Generate() }

// AdoptServiceAccount makes a service account of a key. One that exists gets one more key; its role stays.
func (o *Omni) AdoptServiceAccount(ctx context.Context, encoded string, role Role) error {
	account, err := serviceaccount.Decode(encoded)
	if err != nil {
		return fmt.Errorf("simulated Omni: the key of a service account: %w", err)
	}

	public, err := account.Key.ArmorPublic()
	if err != nil {
		return err
	}

	if _, err = o.addAccount(ctx, account.Name, string(role), public); status.Code(err) == codes.AlreadyExists {
		_, err = o.addKey(ctx, account.Name, public)
	}

	return err
}

// AdoptJoinToken makes a token known that lives without end.
func (o *Omni) AdoptJoinToken(ctx context.Context, id, name string) error {
	return o.keepToken(ctx, id, &specs.JoinTokenSpec{Name: name})
}
