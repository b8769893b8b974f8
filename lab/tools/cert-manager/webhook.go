package main

import (
	"context"

	"github.com/cert-manager/cert-manager/internal/webhook"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/webhook/options"
)

// runWebhook validates what is written to cert-manager's resources.
func runWebhook(ctx context.Context, arguments []string) error {
	given, err := options.NewWebhookConfiguration()
	if err != nil {
		return err
	}

	set := flags("webhook")
	options.NewWebhookFlags().AddFlags(set)
	options.AddConfigFlags(set, given)

	if err := parse(set, arguments, given.FeatureGates, &given.Logging); err != nil {
		return err
	}

	server, err := webhook.NewCertManagerWebhookServer(logf.FromContext(ctx), *given)
	if err != nil {
		return err
	}

	return server.Run(ctx)
}
