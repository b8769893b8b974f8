package main

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/gofiber/fiber/v3"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/metrics"
	"github.com/versity/versitygw/s3api/controllers"
	"github.com/versity/versitygw/s3api/utils"
	"github.com/versity/versitygw/s3err"
)

// rulesFile has the bucket's lifecycle rules, in the folder of the gateway's state.
const rulesFile = "lifecycle.xml"

// noRules is Amazon's answer for a bucket that has none.
var noRules = s3err.APIError{
	Code: "NoSuchLifecycleConfiguration", Description: "The lifecycle configuration does not exist", HTTPStatusCode: http.StatusNotFound,
}

// lifecycle answers the one question that the platform asks and this gateway does not know: what the bucket's lifecycle rules are.
// The gateway says "not implemented", after it has looked at the signature and the bucket. In place of that the caller gets the
// rules of the file, if he has the right to read them. They delete nothing: no world lives that long. To change them is what the
// gateway says.
func (o options) lifecycle(in backend.Backend, accounts auth.IAMService) fiber.Handler {
	return func(ctx fiber.Ctx) error {
		if err := ctx.Next(); err != nil {
			return err
		}

		if ctx.Method() != http.MethodGet || !ctx.Request().URI().QueryArgs().Has("lifecycle") || ctx.Response().StatusCode() != http.StatusNotImplemented {
			return nil
		}

		return controllers.ProcessController(ctx, func(ctx fiber.Ctx) (*controllers.Response, error) {
			rules, err := o.rules(ctx, in, accounts)

			return &controllers.Response{Data: rules}, err
		}, metrics.ActionGetBucketLifecycleConfiguration, &controllers.Services{})
	}
}

// rules are those of the file, for who may read them.
func (o options) rules(ctx fiber.Ctx, in backend.Backend, accounts auth.IAMService) ([]byte, error) {
	access, _ := utils.ContextKeyParsedAcl.Get(ctx).(auth.ACL)
	owner, _ := utils.ContextKeyIsRoot.Get(ctx).(bool)
	account, _ := utils.ContextKeyAccount.Get(ctx).(auth.Account)

	if err := auth.VerifyAccess(ctx, in, auth.AccessOptions{
		Acl: access, AclPermission: auth.PermissionRead, IsRoot: owner, Acc: account, Bucket: o.bucket, Iam: accounts,
		Actions: []auth.Action{auth.GetLifecycleConfigurationAction},
	}); err != nil {
		return nil, err
	}

	rules, err := os.ReadFile(filepath.Join(o.state, rulesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noRules
	}

	return rules, err
}
