// Package talosaccess lets pods reach the machine API: machine.features.kubernetesTalosAPIAccess.
package talosaccess

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"go.etcd.io/etcd/client/v3/concurrency"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/controlplane"
	"platform.lab/lab/internal/machine/etcd"
	"platform.lab/lab/internal/machine/guestnetwork"
	"platform.lab/lab/internal/machine/kubeapi"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/machine/services"
)

// accessInterval is the pace at which the objects of the Talos API access are looked at; Talos watches them.
const accessInterval = 2 * time.Second

var (
	crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

	talosAccounts = schema.GroupVersionResource{
		Group: constants.ServiceAccountResourceGroup, Version: constants.ServiceAccountResourceVersion,
		Resource: constants.ServiceAccountResourcePlural,
	}
)

// access is Talos' API for pods (machine.features.kubernetesTalosAPIAccess): a service "talos" before the
// machine API of the control planes, and credentials for each object of kind ServiceAccount of talos.dev.
// It follows controllers/kubeaccess of Talos 1.13.9, with polling where Talos watches.
type access struct {
	client  kubernetes.Interface
	dynamic dynamic.Interface
	now     func() time.Time
}

// IsEnabled says whether a configuration lets pods reach the machine API.
func IsEnabled(provider config.Provider) bool {
	if provider == nil || provider.Machine() == nil || provider.Machine().Features() == nil {
		return false
	}

	settings := provider.Machine().Features().KubernetesTalosAPIAccess()

	return settings != nil && settings.Enabled()
}

// Machine is what the access needs of its control plane.
type Machine struct {
	*lifetime.Lifetime
	*configuration.Active

	Network      *guestnetwork.Network
	Services     *services.Services
	Etcd         *etcd.Service
	ControlPlane *controlplane.Plane
}

// Run keeps the access while the configuration wants it: on one control plane at a time, the one
// that holds the lock in etcd.
func (m Machine) Run() {
	var last string

	for ; !m.IsStopping(); m.Sleep(accessInterval) {
		if !m.canGive() {
			continue
		}

		err := m.lead()
		if err == nil || errors.Is(err, context.Canceled) {
			continue
		}

		if last != err.Error() {
			m.Log.Warn("Talos API access", "error", err)
		}

		last = err.Error()
	}
}

func (m Machine) canGive() bool {
	return !m.IsStopping() && IsEnabled(m.Provider()) && m.Services.IsUp("etcd") && m.ControlPlane.IsReady(controlplane.APIServer)
}

// lead waits for the lock and then does the work, until the lock is lost or the access is off.
func (m Machine) lead() error {
	ctx, cancel := context.WithCancel(m.Context())
	defer cancel()

	client, err := m.Etcd.Local()
	if err != nil {
		return err
	}
	defer client.Close()

	session, err := concurrency.NewSession(client)
	if err != nil {
		return err
	}
	defer m.Etcd.EndSession(client, session)

	m.Go(func() {
		defer cancel()

		for m.canGive() && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-session.Done():
				return
			case <-time.After(lifetime.Tick):
			}
		}
	})

	if err := concurrency.NewMutex(session, constants.EtcdTalosServiceAccountCRDControllerMutex).Lock(ctx); err != nil {
		return err
	}

	a, err := m.newAccess()
	if err != nil {
		return err
	}

	for ctx.Err() == nil {
		if err := a.sync(ctx, m.Provider()); err != nil {
			return err
		}

		select {
		case <-ctx.Done():
		case <-time.After(accessInterval):
		}
	}

	return nil
}

func (m Machine) newAccess() (*access, error) {
	settings, err := kubeapi.AdminSettings(m.Network.Dial, m.Provider())
	if err != nil {
		return nil, err
	}

	client, err := kubernetes.NewForConfig(settings)
	if err != nil {
		return nil, err
	}

	objects, err := dynamic.NewForConfig(settings)
	if err != nil {
		return nil, err
	}

	return &access{client: client, dynamic: objects, now: time.Now}, nil
}

// sync makes what is missing and answers every ServiceAccount.
func (a *access) sync(ctx context.Context, provider config.Provider) error {
	if err := a.ensureDefinition(ctx); err != nil {
		return err
	}

	if err := a.ensureService(ctx); err != nil {
		return err
	}

	accounts, err := a.dynamic.Resource(talosAccounts).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil // the definition is young
	} else if err != nil {
		return fmt.Errorf("service accounts of Talos: %w", err)
	}

	var problems []error
	for i := range accounts.Items {
		problems = append(problems, a.answer(ctx, provider, &accounts.Items[i]))
	}

	return errors.Join(problems...)
}

// ensureDefinition creates the CRD as Talos' manifest has it (k8stemplates.TalosServiceAccountCRDTemplate).
func (a *access) ensureDefinition(ctx context.Context) error {
	definitions := a.dynamic.Resource(crdResource)
	name := constants.ServiceAccountResourcePlural + "." + constants.ServiceAccountResourceGroup

	if _, err := definitions.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}

	text := map[string]any{"type": "string"}
	object := func(properties map[string]any) map[string]any {
		return map[string]any{"type": "object", "properties": properties}
	}

	_, err := definitions.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"conversion": map[string]any{"strategy": "None"},
			"group":      constants.ServiceAccountResourceGroup,
			"names": map[string]any{
				"kind": constants.ServiceAccountResourceKind, "listKind": constants.ServiceAccountResourceKind + "List",
				"plural": constants.ServiceAccountResourcePlural, "singular": constants.ServiceAccountResourceSingular,
				"shortNames": []any{constants.ServiceAccountResourceShortName},
			},
			"scope": "Namespaced",
			"versions": []any{map[string]any{
				"name": constants.ServiceAccountResourceVersion, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": object(map[string]any{
					"spec":   object(map[string]any{"roles": map[string]any{"type": "array", "items": text}}),
					"status": object(map[string]any{"failureReason": text}),
				})},
			}},
		},
	}}, metav1.CreateOptions{})
	if err := kubeapi.UnlessExists(err); err != nil {
		return fmt.Errorf("definition %s: %w", name, err)
	}

	return nil
}

// ensureService makes the service "talos" without a selector, and its endpoints: the control planes whose API
// servers have registered themselves.
func (a *access) ensureService(ctx context.Context) error {
	const namespace, name = constants.KubernetesTalosAPIServiceNamespace, constants.KubernetesTalosAPIServiceName

	labels := map[string]string{"provider": constants.KubernetesTalosProvider, "component": "apid"}
	services := a.client.CoreV1().Services(namespace)

	if _, err := services.Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{
				Name: "apid", Port: constants.ApidPort, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(constants.ApidPort),
			}}},
		}, metav1.CreateOptions{})
		if err := kubeapi.UnlessExists(err); err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
	} else if err != nil {
		return err
	}

	slicesOf := a.client.DiscoveryV1().EndpointSlices(namespace)

	servers, err := slicesOf.Get(ctx, "kubernetes", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // no API server has registered itself yet
	} else if err != nil {
		return err
	}

	port, portName, protocol, yes, no := int32(constants.ApidPort), "apid", corev1.ProtocolTCP, true, false
	wanted := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-ipv4", Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
	}

	for key, value := range labels {
		wanted.Labels[key] = value
	}

	for _, address := range addressesOf(servers) {
		wanted.Endpoints = append(wanted.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
		})
	}

	present, err := slicesOf.Get(ctx, wanted.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slicesOf.Create(ctx, wanted, metav1.CreateOptions{})
	} else if err == nil && !slices.Equal(addressesOf(present), addressesOf(wanted)) {
		present.Endpoints, present.Ports = wanted.Endpoints, wanted.Ports
		_, err = slicesOf.Update(ctx, present, metav1.UpdateOptions{})
	}

	if err != nil {
		return fmt.Errorf("endpoints of service %s: %w", name, err)
	}

	return nil
}

func addressesOf(slice *discoveryv1.EndpointSlice) []string {
	var all []string
	for _, endpoint := range slice.Endpoints {
		all = append(all, endpoint.Addresses...)
	}

	slices.Sort(all)

	return slices.Compact(all)
}
