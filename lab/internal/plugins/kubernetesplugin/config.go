package kubernetesplugin

// Layer: the provider resource's own configuration: what it accepts, when a change replaces it, and how it
// becomes a connection.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"platform.lab/lab/internal/plugins"
)

// accepted are the provider's inputs that the stand-in honours. Those for warnings change nothing that it does.
var accepted = []string{
	"kubeconfig", "context", "cluster", "clusterIdentifier", "namespace", "kubeClientSettings",
	"enableServerSideApply", "enableConfigMapMutable", "enableSecretMutable", "enablePatchForce",
	"upsertExistingObjects", "deleteUnreachable", "skipUpdateUnreachable",
	"helmReleaseSettings", "suppressDeprecationWarnings", "suppressHelmHookWarnings",
}

// clusterKeys decide which cluster a configuration means.
var clusterKeys = []string{"kubeconfig", "context", "cluster"}

func checkConfig(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	response := p.CheckResponse{Inputs: r.Inputs}
	fail := func(name, reason string) {
		response.Failures = append(response.Failures, p.CheckFailure{Property: name, Reason: reason})
	}

	for name := range r.Inputs.AllStable {
		if !slices.Contains(accepted, name) && !slices.Contains(plugins.EngineKeys, name) && !strings.HasPrefix(name, "__") {
			fail(name, fmt.Sprintf("%q is not served by the lab's stand-in of the kubernetes plugin; it serves %s", name, strings.Join(accepted, ", ")))
		}
	}

	if v := r.Inputs.Get("enableServerSideApply"); !v.IsNull() && !v.IsComputed() && !settingOf(r.Inputs, "enableServerSideApply", "") {
		fail("enableServerSideApply", "the lab's stand-in of the kubernetes plugin only applies on the server; leave it out or set it to true")
	}

	if _, err := helmSettingsOf(r.Inputs); err != nil {
		fail("helmReleaseSettings", err.Error())
	}

	return response, nil
}

// diffConfig follows the published rules: with an unchanged clusterIdentifier nothing replaces the provider, an
// updated one does; without it, an unknown or another active cluster does.
func diffConfig(_ context.Context, r p.DiffRequest) (p.DiffResponse, error) {
	changes := map[string]p.PropertyDiff{}

	for _, name := range accepted {
		if kind := change(r.State.Get(name), r.Inputs.Get(name)); kind != "" {
			changes[name] = p.PropertyDiff{Kind: kind, InputDiff: true}
		}
	}

	identifier := r.Inputs.Get("clusterIdentifier")
	_, identifierChanged := changes["clusterIdentifier"]

	switch {
	case changes["clusterIdentifier"].Kind == p.Update:
		changes["clusterIdentifier"] = p.PropertyDiff{Kind: p.UpdateReplace, InputDiff: true}
	case !identifierChanged && !identifier.IsNull():
	default:
		if err := replaceOnOtherCluster(r.State, r.Inputs, changes); err != nil {
			return p.DiffResponse{}, err
		}
	}

	return p.DiffResponse{HasChanges: len(changes) > 0, DetailedDiff: changes}, nil
}

func change(old, now property.Value) p.DiffKind {
	switch {
	case reflect.DeepEqual(plain(old), plain(now)):
		return ""
	case old.IsNull():
		return p.Add
	case now.IsNull():
		return p.Delete
	default:
		return p.Update
	}
}

// replaceOnOtherCluster marks the keys that decide the cluster as replacing when it is unknown or another one.
func replaceOnOtherCluster(old, now property.Map, changes map[string]p.PropertyDiff) error {
	other := slices.ContainsFunc(clusterKeys, func(name string) bool { return now.Get(name).IsComputed() })

	if !other {
		before, err := activeCluster(old)
		if err != nil {
			return err
		}

		after, err := activeCluster(now)
		if err != nil {
			return err
		}

		other = before != nil && after != nil && !reflect.DeepEqual(before, after)
	}

	for _, name := range clusterKeys {
		if kind := changes[name].Kind; other && kind != "" {
			changes[name] = p.PropertyDiff{Kind: plugins.Replacing(kind), InputDiff: true}
		}
	}

	return nil
}

// activeCluster returns the cluster entry that a configuration uses, or nil without a kubeconfig.
func activeCluster(config property.Map) (*clientcmdapi.Cluster, error) {
	if plugins.TextOf(config, "kubeconfig") == "" {
		return nil, nil
	}

	loaded, err := loadKubeconfig(plugins.TextOf(config, "kubeconfig"))
	if err != nil {
		return nil, err
	}

	current := loaded.CurrentContext
	if name := plugins.TextOf(config, "context"); name != "" {
		current = name
	}

	if name := plugins.TextOf(config, "cluster"); name != "" {
		return loaded.Clusters[name], nil
	}

	if c := loaded.Contexts[current]; c != nil {
		return loaded.Clusters[c.Cluster], nil
	}

	return nil, nil
}

// loadKubeconfig takes a path or the file's content. Its errors never quote the content.
func loadKubeconfig(pathOrContent string) (*clientcmdapi.Config, error) {
	content := []byte(pathOrContent)

	if !strings.Contains(pathOrContent, "\n") {
		if read, err := os.ReadFile(pathOrContent); err == nil {
			content = read
		}
	}

	loaded, err := clientcmd.Load(content)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: neither the path of a kubeconfig file nor its content in YAML or JSON")
	}

	return loaded, nil
}

// settings are the provider's switches.
type settings struct {
	namespace             string
	mutableConfigMaps     bool
	mutableSecrets        bool
	patchForce            bool
	upsert                bool
	deleteUnreachable     bool
	skipUpdateUnreachable bool
	// helmDriver is where Helm keeps its records of releases; "" is in Secrets.
	helmDriver string
}

func settingsOf(config property.Map) settings {
	return settings{
		namespace:             plugins.TextOf(config, "namespace"),
		mutableConfigMaps:     settingOf(config, "enableConfigMapMutable", "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE"),
		mutableSecrets:        settingOf(config, "enableSecretMutable", "PULUMI_K8S_ENABLE_SECRET_MUTABLE"),
		patchForce:            settingOf(config, "enablePatchForce", "PULUMI_K8S_ENABLE_PATCH_FORCE"),
		upsert:                settingOf(config, "upsertExistingObjects", "PULUMI_K8S_UPSERT_EXISTING_OBJECTS"),
		deleteUnreachable:     settingOf(config, "deleteUnreachable", "PULUMI_K8S_DELETE_UNREACHABLE"),
		skipUpdateUnreachable: settingOf(config, "skipUpdateUnreachable", "PULUMI_K8S_SKIP_UPDATE_UNREACHABLE"),
	}
}

// settingOf reads a switch; SDKs send it as a boolean or as the text "true". The environment fills in.
func settingOf(config property.Map, name, environment string) bool {
	v := config.Get(name)

	switch {
	case v.IsBool():
		return v.AsBool()
	case v.IsString():
		return v.AsString() == "true"
	case environment != "":
		return os.Getenv(environment) == "true"
	}

	return false
}

// clientSettings are the rate limits of the connection (kubeClientSettings).
type clientSettings struct {
	QPS     *float32 `json:"qps"`
	Burst   *int     `json:"burst"`
	Timeout *int     `json:"timeout"`
}

func clientSettingsOf(config property.Map) (clientSettings, error) {
	var parsed clientSettings

	content := []byte(plugins.TextOf(config, "kubeClientSettings"))
	if v := config.Get("kubeClientSettings"); v.IsMap() {
		content, _ = json.Marshal(plain(v)) // plain values always marshal
	}

	if len(content) > 0 {
		if err := json.Unmarshal(content, &parsed); err != nil {
			return clientSettings{}, fmt.Errorf("kubeClientSettings: %w; it holds qps, burst and timeout (in seconds)", err)
		}
	}

	if err := fromEnvironment("PULUMI_K8S_CLIENT_QPS", &parsed.QPS, func(s string) (float32, error) {
		f, err := strconv.ParseFloat(s, 32)

		return float32(f), err
	}); err != nil {
		return clientSettings{}, err
	}

	if err := fromEnvironment("PULUMI_K8S_CLIENT_BURST", &parsed.Burst, strconv.Atoi); err != nil {
		return clientSettings{}, err
	}

	return parsed, fromEnvironment("PULUMI_K8S_CLIENT_TIMEOUT", &parsed.Timeout, strconv.Atoi)
}

func fromEnvironment[T any](name string, target **T, parse func(string) (T, error)) error {
	text, set := os.LookupEnv(name)
	if *target != nil || !set {
		return nil
	}

	value, err := parse(text)
	if err != nil {
		return fmt.Errorf("environment variable %s=%q: not a number", name, text)
	}

	*target = &value

	return nil
}

// helmSettings are the provider's switches for releases (helmReleaseSettings).
type helmSettings struct {
	Driver string `json:"driver"`
	// SuppressBetaWarning changes nothing: there is no such warning any more.
	SuppressBetaWarning bool `json:"suppressBetaWarning"`
}

// helmSettingsOf refuses what it does not know: Helm's plugins and its files on the operator's machine are not used.
func helmSettingsOf(config property.Map) (helmSettings, error) {
	var parsed helmSettings

	content := []byte(plugins.TextOf(config, "helmReleaseSettings"))
	if v := config.Get("helmReleaseSettings"); v.IsMap() {
		if v.HasComputed() {
			return parsed, nil
		}

		content, _ = json.Marshal(plain(v)) // plain values always marshal
	}

	if len(content) > 0 {
		decoder := json.NewDecoder(bytes.NewReader(content))
		decoder.DisallowUnknownFields()

		if err := decoder.Decode(&parsed); err != nil {
			return helmSettings{}, fmt.Errorf("helmReleaseSettings: %w; the lab's stand-in of the kubernetes plugin serves driver", err)
		}
	}

	if parsed.Driver == "" {
		parsed.Driver = os.Getenv("PULUMI_K8S_HELM_DRIVER")
	}

	if !slices.Contains([]string{"", "secret", "secrets", "configmap", "configmaps"}, parsed.Driver) {
		return helmSettings{}, fmt.Errorf("helmReleaseSettings: driver %q is not served by the lab's stand-in of the kubernetes plugin; it serves secret and configmap", parsed.Driver)
	}

	return parsed, nil
}

func (s *server) configure(ctx context.Context, r p.ConfigureRequest) error {
	connected, err := connect(ctx, r.Args)
	if err != nil {
		return err
	}

	s.mu.Lock()
	defer s.mu.Unlock()

	s.cluster = connected

	return nil
}
