package workloads

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"
)

const (
	gatewayClasses         = "gatewayclasses.gateway.networking.k8s.io"
	gatewayClassConfigs    = "ciliumgatewayclassconfigs.cilium.io"
	ciliumController       = "io.cilium/gateway-controller"
	ciliumOperatorName     = "cilium-operator"
	ciliumSystemNamespace  = "kube-system"
	ciliumGatewayConfigAPI = "v2alpha1"
)

// runCiliumOperator registers Cilium's definitions once an operator runs: its chart carries none. As the real one
// it never removes them. With the Gateway API there, it accepts the GatewayClasses that name its controller.
func runCiliumOperator(ctx context.Context, c *cluster) error {
	return together(ctx, func(ctx context.Context) error {
		changed, err := on(ctx, c.objects.Apps().V1().Deployments().Informer(), c.definitions)
		if err == nil {
			c.sweep(ctx, ciliumOperatorName, changed, c.registerCilium)
		}

		return err
	}, func(ctx context.Context) error {
		return c.whileServed(ctx, ciliumOperatorName, "v1", []string{gatewayClasses}, c.acceptGatewayClasses)
	})
}

// registerCilium creates the definitions of <bin>/crds/cilium that the cluster has not got.
func (c *cluster) registerCilium(ctx context.Context) error {
	if !c.available(ciliumSystemNamespace, ciliumOperatorName) {
		return nil
	}

	wanted, err := readDefinitions(filepath.Join(c.options.Bin, "crds", "cilium"))
	if err != nil {
		return err
	}

	var problems []error

	for _, definition := range wanted {
		if _, there, err := c.definitions.GetStore().GetByKey(definition.GetName()); err != nil || there {
			problems = append(problems, err)

			continue
		}

		_, err := c.custom.Resource(definitionResource).Create(ctx, definition, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			problems = append(problems, err)
		}
	}

	return errors.Join(problems...)
}

func readDefinitions(folder string) ([]*unstructured.Unstructured, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}

	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no definitions (*.yaml); `lab build` puts them there", folder)
	}

	var all []*unstructured.Unstructured

	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}

		definition := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &definition.Object); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}

		all = append(all, definition)
	}

	return all, nil
}

func (c *cluster) acceptGatewayClasses(ctx context.Context, kinds customInformers) error {
	changed, err := on(ctx, kinds[gatewayClasses], c.objects.Apps().V1().Deployments().Informer(), c.definitions)
	if err != nil {
		return err
	}

	c.sweep(ctx, ciliumOperatorName, changed, func(ctx context.Context) error {
		if !c.available(ciliumSystemNamespace, ciliumOperatorName) {
			return nil
		}

		var problems []error

		for _, class := range listed(kinds[gatewayClasses]) {
			problems = append(problems, c.acceptGatewayClass(ctx, class))
		}

		return errors.Join(problems...)
	})

	return nil
}

// acceptGatewayClass sets the condition Accepted as the operator does: False when the parameters that the class
// names are of another kind or not there.
func (c *cluster) acceptGatewayClass(ctx context.Context, class *unstructured.Unstructured) error {
	controller, _, _ := unstructured.NestedString(class.Object, "spec", "controllerName")
	if controller != ciliumController || class.GetDeletionTimestamp() != nil {
		return nil
	}

	condition := metav1.Condition{
		Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", Message: "Valid GatewayClass",
		ObservedGeneration: class.GetGeneration(),
	}

	problem := c.gatewayParameters(ctx, class)
	if problem != nil {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, "InvalidParameters", "Invalid GatewayClass"
	}

	return errors.Join(problem, c.setCondition(ctx, schema.ParseGroupResource(gatewayClasses).WithVersion("v1"), class, condition, nil))
}

func (c *cluster) gatewayParameters(ctx context.Context, class *unstructured.Unstructured) error {
	reference, found, _ := unstructured.NestedStringMap(class.Object, "spec", "parametersRef")
	if !found {
		return nil
	}

	if reference["group"] != "cilium.io" || reference["kind"] != "CiliumGatewayClassConfig" || reference["namespace"] == "" {
		return fmt.Errorf("GatewayClass %s: parametersRef must name a CiliumGatewayClassConfig and its namespace", class.GetName())
	}

	resource := schema.ParseGroupResource(gatewayClassConfigs).WithVersion(ciliumGatewayConfigAPI)
	if _, err := c.custom.Resource(resource).Namespace(reference["namespace"]).Get(ctx, reference["name"], metav1.GetOptions{}); err != nil {
		return fmt.Errorf("GatewayClass %s: %w", class.GetName(), err)
	}

	return nil
}

// listed are the objects of a dynamic informer.
func listed(informer cache.SharedIndexInformer) []*unstructured.Unstructured {
	var all []*unstructured.Unstructured

	for _, object := range informer.GetStore().List() {
		if typed, ok := object.(*unstructured.Unstructured); ok {
			all = append(all, typed)
		}
	}

	return all
}

// setCondition writes a condition, and further fields of the status, when they are not there yet.
func (c *cluster) setCondition(
	ctx context.Context, resource schema.GroupVersionResource, object *unstructured.Unstructured, condition metav1.Condition, more map[string]any,
) error {
	changed := object.DeepCopy()

	if !applyCondition(changed, condition, more) {
		return nil
	}

	client := c.custom.Resource(resource)

	var err error
	if namespace := object.GetNamespace(); namespace != "" {
		_, err = client.Namespace(namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	} else {
		_, err = client.UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	}

	if apierrors.IsNotFound(err) { // deleted meanwhile
		return nil
	}

	return err
}

// applyCondition changes the object and says whether anything is another than before.
func applyCondition(object *unstructured.Unstructured, condition metav1.Condition, more map[string]any) bool {
	now := metav1.Now().UTC().Format("2006-01-02T15:04:05Z")
	wanted := map[string]any{
		"type": condition.Type, "status": string(condition.Status), "reason": condition.Reason, "message": condition.Message,
		"observedGeneration": condition.ObservedGeneration, "lastTransitionTime": now,
	}

	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	same, at := false, -1

	for i, entry := range conditions {
		before, ok := entry.(map[string]any)
		if !ok || before["type"] != condition.Type {
			continue
		}

		at = i

		if before["status"] == wanted["status"] {
			wanted["lastTransitionTime"] = before["lastTransitionTime"]
		}

		same = before["status"] == wanted["status"] && before["reason"] == wanted["reason"] && before["message"] == wanted["message"] &&
			before["observedGeneration"] == wanted["observedGeneration"]
	}

	if at >= 0 {
		conditions[at] = wanted
	} else {
		conditions = append(conditions, wanted)
	}

	for field, value := range more {
		if now, there, _ := unstructured.NestedFieldNoCopy(object.Object, "status", field); !there || now != value {
			same = false
		}
	}

	if same {
		return false
	}

	status, _, _ := unstructured.NestedMap(object.Object, "status")
	if status == nil {
		status = map[string]any{}
	}

	for field, value := range more {
		status[field] = value
	}

	status["conditions"] = conditions
	object.Object["status"] = status

	return true
}
