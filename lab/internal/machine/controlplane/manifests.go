package controlplane

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"

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
// CoreDNS. As in Talos, an object that exists is left as it is; `talosctl upgrade-k8s` brings it in line.
func (p *Plane) applyManifests() error {
	provider := p.Provider()

	settings, err := kubeapi.AdminSettings(p.Network.Dial, provider)
	if err != nil {
		return err
	}

	client, err := dynamic.NewForConfig(settings)
	if err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(p.Context(), time.Minute)
	defer cancel()

	manifests := Manifests(provider)
	for _, id := range slices.Sorted(maps.Keys(manifests)) {
		for _, object := range manifests[id] {
			if err := createUnlessThere(ctx, client, &unstructured.Unstructured{Object: object}); err != nil {
				return fmt.Errorf("bootstrap manifest %s: %w", id, err)
			}
		}
	}

	return nil
}

// createUnlessThere asks first: a second service with the same address is refused as invalid, not as existing.
func createUnlessThere(ctx context.Context, client dynamic.Interface, object *unstructured.Unstructured) error {
	kind, _ := meta.UnsafeGuessKindToResource(object.GroupVersionKind())

	var resource dynamic.ResourceInterface = client.Resource(kind)
	if namespace := object.GetNamespace(); namespace != "" {
		resource = client.Resource(kind).Namespace(namespace)
	}

	_, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = resource.Create(ctx, object, metav1.CreateOptions{})
	}

	return kubeapi.UnlessExists(err)
}

// Manifests are the objects of Talos' bootstrap manifests, by the manifests' ids.
func Manifests(provider config.Provider) map[string][]map[string]any {
	found := map[string][]runtime.Object{
		"00-kubelet-bootstrapping-token": {bootstrapToken(provider)},
		"01-csr-node-bootstrap":          bootstrapRights(),
	}

	if dns := provider.Cluster().CoreDNS(); dns == nil || dns.Enabled() {
		found["11-core-dns"] = coreDNSObjects(provider)
		if service := dnsService(provider); service != nil {
			found["11-core-dns-svc"] = []runtime.Object{service}
		}
	}

	manifests := map[string][]map[string]any{}

	for id, objects := range found {
		for _, object := range objects {
			manifests[id] = append(manifests[id], asMap(object))
		}
	}

	return manifests
}

// asMap is an object as its manifest has it: without a status and other fields that nobody sets.
func asMap(object runtime.Object) map[string]any {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		panic(err) // a bug: these are structures of Kubernetes' own
	}

	delete(fields, "status")

	return fields
}

func bootstrapToken(provider config.Provider) *corev1.Secret {
	token := provider.Cluster().Token()

	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + token.ID(), Namespace: kubeapi.SystemNamespace},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": token.ID(), "token-secret": token.Secret(),
			"usage-bootstrap-authentication": "true", "auth-extra-groups": bootstrappersGroup,
		},
	}
}

func bootstrapRights() []runtime.Object {
	const signing = "system:certificates.k8s.io:certificatesigningrequests:"

	return []runtime.Object{
		binding("system-bootstrap-node-bootstrapper", "system:node-bootstrapper", groups([]string{bootstrappersGroup, NodesGroup})),
		binding("system-bootstrap-approve-node-client-csr", signing+"nodeclient", groups([]string{bootstrappersGroup})),
		binding("system-bootstrap-node-renewal", signing+"selfnodeclient", groups([]string{NodesGroup})),
	}
}

func groups(names []string) []rbacv1.Subject {
	var subjects []rbacv1.Subject
	for _, name := range names {
		subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name})
	}

	return subjects
}

func binding(name, role string, subjects []rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   subjects,
	}
}

func coreDNSObjects(provider config.Provider) []runtime.Object {
	object := metav1.ObjectMeta{Name: coreDNS, Namespace: kubeapi.SystemNamespace}
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: coreDNS, Namespace: kubeapi.SystemNamespace}

	return []runtime.Object{
		&corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: object},
		&rbacv1.ClusterRole{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
			ObjectMeta: metav1.ObjectMeta{Name: "system:coredns"},
			Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{""}, Resources: []string{"endpoints", "services", "pods", "namespaces"}, Verbs: []string{"list", "watch"}},
				{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}},
			},
		},
		binding("system:coredns", "system:coredns", []rbacv1.Subject{subject}),
		&corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: object,
			Data:       map[string]string{"Corefile": fmt.Sprintf(corefile, provider.Cluster().Network().DNSDomain())},
		},
		coreDNSDeployment(provider),
	}
}

// corefile is Talos' (internal/app/machined/pkg/controllers/k8s/internal/k8stemplates/coredns.go), with the cluster's domain
// three times.
const corefile = `.:53 {
    errors
    health {
        lameduck 5s
    }
    ready
    log . {
        class error
    }
    prometheus :9153

    kubernetes %[1]s in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success %[1]s
       disable denial %[1]s
    }
    loop
    reload
    loadbalance
}
`

func coreDNSDeployment(provider config.Provider) *appsv1.Deployment {
	replicas := int32(coreDNSReplicas)
	labels := map[string]string{"k8s-app": kubeDNS}
	one, yes, no := intstr.FromInt32(1), true, false
	get := func(path string, port int32) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(port), Scheme: corev1.URISchemeHTTP}}
	}
	apart := corev1.PodAffinityTerm{
		TopologyKey: corev1.LabelHostname,
		LabelSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "k8s-app", Operator: metav1.LabelSelectorOpIn, Values: []string{kubeDNS}},
		}},
	}

	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{
			Name: coreDNS, Namespace: kubeapi.SystemNamespace, Labels: map[string]string{"k8s-app": kubeDNS, "kubernetes.io/name": "CoreDNS"},
		},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &one},
			},
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					ServiceAccountName: coreDNS, PriorityClassName: "system-cluster-critical", DNSPolicy: corev1.DNSDefault,
					NodeSelector: map[string]string{corev1.LabelOSStable: "linux"},
					Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
						PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: apart}},
					}},
					Tolerations: []corev1.Toleration{
						{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
						{Key: "node.cloudprovider.kubernetes.io/uninitialized", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
					},
					Containers: []corev1.Container{{
						Name: coreDNS, Image: provider.Cluster().CoreDNS().Image(), ImagePullPolicy: corev1.PullIfNotPresent,
						Args: []string{"-conf", "/etc/coredns/Corefile"}, Env: []corev1.EnvVar{{Name: "GOMEMLIMIT", Value: "161MiB"}},
						Ports: []corev1.ContainerPort{
							{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "dns-tcp", ContainerPort: 53, Protocol: corev1.ProtocolTCP},
							{Name: "metrics", ContainerPort: 9153, Protocol: corev1.ProtocolTCP},
						},
						VolumeMounts: []corev1.VolumeMount{{Name: "config-volume", MountPath: "/etc/coredns", ReadOnly: true}},
						LivenessProbe: &corev1.Probe{
							ProbeHandler: get("/health", 8080), InitialDelaySeconds: 60, TimeoutSeconds: 5, SuccessThreshold: 1, FailureThreshold: 5,
						},
						ReadinessProbe: &corev1.Probe{ProbeHandler: get("/ready", 8181)},
						SecurityContext: &corev1.SecurityContext{
							AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
							Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_BIND_SERVICE"}, Drop: []corev1.Capability{"ALL"}},
						},
						Resources: corev1.ResourceRequirements{
							Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("70Mi")},
							Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("170Mi")},
						},
					}},
					Volumes: []corev1.Volume{{Name: "config-volume", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
						LocalObjectReference: corev1.LocalObjectReference{Name: coreDNS}, Items: []corev1.KeyToPath{{Key: "Corefile", Path: "Corefile"}},
					}}}},
				},
			},
		},
	}
}

func dnsService(provider config.Provider) *corev1.Service {
	addresses, err := provider.Cluster().Network().DNSServiceIPs()
	if err != nil || len(addresses) == 0 {
		return nil
	}

	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: kubeDNS, Namespace: kubeapi.SystemNamespace, Labels: map[string]string{"k8s-app": kubeDNS}},
		Spec: corev1.ServiceSpec{
			ClusterIP: addresses[0].String(),
			Selector:  map[string]string{"k8s-app": kubeDNS},
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
}
