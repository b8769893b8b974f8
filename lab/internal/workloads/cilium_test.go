package workloads

import (
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestTheOperatorRegistersItsDefinitionsAndAcceptsItsClass(t *testing.T) {
	b := newBench(t, runningDeployment("kube-system", "cilium-operator"))
	b.define(gatewayClasses)

	folder := filepath.Join(b.options.Bin, "crds", "cilium")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}

	text := "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: ciliumnodes.cilium.io}\nspec: {group: cilium.io}\n"
	if err := os.WriteFile(filepath.Join(folder, "ciliumnodes.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	b.start(runCiliumOperator)
	b.heard("gatewayclasses")

	classes := b.custom.Resource(schema.ParseGroupResource(gatewayClasses).WithVersion("v1"))

	for name, controller := range map[string]string{"cilium": ciliumController, "other": "example.com/controller"} {
		class := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": map[string]any{"name": name},
			"spec": map[string]any{"controllerName": controller},
		}}
		if _, err := classes.Create(b.Context(), class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	accepted := func(name string) string {
		class, err := classes.Get(b.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}

		return conditionOf(class, "Accepted")
	}

	b.until("its class is accepted", func() bool { return accepted("cilium") == "True" })
	b.until("its definition", func() bool {
		_, err := b.custom.Resource(definitionResource).Get(b.Context(), "ciliumnodes.cilium.io", metav1.GetOptions{})

		return err == nil
	})

	if accepted("other") != "" {
		t.Error("another controller's class is accepted")
	}
}

func TestAMissingFolderOfDefinitionsIsNamed(t *testing.T) {
	if _, err := readDefinitions("/nowhere"); err == nil {
		t.Error("no error")
	}
}
