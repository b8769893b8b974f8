package pods

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// usualPath is what an image without a PATH gets from its runtime.
const usualPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// variables keeps names in the order in which they were set first.
type variables struct {
	names  []string
	values map[string]string
}

func (v *variables) set(name, value string) {
	if _, there := v.values[name]; !there {
		v.names = append(v.names, name)
	}

	v.values[name] = value
}

func (v *variables) list() []string {
	var all []string
	for _, name := range v.names {
		all = append(all, name+"="+v.values[name])
	}

	return all
}

// environment are a container's variables: the image's, the Services', and what its spec says.
func (w *worker) environment(ctx context.Context, pod *corev1.Pod, one *member) (*variables, error) {
	found := &variables{values: map[string]string{}}

	for _, pair := range slices.Concat([]string{usualPath, "HOSTNAME=" + w.sandbox.hostname}, one.image.Environment) {
		name, value, _ := strings.Cut(pair, "=")
		found.set(name, value)
	}

	// The user's home, as a runtime finds it in /etc/passwd.
	if _, set := found.values["HOME"]; !set {
		user, _ := w.userOf(pod, one)
		if user == 0 {
			found.set("HOME", "/root")
		} else {
			found.set("HOME", "/home")
		}
	}

	services, err := w.serviceVariables(ctx, pod)
	if err != nil {
		return nil, err
	}

	for _, from := range one.spec.EnvFrom {
		data, err := w.envFrom(ctx, pod, from)
		if err != nil {
			return nil, err
		}

		for _, name := range slices.Sorted(keys(data)) {
			found.set(from.Prefix+name, data[name])
		}
	}

	// A variable may use those before it, the Services' too.
	for _, variable := range one.spec.Env {
		value := variable.Value

		if variable.ValueFrom != nil {
			got, there, err := w.valueFrom(ctx, pod, one, variable.ValueFrom)
			if err != nil {
				return nil, err
			}

			if !there {
				continue
			}

			value = got
		} else {
			value = expand(value, func(name string) (string, bool) {
				if value, ok := found.values[name]; ok {
					return value, true
				}

				value, ok := services[name]

				return value, ok
			})
		}

		found.set(variable.Name, value)
	}

	for _, name := range slices.Sorted(keys(services)) {
		if _, there := found.values[name]; !there {
			found.set(name, services[name])
		}
	}

	return found, nil
}

// serviceVariables are NAME_SERVICE_HOST and its siblings: of the API always, of the namespace's Services unless the pod
// has enableServiceLinks: false.
func (w *worker) serviceVariables(ctx context.Context, pod *corev1.Pod) (map[string]string, error) {
	found := map[string]string{}

	api, err := w.r.api().CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("services have not yet been read at least once, cannot construct envvars: %w", err)
	}

	addService(found, api)

	if links := pod.Spec.EnableServiceLinks; links != nil && !*links {
		return found, nil
	}

	list, err := w.r.api().CoreV1().Services(pod.Namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("services have not yet been read at least once, cannot construct envvars: %w", err)
	}

	for i := range list.Items {
		addService(found, &list.Items[i])
	}

	return found, nil
}

// addService writes the variables of a Service (pkg/kubelet/envvars of Kubernetes).
func addService(found map[string]string, service *corev1.Service) {
	address := service.Spec.ClusterIP
	if address == "" || address == corev1.ClusterIPNone || len(service.Spec.Ports) == 0 {
		return
	}

	prefix := variableName(service.Name)
	found[prefix+"_SERVICE_HOST"] = address
	found[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(service.Spec.Ports[0].Port))

	for i, port := range service.Spec.Ports {
		if port.Name != "" {
			found[prefix+"_SERVICE_PORT_"+variableName(port.Name)] = strconv.Itoa(int(port.Port))
		}

		protocol := strings.ToLower(string(port.Protocol))
		if protocol == "" {
			protocol = "tcp"
		}

		url := fmt.Sprintf("%s://%s:%d", protocol, address, port.Port)
		if i == 0 {
			found[prefix+"_PORT"] = url
		}

		one := fmt.Sprintf("%s_PORT_%d_%s", prefix, port.Port, strings.ToUpper(protocol))
		found[one] = url
		found[one+"_PROTO"] = protocol
		found[one+"_PORT"] = strconv.Itoa(int(port.Port))
		found[one+"_ADDR"] = address
	}
}

func variableName(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

func (w *worker) envFrom(ctx context.Context, pod *corev1.Pod, from corev1.EnvFromSource) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		found, err := w.configMap(ctx, pod, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		if err != nil || found == nil {
			return nil, err
		}

		return found.Data, nil
	case from.SecretRef != nil:
		found, err := w.secret(ctx, pod, from.SecretRef.Name, from.SecretRef.Optional)
		if err != nil || found == nil {
			return nil, err
		}

		data := map[string]string{}
		for name, value := range found.Data {
			data[name] = string(value)
		}

		return data, nil
	}

	return nil, nil
}

// configMap is nil when there is none and that is allowed.
func (w *worker) configMap(ctx context.Context, pod *corev1.Pod, name string, optional *bool) (*corev1.ConfigMap, error) {
	found, err := w.r.api().CoreV1().ConfigMaps(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil, nil
	}

	if err != nil {
		return nil, err
	}

	return found, nil
}

// secret is nil when there is none and that is allowed.
func (w *worker) secret(ctx context.Context, pod *corev1.Pod, name string, optional *bool) (*corev1.Secret, error) {
	found, err := w.r.api().CoreV1().Secrets(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil, nil
	}

	if err != nil {
		return nil, err
	}

	return found, nil
}

// valueFrom gives a variable's value; false when what it names is optional and missing.
func (w *worker) valueFrom(ctx context.Context, pod *corev1.Pod, one *member, from *corev1.EnvVarSource) (string, bool, error) {
	isOptional := func(optional *bool) bool { return optional != nil && *optional }

	switch {
	case from.FieldRef != nil:
		value, err := w.field(pod, from.FieldRef.FieldPath)

		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err := w.resourceField(pod, from.ResourceFieldRef, &one.spec)

		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef

		found, err := w.configMap(ctx, pod, ref.Name, ref.Optional)
		if err != nil || found == nil {
			return "", false, err
		}

		value, there := found.Data[ref.Key]
		if !there && !isOptional(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}

		return value, there, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef

		found, err := w.secret(ctx, pod, ref.Name, ref.Optional)
		if err != nil || found == nil {
			return "", false, err
		}

		value, there := found.Data[ref.Key]
		if !there && !isOptional(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}

		return string(value), there, nil
	}

	return "", false, errors.New("valueFrom names nothing that the lab's kubelet knows")
}

// field is the value of a field that the downward API has.
func (w *worker) field(pod *corev1.Pod, path string) (string, error) {
	address := ""
	if w.sandbox != nil {
		address = w.sandbox.address.String()
	}

	host := w.r.Network.Address().String()

	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return host, nil
	case "status.podIP", "status.podIPs":
		return address, nil
	}

	for prefix, values := range map[string]map[string]string{"metadata.labels['": pod.Labels, "metadata.annotations['": pod.Annotations} {
		if key, ok := strings.CutPrefix(path, prefix); ok {
			return values[strings.TrimSuffix(key, "']")], nil
		}
	}

	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// formatMap is how the downward API writes labels: a line for each, in order, with quoted values.
func formatMap(values map[string]string) string {
	var text strings.Builder
	for _, name := range slices.Sorted(keys(values)) {
		fmt.Fprintf(&text, "%s=%s\n", name, strconv.Quote(values[name]))
	}

	return strings.TrimSuffix(text.String(), "\n")
}

// resourceField is a request or a limit in units of the divisor, rounded up; without a limit it is what the node has.
func (w *worker) resourceField(pod *corev1.Pod, ref *corev1.ResourceFieldSelector, own *corev1.Container) (string, error) {
	spec := own

	if ref.ContainerName != "" {
		at := slices.IndexFunc(w.members, func(one *member) bool { return one.spec.Name == ref.ContainerName })
		if at < 0 {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}

		spec = &w.members[at].spec
	}

	if spec == nil {
		return "", fmt.Errorf("pod %s: a resource without its container", pod.Name)
	}

	kind, name, _ := strings.Cut(ref.Resource, ".")
	resourceName := corev1.ResourceName(name)

	amounts := spec.Resources.Limits
	if kind == "requests" {
		amounts = spec.Resources.Requests
	}

	amount, set := amounts[resourceName]
	if !set && kind == "limits" {
		amount = w.r.nodeNow().Status.Allocatable[resourceName]
	}

	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}

	if resourceName == corev1.ResourceCPU {
		return strconv.FormatInt(int64(math.Ceil(float64(amount.MilliValue())/float64(divisor.MilliValue()))), 10), nil
	}

	return strconv.FormatInt(int64(math.Ceil(float64(amount.Value())/float64(divisor.Value()))), 10), nil
}

// expand replaces $(NAME) by its value. $$ is a dollar; what is not known stays as it is (third_party/forked/golang/
// expansion of Kubernetes).
func expand(text string, lookUp func(string) (string, bool)) string {
	var out strings.Builder

	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			out.WriteByte(text[i])

			continue
		}

		switch next := text[i+1]; next {
		case '$':
			out.WriteByte('$')

			i++
		case '(':
			end := strings.IndexByte(text[i:], ')')
			if end < 0 {
				out.WriteByte('$')

				continue
			}

			name := text[i+2 : i+end]
			if value, known := lookUp(name); known {
				out.WriteString(value)
			} else {
				out.WriteString(text[i : i+end+1])
			}

			i += end
		default:
			out.WriteByte('$')
		}
	}

	return out.String()
}
