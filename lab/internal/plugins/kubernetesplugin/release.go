package kubernetesplugin

// Layer: the life of one Helm release, by Helm's SDK.

import (
	"context"
	"errors"
	"fmt"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"

	"platform.lab/lab/internal/plugins"
)

// releases serves kubernetes:helm.sh/v3:Release.
type releases struct {
	cluster *cluster
	charts  *charts
}

// check fills in the defaults and loads the chart, whose exact version becomes an input. So every preview needs the
// repository, changed or not, as with the published plugin. Values that break the chart's schema are refused here,
// before there is a cluster.
func (h releases) check(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	inputs, failures := normalizeRelease(r.Inputs, h.cluster.namespace)

	inputs, err := nameRelease(inputs, r.State, r.Urn)
	if err != nil {
		return p.CheckResponse{}, err
	}

	if len(failures) > 0 || property.New(inputs).HasComputed() {
		return p.CheckResponse{Inputs: inputs, Failures: failures}, nil
	}

	in := releaseInputs{inputs}

	if in.text("chart") == "" {
		return p.CheckResponse{Inputs: inputs, Failures: []p.CheckFailure{{Property: "chart", Reason: `a Helm release needs a "chart": a name in repositoryOpts.repo, or a path`}}}, nil
	}

	loaded, err := h.charts.load(in.source())
	if err != nil {
		failures = append(failures, p.CheckFailure{Property: "chart", Reason: fmt.Sprintf("%v; check the chart name and repository configuration.", redacted(err, inputs))})

		return p.CheckResponse{Inputs: inputs, Failures: failures}, nil
	}

	inputs = inputs.Set("version", property.New(loaded.Metadata.Version).WithSecret(inputs.Get("version").Secret()))

	// Values to be laid over those of the last release are not whole yet.
	if !in.flag("reuseValues") {
		if err := checkValues(loaded, in.values()); err != nil {
			failures = append(failures, p.CheckFailure{Property: "values", Reason: redacted(err, inputs).Error()})
		}
	}

	return p.CheckResponse{Inputs: inputs, Failures: failures}, nil
}

func (h releases) create(ctx context.Context, r p.CreateRequest) (p.CreateResponse, error) {
	in := releaseInputs{r.Properties}

	if r.DryRun {
		if err := h.preview(ctx, in, nil); err != nil {
			return p.CreateResponse{}, redacted(err, r.Properties)
		}

		return p.CreateResponse{Properties: previewed(r.Properties)}, nil
	}

	if h.cluster.unreachable != nil {
		return p.CreateResponse{}, fmt.Errorf("can't create Helm Release with unreachable cluster: %w", h.cluster.unreachable)
	}

	configuration, err := h.cluster.helm(in.text("namespace"))
	if err != nil {
		return p.CreateResponse{}, err
	}

	made, err := h.install(ctx, configuration, in, r.Timeout)
	if err == nil {
		outputs, err := outputsOfRelease(r.Properties, r.Properties, made)

		return p.CreateResponse{ID: in.id(), Properties: outputs}, err
	}

	err = redacted(err, r.Properties)

	// A release that failed and is still there is kept in the state: the next run upgrades it.
	if made == nil || !recorded(configuration, in.text("name")) {
		return p.CreateResponse{}, err
	}

	p.GetLogger(ctx).Warningf("Helm release %q was created but has a failed status. Use the `helm` command to investigate the error, correct it, then retry. Reason: %v",
		in.text("name"), err)

	outputs, outputsErr := outputsOfRelease(r.Properties, r.Properties, made)
	err = fmt.Errorf("Helm release %q was created, but failed to initialize completely. Use Helm CLI to investigate: %w", in.id(), failedRelease(in, err)) //nolint:staticcheck // the published plugin's own words

	return p.CreateResponse{
		ID: in.id(), Properties: outputs, PartialState: &p.InitializationFailed{Reasons: []string{err.Error()}},
	}, errors.Join(err, outputsErr)
}

func failedRelease(in releaseInputs, err error) error {
	return fmt.Errorf("failed to become available within allocated timeout. Error: Helm Release %s: %w", in.id(), err)
}

func recorded(configuration *action.Configuration, name string) bool {
	_, err := action.NewGet(configuration).Run(name)

	return err == nil
}

func (h releases) install(ctx context.Context, configuration *action.Configuration, in releaseInputs, timeout float64) (*release.Release, error) {
	loaded, err := h.charts.load(in.source())
	if err != nil {
		return nil, err
	}

	client := action.NewInstall(configuration)
	client.Namespace = in.text("namespace")
	client.ReleaseName = in.text("name")
	client.CreateNamespace = in.flag("createNamespace")
	client.Atomic = in.flag("atomic")
	client.Wait = in.wait()
	client.WaitForJobs = in.wait() && in.flag("waitForJobs")
	client.Timeout = in.timeout(timeout)
	client.Description = in.text("description")
	client.Devel = in.flag("devel")
	client.DisableHooks = in.flag("disableWebhooks")
	client.DisableOpenAPIValidation = in.flag("disableOpenapiValidation")
	client.Replace = in.flag("replace")
	client.SkipCRDs = in.flag("skipCrds")
	client.SubNotes = in.flag("renderSubchartNotes")
	client.TakeOwnership = in.flag("takeOwnership")

	return client.RunWithContext(ctx, loaded, in.values())
}

func (h releases) update(ctx context.Context, r p.UpdateRequest) (p.UpdateResponse, error) {
	in := releaseInputs{r.Inputs}

	if r.DryRun {
		if err := h.previewUpgrade(ctx, in); err != nil {
			return p.UpdateResponse{}, redacted(err, r.Inputs)
		}

		return p.UpdateResponse{Properties: previewed(r.Inputs)}, nil
	}

	if h.cluster.unreachable != nil {
		return p.UpdateResponse{}, fmt.Errorf("can't update Helm Release with unreachable cluster: %w", h.cluster.unreachable)
	}

	configuration, err := h.cluster.helm(in.text("namespace"))
	if err != nil {
		return p.UpdateResponse{}, err
	}

	made, err := h.upgrade(ctx, configuration, in, r.Timeout)
	if err == nil {
		outputs, err := outputsOfRelease(r.Inputs, r.Inputs, made)

		return p.UpdateResponse{Properties: outputs}, err
	}

	none := made == nil || errors.Is(err, driver.ErrNoDeployedReleases)
	err = redacted(err, r.Inputs)

	if none {
		return p.UpdateResponse{}, err
	}

	outputs, outputsErr := outputsOfRelease(r.Inputs, r.Inputs, made)
	err = fmt.Errorf("Helm release %q failed to initialize completely. Use Helm CLI to investigate: error running update: %w", in.id(), failedRelease(in, err)) //nolint:staticcheck // the published plugin's own words

	return p.UpdateResponse{
		Properties: outputs, PartialState: &p.InitializationFailed{Reasons: []string{err.Error()}},
	}, errors.Join(err, outputsErr)
}

func (h releases) upgrade(ctx context.Context, configuration *action.Configuration, in releaseInputs, timeout float64) (*release.Release, error) {
	loaded, err := h.charts.load(in.source())
	if err != nil {
		return nil, err
	}

	values := in.values()

	if in.flag("lint") {
		if err := h.charts.lint(in.source(), values); err != nil {
			return nil, err
		}
	}

	client := action.NewUpgrade(configuration)
	client.Namespace = in.text("namespace")
	client.Atomic = in.flag("atomic")
	client.CleanupOnFail = in.flag("cleanupOnFail")
	client.Wait = in.wait()
	client.WaitForJobs = in.wait() && in.flag("waitForJobs")
	client.Timeout = in.timeout(timeout)
	client.Description = in.text("description")
	client.Devel = in.flag("devel")
	// The published plugin looks at the one switch for installs and at the other for upgrades.
	client.DisableHooks = in.flag("disableCRDHooks")
	client.DisableOpenAPIValidation = in.flag("disableOpenapiValidation")
	client.Force = in.flag("forceUpdate")
	client.MaxHistory = int(in.number("maxHistory"))
	client.Recreate = in.flag("recreatePods")
	client.ResetValues = in.flag("resetValues")
	client.ReuseValues = in.flag("reuseValues")
	client.SubNotes = in.flag("renderSubchartNotes")
	client.TakeOwnership = in.flag("takeOwnership")

	return client.RunWithContext(ctx, in.text("name"), loaded, values)
}

// read takes values, version and status over from Helm's last record, as the published plugin does: also those of a
// revision that is still pending, or failed. The program's inputs stay as they were.
func (h releases) read(ctx context.Context, r p.ReadRequest) (p.ReadResponse, error) {
	if h.cluster.unreachable != nil {
		return h.cluster.readUnreachable(ctx, r)
	}

	state := releaseInputs{r.Properties}
	namespace, name := state.text("namespace"), state.text("name")

	if name == "" {
		if namespace, name = parseID(r.ID); name == "" {
			return p.ReadResponse{}, fmt.Errorf("a Helm release has no id %q; it is namespace/name", r.ID)
		}

		if namespace == "" {
			namespace = canonicalNamespace(h.cluster.namespace)
		}
	}

	configuration, err := h.cluster.helm(namespace)
	if err != nil {
		return p.ReadResponse{}, err
	}

	live, err := action.NewGet(configuration).Run(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return p.ReadResponse{}, nil
	}

	if err != nil {
		return p.ReadResponse{}, err
	}

	inputs := r.Inputs
	if inputs.Len() == 0 {
		if inputs, err = importedInputs(live); err != nil {
			return p.ReadResponse{}, err
		}
	}

	before := r.Properties
	if before.Len() == 0 {
		before = inputs
	}

	outputs, err := outputsOfRelease(before, inputs, live)

	return p.ReadResponse{ID: r.ID, Inputs: inputs, Properties: outputs}, err
}

// delete uninstalls. Without a cluster it fails whatever the provider's switches say, as with the published plugin.
func (h releases) delete(ctx context.Context, r p.DeleteRequest) error {
	state := releaseInputs{r.Properties}

	if h.cluster.unreachable != nil {
		return fmt.Errorf("Kubernetes cluster unreachable: %w. A Helm release cannot be uninstalled without its cluster; if that is gone for good, "+ //nolint:staticcheck // Helm's own words
			"declare the release with deletedWith (what takes the cluster away), or remove it from the state with `pulumi state delete`", h.cluster.unreachable)
	}

	configuration, err := h.cluster.helm(state.text("namespace"))
	if err != nil {
		return err
	}

	client := action.NewUninstall(configuration)
	client.Wait = state.wait()
	client.Timeout = state.timeout(r.Timeout)

	// Helm's uninstall takes no context: when the engine cancels, it is left on its way and can be repeated.
	done := make(chan error, 1)

	go func() {
		response, err := client.Run(state.text("name"))
		if err == nil && response != nil && response.Info != "" {
			p.GetLogger(ctx).Warningf("Helm uninstall returned information: %q", response.Info)
		}

		done <- err
	}()

	select {
	case err = <-done:
	case <-ctx.Done():
		return fmt.Errorf("uninstalling Helm release %s: %w; the next destroy goes on", state.id(), ctx.Err())
	}

	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil
	}

	return redacted(err, r.OldInputs)
}

// diff compares the inputs, never what the chart renders: the old ones as the state has them now, so that drift which
// a refresh brought in shows.
func (h releases) diff(_ context.Context, r p.DiffRequest) (p.DiffResponse, error) {
	original, current, wanted := declared(r.OldInputs), declared(r.State), declared(r.Inputs)

	// The engine applies ignoreChanges to the inputs; of the state, the published plugin ignores only the version's.
	for _, path := range r.IgnoreChanges {
		if path == "version" {
			wanted[path] = current[path]
		}
	}

	changes := map[string]p.PropertyDiff{}
	compareThreeWay("", original, current, wanted, changes)

	for _, path := range []string{"name", "namespace"} {
		if change, ok := changes[path]; ok {
			changes[path] = p.PropertyDiff{Kind: plugins.Replacing(change.Kind), InputDiff: true}
		}
	}

	return p.DiffResponse{HasChanges: len(changes) > 0, DetailedDiff: changes}, nil
}

// declared are the inputs among a release's properties.
func declared(properties property.Map) map[string]any {
	result := map[string]any{}

	for name, value := range properties.All {
		if _, known := releaseInputKinds[name]; known && !value.IsNull() {
			result[name] = helmValue(value)
		}
	}

	return result
}

// compareThreeWay writes to changes what takes the current state to the wanted one: additions and updates against the
// current state, removals of what was declared and is no more. What somebody else added stays.
func compareThreeWay(path string, original, current, wanted map[string]any, changes map[string]p.PropertyDiff) {
	for name := range union(original, wanted) {
		key := joinKey(path, name)
		was, now := current[name], wanted[name]

		if _, wants := wanted[name]; !wants {
			if !empty(original[name]) {
				changes[key] = p.PropertyDiff{Kind: p.Delete, InputDiff: true}
			}

			continue
		}

		wasMap, isWasMap := was.(map[string]any)
		nowMap, isNowMap := now.(map[string]any)

		if isWasMap && isNowMap {
			originalMap, _ := original[name].(map[string]any)
			compareThreeWay(key, originalMap, wasMap, nowMap, changes)
		} else if !empty(was) || !empty(now) {
			compare(key, was, now, changes)
		}
	}
}

// empty tells whether a value is absent or an empty map: Helm's record makes no difference.
func empty(value any) bool {
	m, isMap := value.(map[string]any)

	return value == nil || isMap && len(m) == 0
}
