package workloads

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// tokenLifetime outlives every world.
const tokenLifetime = 7 * 24 * time.Hour

// token is one of a pod's ServiceAccount, bound to the pod: it ends with it.
func (c *cluster) token(ctx context.Context, pod *corev1.Pod) (string, error) {
	seconds := int64(tokenLifetime / time.Second)

	answer, err := c.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &seconds,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of ServiceAccount %s/%s: %w", pod.Namespace, pod.Spec.ServiceAccountName, err)
	}

	return answer.Status.Token, nil
}

// asPod reaches the API with the rights of a pod.
func (c *cluster) asPod(ctx context.Context, pod *corev1.Pod) (*rest.Config, error) {
	token, err := c.token(ctx, pod)
	if err != nil {
		return nil, err
	}

	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken, config.QPS = token, -1

	return config, nil
}

// kubeconfigOf is asPod as a file's content.
func (c *cluster) kubeconfigOf(ctx context.Context, pod *corev1.Pod) ([]byte, error) {
	config, err := c.asPod(ctx, pod)
	if err != nil {
		return nil, err
	}

	return clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"lab": {Server: config.Host, CertificateAuthorityData: config.CAData, InsecureSkipTLSVerify: config.Insecure}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"pod": {Token: config.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{"pod": {Cluster: "lab", AuthInfo: "pod", Namespace: pod.Namespace}},
		CurrentContext: "pod",
	})
}
