package kubernetesplugin

// Layer: the preview of a release. The chart is rendered with what the cluster is, and the server is asked, in dry
// runs of Helm's own calls, whether it would take each object. The published plugin does not do this: it only sees in
// the real run what is refused here.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube"
	kubefake "helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// questionsAtOnce is how many objects the server is asked about at the same time.
const questionsAtOnce = 6

// previewUpgrade previews against the last revision that was deployed. A pending one is no reason to refuse: what
// fixes it runs before the real upgrade.
func (h releases) previewUpgrade(ctx context.Context, in releaseInputs) error {
	if h.cluster.unreachable != nil {
		return nil //nolint:nilerr // previews must work without a cluster
	}

	configuration, err := h.cluster.helm(in.text("namespace"))
	if err != nil {
		return err
	}

	deployed, err := configuration.Releases.Deployed(in.text("name"))
	if errors.Is(err, driver.ErrNoDeployedReleases) || errors.Is(err, driver.ErrReleaseNotFound) {
		// The first revision failed: its record says what it made.
		deployed, err = configuration.Releases.Last(in.text("name"))
		if errors.Is(err, driver.ErrReleaseNotFound) {
			return h.preview(ctx, in, nil)
		}
	}

	if err != nil {
		return err
	}

	return h.preview(ctx, in, deployed)
}

// preview refuses what the install, or the upgrade of a release, would be refused for. What may be otherwise by then
// passes: namespaces and kinds that are not there yet, rights, webhooks that do not answer.
func (h releases) preview(ctx context.Context, in releaseInputs, before *release.Release) error {
	if h.cluster.unreachable != nil || property.New(in.Map).HasComputed() {
		return nil //nolint:nilerr // previews must work without a cluster
	}

	loaded, err := h.charts.load(in.source())
	if err != nil {
		return err
	}

	if in.flag("lint") {
		if err := h.charts.lint(in.source(), in.values()); err != nil {
			return err
		}
	}

	rendered, err := h.render(ctx, in, loaded, before)
	if err != nil {
		return fmt.Errorf("preview of Helm release %s: %w", in.id(), err)
	}

	ask := asked{
		cluster: h.cluster, client: h.cluster.dryClient(in.text("namespace")), name: in.text("name"), namespace: in.text("namespace"),
		own: in.flag("takeOwnership"), force: in.flag("forceUpdate"),
	}

	if before != nil {
		if ask.before, err = ask.build(before.Manifest); err != nil {
			return err
		}
	} else if !in.flag("skipCrds") {
		for _, file := range loaded.CRDObjects() {
			ask.definitions = append(ask.definitions, documents(string(file.File.Data))...)
		}
	}

	if err := ask.all(ctx, rendered, hooksOf(in, before)); err != nil {
		return fmt.Errorf("preview of Helm release %s: %w", in.id(), err)
	}

	return nil
}

// hooksOf are the events whose hooks run.
func hooksOf(in releaseInputs, before *release.Release) []release.HookEvent {
	switch {
	case before == nil && !in.flag("disableWebhooks"):
		return []release.HookEvent{release.HookPreInstall, release.HookPostInstall}
	case before != nil && !in.flag("disableCRDHooks"):
		return []release.HookEvent{release.HookPreUpgrade, release.HookPostUpgrade}
	}

	return nil
}

// render renders as Helm would in the real run, lookups included.
func (h releases) render(ctx context.Context, in releaseInputs, loaded *chart.Chart, before *release.Release) (*release.Release, error) {
	configuration, err := h.cluster.helm(in.text("namespace"))
	if err != nil {
		return nil, err
	}

	var definitions []chart.CRD
	if !in.flag("skipCrds") {
		definitions = loaded.CRDObjects()
	}

	if configuration.Capabilities, err = h.cluster.capabilities(definitions); err != nil {
		return nil, err
	}

	// Objects are built below, one by one: here, one of a kind that does not exist yet would end the rendering.
	configuration.KubeClient = &kubefake.PrintingKubeClient{Out: io.Discard, LogOutput: io.Discard}

	values, err := reused(in, loaded, before)
	if err != nil {
		return nil, err
	}

	client := action.NewInstall(configuration)
	client.DryRun = true
	client.DryRunOption = "server"
	client.IsUpgrade = before != nil
	client.Namespace = in.text("namespace")
	client.ReleaseName = in.text("name")
	client.SubNotes = in.flag("renderSubchartNotes")

	return client.RunWithContext(ctx, loaded, values)
}

// reused are the values of an upgrade, by Helm's rules: without any, the old ones; with reuseValues, the new ones over
// the old ones.
func reused(in releaseInputs, loaded *chart.Chart, before *release.Release) (map[string]any, error) {
	values := in.values()

	switch {
	case before == nil || in.flag("resetValues"):
	case in.flag("reuseValues"):
		old, err := chartutil.CoalesceValues(before.Chart, before.Config)
		if err != nil {
			return nil, err
		}

		values = chartutil.CoalesceTables(values, before.Config)
		loaded.Values = old
	case len(values) == 0 && len(before.Config) > 0:
		values = before.Config
	}

	return values, nil
}

// asked is a release that the server is asked about.
type asked struct {
	cluster         *cluster
	client          *kube.Client
	name, namespace string
	own, force      bool
	// before are the objects that the release has now.
	before kube.ResourceList
	// definitions are those of the chart's crds/; the ones that are there already are left alone.
	definitions []string
}

// build finds a manifest's objects at the server; those of kinds that it does not know are left out.
func (a asked) build(manifest string) (kube.ResourceList, error) {
	var all kube.ResourceList

	for _, document := range documents(manifest) {
		built, err := a.buildOne(document)
		if err != nil {
			return nil, err
		}

		all = append(all, built...)
	}

	return all, nil
}

func (a asked) buildOne(document string) (kube.ResourceList, error) {
	object, err := parseDocument(document)
	if err != nil || object == nil {
		return nil, err
	}

	if _, err := a.cluster.mapping(object.GroupVersionKind()); meta.IsNoMatchError(err) {
		return nil, nil
	}

	return a.client.Build(strings.NewReader(document), false)
}

// all asks about the chart's definitions, its objects and its hooks, and returns every refusal.
func (a asked) all(ctx context.Context, rendered *release.Release, events []release.HookEvent) error {
	// Helm sends objects in the order of their kinds.
	_, sorted, err := releaseutil.SortManifests(releaseutil.SplitManifests(rendered.Manifest), nil, releaseutil.InstallOrder)
	if err != nil {
		return err
	}

	type question struct {
		document string
		put      func(kube.ResourceList) error
	}

	var questions []question
	for _, document := range a.definitions {
		questions = append(questions, question{document, a.create})
	}

	for _, manifest := range sorted {
		questions = append(questions, question{manifest.Content, a.put})
	}

	for _, hook := range rendered.Hooks {
		if slices.ContainsFunc(hook.Events, func(event release.HookEvent) bool { return slices.Contains(events, event) }) {
			questions = append(questions, question{hook.Manifest, a.create})
		}
	}

	refusals := make([]error, len(questions))
	free := make(chan struct{}, questionsAtOnce)

	var group sync.WaitGroup

	for i, q := range questions {
		if ctx.Err() != nil {
			break
		}

		free <- struct{}{}

		group.Go(func() {
			defer func() { <-free }()

			refusals[i] = a.ask(q.document, q.put)
		})
	}

	group.Wait()

	return errors.Join(append(refusals, ctx.Err())...)
}

func (a asked) ask(document string, put func(kube.ResourceList) error) error {
	built, err := a.buildOne(document)
	if err != nil || len(built) == 0 {
		return err
	}

	object := built[0]

	if err := put(built); err != nil && !previewable(err) && !webhookDown(err) {
		return fmt.Errorf("%s %q in namespace %q: %w", object.Mapping.GroupVersionKind.Kind, object.Name, object.Namespace, single(err))
	}

	return nil
}

// single takes one error out of the list in which Helm returns it.
func single(err error) error {
	var list interface{ WrappedErrors() []error }
	if errors.As(err, &list) && len(list.WrappedErrors()) == 1 {
		return list.WrappedErrors()[0]
	}

	return err
}

// create asks about objects that Helm only makes: hooks are removed before they are made again.
func (a asked) create(objects kube.ResourceList) error {
	_, err := a.client.Create(objects)

	return err
}

// put asks about an object of the manifest: it is patched when the release has it, made when nobody has it, and taken
// over when it carries the release's marks.
func (a asked) put(objects kube.ResourceList) error {
	if known := a.before.Intersect(objects); len(known) > 0 {
		_, err := a.client.Update(known, objects, a.force)

		return err
	}

	err := a.create(objects)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}

	if err := objects[0].Get(); err != nil {
		return err
	}

	if live, ok := objects[0].Object.(*unstructured.Unstructured); ok && !a.own {
		return a.owned(live)
	}

	return nil
}

// errNotOwned is Helm's own refusal to take over an object.
var errNotOwned = errors.New("exists and cannot be imported into the current release: invalid ownership metadata")

// owned tells whether an object carries the marks by which Helm takes it for the release's own.
func (a asked) owned(live *unstructured.Unstructured) error {
	for name, want := range map[string]string{"meta.helm.sh/release-name": a.name, "meta.helm.sh/release-namespace": a.namespace} {
		if got := annotation(live, name); got != want {
			return fmt.Errorf("%w: annotation %q must be %q, is %q; remove the object, or set takeOwnership", errNotOwned, name, want, got)
		}
	}

	if got := live.GetLabels()["app.kubernetes.io/managed-by"]; got != "Helm" {
		return fmt.Errorf(`%w: label "app.kubernetes.io/managed-by" must be "Helm", is %q; remove the object, or set takeOwnership`, errNotOwned, got)
	}

	return nil
}
