package talosplugin

// Layer: the functions machine/getConfiguration and client/getConfiguration. Offline.

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
	sideronet "github.com/siderolabs/net"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/bundle"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/constants"

	"platform.lab/lab/internal/plugins"
)

// installDisk is the provider's default; a patch of machine.install.disk overrides it.
const installDisk = "/dev/sda"

var machineConfigurationFunction = function{
	arguments: schema{
		"clusterName":       {kind: text, required: true, valid: notEmpty},
		"clusterEndpoint":   requiredText,
		"machineType":       {kind: text, required: true, oneOf: []string{"controlplane", "worker"}},
		"machineSecrets":    machineSecretsSchema,
		"configPatches":     {kind: texts},
		"kubernetesVersion": {kind: text},
		"talosVersion":      {kind: text, valid: validTalosVersion},
		"docs":              {kind: flag},
		"examples":          {kind: flag},
	},
	call: getMachineConfiguration,
}

func getMachineConfiguration(_ context.Context, arguments property.Map) (property.Map, error) {
	arguments = arguments.
		Set("kubernetesVersion", or(arguments.Get("kubernetesVersion"), property.New(defaultKubernetesVersion))).
		Set("talosVersion", or(arguments.Get("talosVersion"), property.New(defaultTalosVersion)))

	if err := validateEndpoint(plugins.TextOf(arguments, "clusterEndpoint")); err != nil {
		return property.Map{}, fmt.Errorf("cluster_endpoint is invalid: %w", err)
	}

	patches, err := configpatcher.LoadPatches(textsOf(arguments, "configPatches"))
	if err != nil {
		return property.Map{}, fmt.Errorf("config_patches are invalid: %w", err)
	}

	configuration, err := generateConfiguration(arguments, patches)
	if err != nil {
		return property.Map{}, fmt.Errorf("failed to generate machine configuration: %w", err)
	}

	return arguments.
		Set("machineConfiguration", property.New(string(configuration))).
		Set("id", arguments.Get("clusterName")), nil
}

// generateConfiguration renders the machine configuration, patches applied.
func generateConfiguration(arguments property.Map, patches []configpatcher.Patch) ([]byte, error) {
	options, err := generateOptions(arguments)
	if err != nil {
		return nil, err
	}

	machineType, withPatches := machine.TypeControlPlane, bundle.WithPatchControlPlane
	if plugins.TextOf(arguments, "machineType") == "worker" {
		machineType, withPatches = machine.TypeWorker, bundle.WithPatchWorker
	}

	configurations, err := bundle.NewBundle(
		bundle.WithInputOptions(&bundle.InputOptions{
			ClusterName: plugins.TextOf(arguments, "clusterName"),
			Endpoint:    plugins.TextOf(arguments, "clusterEndpoint"),
			KubeVersion: strings.TrimPrefix(plugins.TextOf(arguments, "kubernetesVersion"), "v"),
			GenOptions:  options,
		}),
		bundle.WithVerbose(false),
		withPatches(patches),
	)
	if err != nil {
		return nil, err
	}

	return configurations.Serialize(comments(arguments), machineType)
}

func generateOptions(arguments property.Map) ([]generate.Option, error) {
	secretsOfCluster, err := secretsBundle(objectOf(arguments, "machineSecrets"))
	if err != nil {
		return nil, err
	}

	contract, err := talosconfig.ParseContractFromVersion(plugins.TextOf(arguments, "talosVersion"))
	if err != nil {
		return nil, err
	}

	return []generate.Option{
		generate.WithClusterDiscovery(true),
		generate.WithDNSDomain(constants.DefaultDNSDomain),
		generate.WithInstallDisk(installDisk),
		generate.WithInstallImage(defaultInstallerImage),
		generate.WithSecretsBundle(secretsOfCluster),
		generate.WithVersionContract(contract),
	}, nil
}

func comments(arguments property.Map) encoder.CommentsFlags {
	flags := encoder.CommentsDisabled

	if flagOf(arguments, "docs", false) {
		flags |= encoder.CommentsDocs
	}

	if flagOf(arguments, "examples", false) {
		flags |= encoder.CommentsExamples
	}

	return flags
}

// validateEndpoint wants https://host:port, and says how a wrong one should look.
func validateEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		if strings.Contains(endpoint, "/") {
			return fmt.Errorf("failed to parse the cluster endpoint URL: %w", err)
		}

		u = &url.URL{Host: endpoint}
	}

	switch {
	case u.Scheme == "" && u.Port() == "":
		return fmt.Errorf("no scheme and port specified for the cluster endpoint URL\ntry: %q", mendedEndpoint(u))
	case u.Scheme == "":
		return fmt.Errorf("no scheme specified for the cluster endpoint URL\ntry: %q", mendedEndpoint(u))
	case u.Scheme != "https":
		return fmt.Errorf("the control plane endpoint URL should have scheme https://\ntry: %q", mendedEndpoint(u))
	}

	if err := sideronet.ValidateEndpointURI(endpoint); err != nil {
		return fmt.Errorf("error validating the cluster endpoint URL: %w", err)
	}

	return nil
}

func mendedEndpoint(u *url.URL) *url.URL {
	fixed := *u
	fixed.Scheme = "https"

	// A bare name or address parses as a path.
	if fixed.Host == "" {
		fixed.Host, fixed.Path = fixed.Path, ""
	}

	if fixed.Port() == "" {
		fixed.Host = fmt.Sprintf("%s:%d", fixed.Host, constants.DefaultControlPlanePort)
	}

	return &fixed
}

var clientConfigurationFunction = function{
	arguments: schema{
		"clusterName":         {kind: text, required: true, valid: notEmpty},
		"clientConfiguration": clientConfigurationSchema,
		"endpoints":           {kind: texts},
		"nodes":               {kind: texts},
	},
	call: getClientConfiguration,
}

func getClientConfiguration(_ context.Context, arguments property.Map) (property.Map, error) {
	cluster := plugins.TextOf(arguments, "clusterName")

	config, err := talosConfig(cluster, objectOf(arguments, "clientConfiguration"))
	if err != nil {
		return property.Map{}, fmt.Errorf("failed to generate talos config: %w", err)
	}

	config.Contexts[cluster].Endpoints = textsOf(arguments, "endpoints")
	config.Contexts[cluster].Nodes = textsOf(arguments, "nodes")

	rendered, err := config.Bytes()
	if err != nil {
		return property.Map{}, fmt.Errorf("failed to generate talos config: %w", err)
	}

	return arguments.
		Set("talosConfig", property.New(string(rendered))).
		Set("id", property.New(cluster)), nil
}

func notEmpty(value string) error {
	if value == "" {
		return fmt.Errorf("Invalid Attribute Value Length: string length must be at least 1, got: 0") //nolint:staticcheck // the provider's own words
	}

	return nil
}
