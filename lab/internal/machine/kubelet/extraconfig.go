package kubelet

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// readExtraConfig reads machine.kubelet.extraConfig as Talos does before it starts a kubelet, and not earlier: strictly
// (internal/app/machined/pkg/controllers/k8s, kubelet_spec.go, prepareExtraConfig). While it fails, what runs goes on as it was.
func readExtraConfig(extra map[string]any) (kubeletconfig.KubeletConfiguration, error) {
	var read kubeletconfig.KubeletConfiguration

	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(extra, &read, true); err != nil {
		return kubeletconfig.KubeletConfiguration{}, fmt.Errorf(
			"k8s.KubeletSpecController: error creating kubelet configuration: error unmarshalling extra kubelet configuration: %w", err)
	}

	return read, nil
}
