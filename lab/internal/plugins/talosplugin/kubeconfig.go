package talosplugin

// Layer: cluster/kubeconfig:Kubeconfig, an administrator's access to Kubernetes, issued by a control plane.

import (
	"context"
	"fmt"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"k8s.io/client-go/tools/clientcmd"

	"platform.lab/lab/internal/plugins"
)

const defaultRenewal = "720h"

type kubeconfigResource struct{}

func (kubeconfigResource) schema() schema {
	return schema{
		"node":                       requiredText,
		"endpoint":                   {kind: text},
		"clientConfiguration":        clientConfigurationSchema,
		"certificateRenewalDuration": {kind: text, valid: validDuration},
		"timeouts":                   timeoutSchema("create", "update"),
		"kubeconfigRaw":              {kind: text, computed: true, secret: true},
		"kubernetesClientConfiguration": {kind: object, computed: true, fields: schema{
			"host":              {kind: text},
			"caCertificate":     {kind: text},
			"clientCertificate": {kind: text},
			"clientKey":         {kind: text, secret: true},
		}},
	}
}

func (kubeconfigResource) check(property.Map) []p.CheckFailure { return nil }

// plan keeps the kubeconfig until its certificate nears its end; another endpoint or other credentials do not
// fetch it again.
func (kubeconfigResource) plan(_ context.Context, inputs, state property.Map) (plan, error) {
	outputs := inputs.
		Set("endpoint", or(inputs.Get("endpoint"), inputs.Get("node"))).
		Set("certificateRenewalDuration", or(inputs.Get("certificateRenewalDuration"), property.New(defaultRenewal))).
		Set("kubeconfigRaw", or(state.Get("kubeconfigRaw"), unknown())).
		Set("kubernetesClientConfiguration", or(state.Get("kubernetesClientConfiguration"), unknown()))

	renew, err := needsRenewal(outputs, state)
	if err != nil || !renew {
		return plan{outputs: outputs}, err
	}

	return plan{outputs: outputs.Set("kubeconfigRaw", unknown()).Set("kubernetesClientConfiguration", property.New(map[string]property.Value{
		"host": unknown(), "caCertificate": unknown(), "clientCertificate": unknown(), "clientKey": unknown(),
	}))}, nil
}

func needsRenewal(outputs, state property.Map) (bool, error) {
	certificate := plugins.TextOf(objectOf(state, "kubernetesClientConfiguration"), "clientCertificate")
	if certificate == "" || outputs.Get("certificateRenewalDuration").IsComputed() {
		return false, nil
	}

	duration, err := time.ParseDuration(plugins.TextOf(outputs, "certificateRenewalDuration"))
	if err != nil {
		return false, fmt.Errorf("failed to parse certificate renewal duration in plan: %w", err)
	}

	expires, err := expiresBefore(certificate, time.Now().Add(duration))
	if err != nil {
		return false, fmt.Errorf("failed to parse kubernetes client certificate: %w", err)
	}

	return expires, nil
}

func (kubeconfigResource) create(ctx context.Context, planned property.Map) (string, property.Map, error) {
	return fetchKubeconfig(ctx, planned, "create")
}

func (kubeconfigResource) update(ctx context.Context, planned, _ property.Map) (property.Map, error) {
	if planned.Get("kubeconfigRaw").IsString() {
		return planned, nil
	}

	_, outputs, err := fetchKubeconfig(ctx, planned, "update")

	return outputs, err
}

// fetchKubeconfig returns the cluster's name, which is the resource's id, and the outputs.
func fetchKubeconfig(ctx context.Context, planned property.Map, operation string) (string, property.Map, error) {
	machine, err := targetOf(planned)
	if err != nil {
		return "", property.Map{}, err
	}

	var raw []byte

	err = machine.retry(ctx, timeoutOf(planned, operation), func(ctx context.Context, c *client.Client) error {
		var err error
		raw, err = c.Kubeconfig(ctx)

		return err
	})
	if err != nil {
		return "", property.Map{}, fmt.Errorf("failed to retrieve kubeconfig: %w", err)
	}

	cluster, access, err := parseKubeconfig(raw)
	if err != nil {
		return "", property.Map{}, err
	}

	return cluster, planned.
		Set("kubeconfigRaw", property.New(string(raw))).
		Set("kubernetesClientConfiguration", access), nil
}

// parseKubeconfig returns the current context's cluster and its access data, base64 encoded.
func parseKubeconfig(raw []byte) (string, property.Value, error) {
	config, err := clientcmd.Load(raw)
	if err != nil {
		return "", property.Value{}, fmt.Errorf("failed to parse kubeconfig: %w", err)
	}

	current := config.Contexts[config.CurrentContext]
	if current == nil || config.Clusters[current.Cluster] == nil || config.AuthInfos[current.AuthInfo] == nil {
		return "", property.Value{}, fmt.Errorf("failed to parse kubeconfig: its current context %q is not complete", config.CurrentContext)
	}

	cluster, user := config.Clusters[current.Cluster], config.AuthInfos[current.AuthInfo]

	return current.Cluster, property.New(map[string]property.Value{
		"host":              property.New(cluster.Server),
		"caCertificate":     encoded(cluster.CertificateAuthorityData),
		"clientCertificate": encoded(user.ClientCertificateData),
		"clientKey":         encoded(user.ClientKeyData),
	}), nil
}

func (kubeconfigResource) delete(context.Context, property.Map) error { return nil }

func (kubeconfigResource) adopt(id string) (string, property.Map, error) {
	return "", property.Map{}, errNoImport(id)
}
