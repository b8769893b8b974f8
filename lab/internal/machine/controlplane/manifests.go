package controlplane

import (
	"context"
	"fmt"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"platform.lab/lab/internal/machine/kubeapi"
)

const (
	// NodesGroup is what all kubelets belong to.
	NodesGroup         = "system:nodes"
	bootstrappersGroup = "system:bootstrappers:nodes"
	coreDNSReplicas    = 2
	coreDNS            = "coredns"
	kubeDNS            = "kube-dns"
)

// applyManifests creates what Talos gives every cluster: the kubelets' bootstrap token and rights, and
// CoreDNS. As in Talos, an object that exists is left as it is.
func (p *Plane) applyManifests() error {
	provider := p.Provider()

	client, err := kubeapi.AdminClient(p.Network.Dial, provider)
	if err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(p.Context(), time.Minute)
	defer cancel()

	if err := applyBootstrapRights(ctx, client, provider); err != nil {
		return err
	}

	if dns := provider.Cluster().CoreDNS(); dns != nil && !dns.Enabled() {
		return nil
	}

	return applyCoreDNS(ctx, client, provider)
}

func applyBootstrapRights(ctx context.Context, client kubernetes.Interface, provider config.Provider) error {
	token := provider.Cluster().Token()

	_, err := client.CoreV1().Secrets(kubeapi.SystemNamespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + token.ID(), Namespace: kubeapi.SystemNamespace},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": token.ID(), "token-secret": token.Secret(),
			"usage-bootstrap-authentication": "true", "auth-extra-groups": bootstrappersGroup,
		},
	}, metav1.CreateOptions{})
	if err := kubeapi.UnlessExists(err); err != nil {
		return fmt.Errorf("bootstrap token: %w", err)
	}

	const signing = "system:certificates.k8s.io:certificatesigningrequests:"

	for name, binding := range map[string]struct {
		role   string
		groups []string
	}{
		"system-bootstrap-node-bootstrapper":       {"system:node-bootstrapper", []string{bootstrappersGroup, NodesGroup}},
		"system-bootstrap-approve-node-client-csr": {signing + "nodeclient", []string{bootstrappersGroup}},
		"system-bootstrap-node-renewal":            {signing + "selfnodeclient", []string{NodesGroup}},
	} {
		if err := bind(ctx, client, name, binding.role, groups(binding.groups)); err != nil {
			return err
		}
	}

	return nil
}

func groups(names []string) []rbacv1.Subject {
	var subjects []rbacv1.Subject
	for _, name := range names {
		subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name})
	}

	return subjects
}

func bind(ctx context.Context, client kubernetes.Interface, name, role string, subjects []rbacv1.Subject) error {
	_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   subjects,
	}, metav1.CreateOptions{})
	if err := kubeapi.UnlessExists(err); err != nil {
		return fmt.Errorf("cluster role binding %s: %w", name, err)
	}

	return nil
}

func applyCoreDNS(ctx context.Context, client kubernetes.Interface, provider config.Provider) error {
	meta := metav1.ObjectMeta{Name: coreDNS, Namespace: kubeapi.SystemNamespace}

	_, err := client.CoreV1().ServiceAccounts(kubeapi.SystemNamespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err := kubeapi.UnlessExists(err); err != nil {
		return fmt.Errorf("CoreDNS service account: %w", err)
	}

	_, err = client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "system:coredns"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"endpoints", "services", "pods", "namespaces"}, Verbs: []string{"list", "watch"}},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}},
		},
	}, metav1.CreateOptions{})
	if err := kubeapi.UnlessExists(err); err != nil {
		return fmt.Errorf("CoreDNS cluster role: %w", err)
	}

	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: coreDNS, Namespace: kubeapi.SystemNamespace}
	if err := bind(ctx, client, "system:coredns", "system:coredns", []rbacv1.Subject{subject}); err != nil {
		return err
	}

	_, err = client.CoreV1().ConfigMaps(kubeapi.SystemNamespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: meta,
		Data:       map[string]string{"Corefile": fmt.Sprintf(corefile, provider.Cluster().Network().DNSDomain())},
	}, metav1.CreateOptions{})
	if err := kubeapi.UnlessExists(err); err != nil {
		return fmt.Errorf("CoreDNS configuration: %w", err)
	}

	_, err = client.AppsV1().Deployments(kubeapi.SystemNamespace).Create(ctx, coreDNSDeployment(provider), metav1.CreateOptions{})
	if err := kubeapi.UnlessExists(err); err != nil {
		return fmt.Errorf("CoreDNS deployment: %w", err)
	}

	return applyDNSService(ctx, client, provider)
}

const corefile = `.:53 {
    errors
    health
    ready
    kubernetes %s in-addr.arpa ip6.arpa
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
`

func coreDNSDeployment(provider config.Provider) *appsv1.Deployment {
	replicas := int32(coreDNSReplicas)
	labels := map[string]string{"k8s-app": kubeDNS}

	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: coreDNS, Namespace: kubeapi.SystemNamespace, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					ServiceAccountName: coreDNS, PriorityClassName: "system-cluster-critical",
					Tolerations: []corev1.Toleration{{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
					Containers: []corev1.Container{{
						Name: coreDNS, Image: provider.Cluster().CoreDNS().Image(), Args: []string{"-conf", "/etc/coredns/Corefile"},
						Ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "dns-tcp", ContainerPort: 53}},
						Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
							corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("70Mi"),
						}},
					}},
				},
			},
		},
	}
}

func applyDNSService(ctx context.Context, client kubernetes.Interface, provider config.Provider) error {
	addresses, err := provider.Cluster().Network().DNSServiceIPs()
	if err != nil {
		return err
	}

	// Asked first: a second service with the same address is refused as invalid, not as existing.
	if _, err = client.CoreV1().Services(kubeapi.SystemNamespace).Get(ctx, kubeDNS, metav1.GetOptions{}); err == nil {
		return nil
	}

	_, err = client.CoreV1().Services(kubeapi.SystemNamespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: kubeDNS, Namespace: kubeapi.SystemNamespace, Labels: map[string]string{"k8s-app": kubeDNS}},
		Spec: corev1.ServiceSpec{
			ClusterIP: addresses[0].String(),
			Selector:  map[string]string{"k8s-app": kubeDNS},
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, TargetPort: intstr.FromInt32(53)},
			},
		},
	}, metav1.CreateOptions{})
	if err := kubeapi.UnlessExists(err); err != nil {
		return fmt.Errorf("CoreDNS service: %w", err)
	}

	return nil
}
