package kubernetesplugin

// Layer: the life of one Kubernetes object, by server-side apply.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"

	"platform.lab/lab/internal/plugins"
)

// objects serves one kind of object.
type objects struct {
	cluster *cluster
	kind    objectKind
}

// check names a nameless object, puts it into the provider's namespace, and refuses inputs that are of another kind
// than the token.
func (o objects) check(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	object := o.kind.objectOf(r.Inputs)

	if got := object.GroupVersionKind(); got != o.kind.GroupVersionKind {
		return p.CheckResponse{Inputs: r.Inputs, Failures: []p.CheckFailure{{Property: "kind", Reason: fmt.Sprintf(
			"apiVersion %q and kind %q do not fit the resource's type, which is %s %s", object.GetAPIVersion(), object.GetKind(), o.kind.GroupVersion(), o.kind.Kind)}}}, nil
	}

	if o.kind.patch {
		if object.GetName() == "" {
			return p.CheckResponse{Inputs: r.Inputs, Failures: []p.CheckFailure{{Property: "metadata.name", Reason: "a Patch resource needs the name of the object to patch"}}}, nil
		}
	} else if err := autoname(object, o.kind.objectOf(r.State), r.Urn); err != nil {
		return p.CheckResponse{}, err
	}

	if o.cluster.namespace != "" && object.GetNamespace() == "" && o.cluster.namespaced(o.kind.GroupVersionKind) {
		object.SetNamespace(o.cluster.namespace)
	}

	return p.CheckResponse{Inputs: withMetadata(r.Inputs, object)}, nil
}

// withMetadata takes over what check decided: kind, version, name, namespace and annotations. What a Secret holds is
// secret, whether or not the program said so.
func withMetadata(inputs property.Map, object *unstructured.Unstructured) property.Map {
	metadata := markLike(propertyOf(object.Object["metadata"]).AsMap(), mapOf(inputs, "metadata"))

	checked := inputs.
		Set("apiVersion", property.New(object.GetAPIVersion())).
		Set("kind", property.New(object.GetKind())).
		Set("metadata", property.New(metadata).WithSecret(inputs.Get("metadata").Secret()))

	return markLike(checked, property.Map{})
}

func mapOf(values property.Map, name string) property.Map {
	if v := values.Get(name); v.IsMap() {
		return v.AsMap()
	}

	return property.Map{}
}

func (o objects) create(ctx context.Context, r p.CreateRequest) (p.CreateResponse, error) {
	object := o.kind.objectOf(r.Properties)

	// What the server cannot be asked about yet is previewed as it was given.
	if r.DryRun && (hasUnknown(object.Object) || o.kind.patch || !o.cluster.serves(o.kind.GroupVersionKind)) {
		return p.CreateResponse{Properties: r.Properties}, nil
	}

	if o.cluster.unreachable != nil {
		return p.CreateResponse{}, o.cluster.errUnreachable()
	}

	manager, err := fieldManager(object, property.Map{})
	if err != nil {
		return p.CreateResponse{}, err
	}

	live, err := o.patientMake(ctx, object, manager, r.DryRun)
	if err != nil {
		if r.DryRun && previewable(err) {
			return p.CreateResponse{Properties: r.Properties}, nil
		}

		return p.CreateResponse{}, o.creationError(r.Urn, err)
	}

	if r.DryRun {
		unstructured.RemoveNestedField(live.Object, "status")

		return p.CreateResponse{Properties: o.outputs(live, r.Properties, manager)}, nil
	}

	live, awaitErr := o.awaitReady(ctx, live, object, r.Timeout)
	response := p.CreateResponse{ID: idOf(live), Properties: o.outputs(live, r.Properties, manager)}

	if awaitErr != nil {
		response.PartialState = &p.InitializationFailed{Reasons: []string{awaitErr.Error()}}

		return response, fmt.Errorf("resource %q was successfully created, but the Kubernetes API server "+
			"reported that it failed to fully initialize or become live: %w", r.Urn, awaitErr)
	}

	if o.kind.Group == "apiextensions.k8s.io" {
		o.cluster.mapper.Reset()
	}

	return response, nil
}

func (o objects) outputs(live *unstructured.Unstructured, inputs property.Map, manager string) property.Map {
	return outputsOf(live, inputs, manager, o.kind.GroupVersion().String())
}

// creationRetries are the published plugin's (pkg/await, pkg/retry): five more tries, after 1, 2, 4, 8 and 16 seconds.
var creationRetries = wait.Backoff{Duration: time.Second, Factor: 2, Steps: 6}

// patientMake tries again while the server does not know the kind or the namespace: an API server behind the VIP may
// learn of a definition a moment after its neighbour that took it.
func (o objects) patientMake(ctx context.Context, object *unstructured.Unstructured, manager string, dryRun bool) (*unstructured.Unstructured, error) {
	if dryRun {
		return o.make(ctx, object, manager, dryRun)
	}

	var (
		live *unstructured.Unstructured
		last error
	)

	err := wait.ExponentialBackoffWithContext(ctx, creationRetries, func(ctx context.Context) (bool, error) {
		live, last = o.make(ctx, object, manager, dryRun)
		if meta.IsNoMatchError(last) || apierrors.IsNotFound(last) {
			return false, nil
		}

		return true, last
	})
	if wait.Interrupted(err) {
		return nil, last
	}

	return live, err
}

// make applies an object that must not exist yet. A Patch and a provider with upsertExistingObjects take what is there.
func (o objects) make(ctx context.Context, object *unstructured.Unstructured, manager string, dryRun bool) (*unstructured.Unstructured, error) {
	client, err := o.cluster.resource(object)
	if err != nil {
		return nil, err
	}

	if object.GetName() == "" {
		return client.Create(ctx, object, metav1.CreateOptions{FieldManager: manager, DryRun: dryRunOption(dryRun)})
	}

	if !o.kind.patch && !o.cluster.upsert {
		if _, err := client.Get(ctx, object.GetName(), metav1.GetOptions{}); err == nil {
			return nil, apierrors.NewAlreadyExists(o.groupResource(), object.GetName())
		} else if !apierrors.IsNotFound(err) {
			return nil, err
		}
	}

	return o.apply(ctx, client, object, manager, dryRun)
}

func (o objects) groupResource() schema.GroupResource {
	if found, err := o.cluster.mapping(o.kind.GroupVersionKind); err == nil {
		return found.Resource.GroupResource()
	}

	return schema.GroupResource{Group: o.kind.Group, Resource: strings.ToLower(o.kind.Kind)}
}

func (o objects) apply(ctx context.Context, client dynamic.ResourceInterface, object *unstructured.Unstructured, manager string, dryRun bool) (*unstructured.Unstructured, error) {
	force := annotated(object, patchForceAnnotation) || o.cluster.patchForce

	content, err := json.Marshal(object.Object)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
	}

	live, err := client.Patch(ctx, object.GetName(), types.ApplyPatchType, content, metav1.PatchOptions{
		FieldManager:    manager,
		Force:           &force,
		DryRun:          dryRunOption(dryRun),
		FieldValidation: metav1.FieldValidationStrict,
	})
	if apierrors.IsConflict(err) {
		return nil, fmt.Errorf("Server-Side Apply field conflict detected: another field manager owns a field of this resource; "+
			"to take it over, set the annotation %s: \"true\" on the resource: %w", patchForceAnnotation, err)
	}

	return live, err
}

func dryRunOption(dryRun bool) []string {
	if dryRun {
		return []string{metav1.DryRunAll}
	}

	return nil
}

// previewable tells whether an error of a dry run may be no error by the time of the real one: a namespace that this
// run makes, a right that it grants, an object that it removes.
func previewable(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) ||
		apierrors.IsBadRequest(err) && strings.Contains(err.Error(), "does not support dry run")
}

func (o objects) creationError(urn resource.URN, err error) error {
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("creation of resource %q with kind %s/%s failed because the Kubernetes API server reported that the "+
			"apiVersion for this resource does not exist. Verify that any required CRDs have been created: %w",
			urn, o.kind.GroupVersion(), o.kind.Kind, err)
	}

	return fmt.Errorf("resource %q was not successfully created by the Kubernetes API server: %w", urn, err)
}

// fieldManager is the annotation's, the state's, or a new name: pulumi-kubernetes- and eight hex digits.
func fieldManager(object *unstructured.Unstructured, state property.Map) (string, error) {
	if name := annotation(object, fieldManagerAnnotation); name != "" {
		return name, nil
	}

	if name := plugins.TextOf(state, fieldManagerKey); name != "" {
		return name, nil
	}

	return resource.NewUniqueName(nil, "pulumi-kubernetes-", 0, 0, nil)
}

// read refreshes a resource, or finds one by its id. Declared fields come back as the server has them now.
func (o objects) read(ctx context.Context, r p.ReadRequest) (p.ReadResponse, error) {
	if o.cluster.unreachable != nil {
		return o.cluster.readUnreachable(ctx, r)
	}

	live, err := o.find(ctx, r)
	if err != nil {
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return p.ReadResponse{}, nil
		}

		return p.ReadResponse{}, err
	}

	inputs := o.liveInputs(live, r.Inputs)

	manager, err := fieldManager(live, r.Properties)
	if err != nil {
		return p.ReadResponse{}, err
	}

	return p.ReadResponse{ID: r.ID, Inputs: inputs, Properties: o.outputs(live, inputs, manager)}, nil
}

func (o objects) find(ctx context.Context, r p.ReadRequest) (*unstructured.Unstructured, error) {
	namespace, name := parseID(r.ID)
	if name == "" {
		return nil, fmt.Errorf("failed to read resource because of a failure to parse resource name from request ID: %q; it is namespace/name or name", r.ID)
	}

	object := o.kind.objectOf(property.Map{})
	object.SetNamespace(namespace)

	client, err := o.cluster.resource(object)
	if err != nil {
		return nil, err
	}

	return client.Get(ctx, name, metav1.GetOptions{})
}

// liveInputs are the declared fields with their live values; without a declaration all but what only the server sets.
func (o objects) liveInputs(live *unstructured.Unstructured, declared property.Map) property.Map {
	if declared.Len() > 0 {
		shape := normalized(o.kind.objectOf(declared))

		return markLike(propertyOf(prune(normalized(live).Object, shape.Object)).AsMap(), declared)
	}

	inputs := normalized(live)
	unstructured.RemoveNestedField(inputs.Object, "status")
	unstructured.RemoveNestedField(inputs.Object, "metadata", "annotations", "deployment.kubernetes.io/revision")
	unstructured.RemoveNestedField(inputs.Object, "metadata", "annotations", lastAppliedAnnotation)

	return markLike(propertyOf(inputs.Object).AsMap(), property.Map{})
}

func (o objects) update(ctx context.Context, r p.UpdateRequest) (p.UpdateResponse, error) {
	object := o.kind.objectOf(r.Inputs)

	if r.DryRun && (hasUnknown(object.Object) || !o.cluster.serves(o.kind.GroupVersionKind)) {
		return p.UpdateResponse{Properties: r.Inputs}, nil
	}

	if o.cluster.unreachable != nil {
		return p.UpdateResponse{}, o.cluster.errUnreachable()
	}

	manager, err := fieldManager(object, r.State)
	if err != nil {
		return p.UpdateResponse{}, err
	}

	// An object that the server named keeps its name.
	if object.GetName() == "" {
		object.SetName(o.kind.objectOf(r.State).GetName())
	}

	client, err := o.cluster.resource(object)
	if err != nil {
		return p.UpdateResponse{}, fmt.Errorf("update of resource %q failed because the Kubernetes API server reported that the apiVersion "+
			"for this resource does not exist. Verify that any required CRDs have been created: %w", r.Urn, err)
	}

	live, err := o.apply(ctx, client, object, manager, r.DryRun)
	if err != nil {
		if r.DryRun && previewable(err) {
			return p.UpdateResponse{Properties: r.Inputs}, nil
		}

		return p.UpdateResponse{}, fmt.Errorf("update of resource %q failed: %w", r.Urn, err)
	}

	if r.DryRun {
		return p.UpdateResponse{Properties: o.outputs(live, r.Inputs, manager)}, nil
	}

	live, awaitErr := o.awaitReady(ctx, live, object, r.Timeout)
	response := p.UpdateResponse{Properties: o.outputs(live, r.Inputs, manager)}

	if awaitErr != nil {
		response.PartialState = &p.InitializationFailed{Reasons: []string{awaitErr.Error()}}

		return response, fmt.Errorf("the Kubernetes API server reported that %q failed to fully initialize or become live: %w", idOf(live), awaitErr)
	}

	return response, nil
}

// delete removes an object and waits until it is gone. A Patch only gives up the fields that it set.
func (o objects) delete(ctx context.Context, r p.DeleteRequest) error {
	if o.cluster.unreachable != nil {
		if o.cluster.deleteUnreachable {
			p.GetLogger(ctx).Infof("configured Kubernetes cluster is unreachable and the `deleteUnreachable` option is enabled. " +
				"Deleting the unreachable resource from Pulumi state")

			return nil
		}

		return errors.New("configured Kubernetes cluster is unreachable. If the cluster was deleted, you can remove this resource from Pulumi " +
			"state by rerunning the operation with the PULUMI_K8S_DELETE_UNREACHABLE environment variable set to \"true\"")
	}

	object := o.kind.objectOf(r.Properties)
	if namespace, name := parseID(r.ID); name != "" {
		object.SetName(name)
		object.SetNamespace(namespace)
	}

	client, err := o.cluster.resource(object)
	if meta.IsNoMatchError(err) {
		return nil
	}

	if err != nil {
		return err
	}

	if o.kind.patch {
		return o.relinquish(ctx, client, object, plugins.TextOf(r.Properties, fieldManagerKey))
	}

	policy := metav1.DeletePropagationForeground
	if wanted := annotation(object, propagationAnnotation); wanted != "" {
		policy = metav1.DeletionPropagation(wanted)
	}

	err = client.Delete(ctx, object.GetName(), metav1.DeleteOptions{PropagationPolicy: &policy})
	if apierrors.IsNotFound(err) {
		return nil
	}

	if err != nil || annotated(object, skipAwaitAnnotation) {
		return err
	}

	return o.awaitGone(ctx, client, object, r.Timeout)
}

// relinquish applies nothing under the field manager's name: the server then takes away the fields that only it owned.
func (o objects) relinquish(ctx context.Context, client dynamic.ResourceInterface, object *unstructured.Unstructured, manager string) error {
	if manager == "" {
		return nil
	}

	empty := o.kind.objectOf(property.Map{})
	empty.SetName(object.GetName())
	empty.SetNamespace(object.GetNamespace())

	if _, err := client.Get(ctx, object.GetName(), metav1.GetOptions{}); apierrors.IsNotFound(err) {
		return nil
	}

	_, err := o.apply(ctx, client, empty, manager, false)

	return err
}
