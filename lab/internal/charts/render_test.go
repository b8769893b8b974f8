package charts

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// at follows keys through maps.
func at(object map[string]any, keys ...string) any {
	var here any = object
	for _, key := range keys {
		inside, ok := here.(map[string]any)
		if !ok {
			return nil
		}
		here = inside[key]
	}
	return here
}

func pod(object map[string]any) map[string]any {
	spec, _ := at(object, "spec", "template", "spec").(map[string]any)
	return spec
}

func container(object map[string]any) map[string]any {
	return pod(object)["containers"].([]any)[0].(map[string]any)
}

func arguments(object map[string]any) []string {
	var out []string
	for _, a := range container(object)["args"].([]any) {
		out = append(out, a.(string))
	}
	return out
}

func (f *fixture) values(t *testing.T, text string) []string {
	t.Helper()
	path := filepath.Join(f.root, "values.yaml")
	writeFile(t, path, text)
	return []string{path}
}

func TestTraefikHonoursACarefulSetup(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	got := f.render(t, Request{Chart: "traefik", Namespace: "traefik", Values: f.values(t, `
deployment: {replicas: 3}
podDisruptionBudget: {enabled: true, maxUnavailable: 1}
providers: {kubernetesGateway: {enabled: true}}
gateway: {enabled: false}
metrics: {prometheus: {service: {enabled: true}}}
ports: {web: {http: {redirections: {entryPoint: {to: websecure, scheme: https, permanent: true}}}}}
service:
  annotations: {metallb.io/loadBalancerIPs: 172.16.20.100}
  spec: {externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: false}
resources: {limits: {memory: 512Mi}}
priorityClassName: platform-critical
`)})
	deployment, service := got["Deployment/traefik"], got["Service/traefik"]
	for _, c := range []struct{ got, want any }{
		{at(deployment, "spec", "replicas"), 3.0},
		{pod(deployment)["priorityClassName"], "platform-critical"},
		{at(container(deployment), "securityContext", "readOnlyRootFilesystem"), true},
		{at(pod(deployment), "securityContext", "runAsUser"), 65532.0},
		{at(service, "spec", "type"), "LoadBalancer"},
		{at(service, "spec", "allocateLoadBalancerNodePorts"), false},
		{at(service, "metadata", "annotations", "metallb.io/loadBalancerIPs"), "172.16.20.100"},
		{at(got["PodDisruptionBudget/traefik"], "spec", "maxUnavailable"), 1.0},
		{at(got["GatewayClass/traefik"], "spec", "controllerName"), "traefik.io/gateway-controller"},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
	for _, wanted := range []string{
		"--entryPoints.web.http.redirections.entryPoint.to=:443", "--entryPoints.websecure.http.tls=true", "--providers.kubernetesgateway",
		"--providers.kubernetesingress.ingressendpoint.publishedservice=traefik/traefik", "--api.dashboard=true",
	} {
		if !slices.Contains(arguments(deployment), wanted) {
			t.Errorf("no argument %s in %v", wanted, arguments(deployment))
		}
	}
	if got["Gateway/traefik-gateway"] != nil || got["Service/traefik-metrics"] == nil || got["IngressClass/traefik"] == nil {
		t.Errorf("got %v", got)
	}
}

func TestTraefikRefusesWhatTheRealChartsSchemaRefuses(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	for text, wanted := range map[string]string{
		"replica: 3":                                 "replica",
		"ingressClass: {default: true}":              "default",
		"providers: {kubernetesCRD: {enable: true}}": "enable",
		"deployment: {replicas: three}":              "replicas",
	} {
		_, err := f.rendered(Request{Chart: "traefik", Values: f.values(t, text)})
		if err == nil || !strings.Contains(err.Error(), wanted) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func TestArgoCDHonoursACarefulSetup(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	got := f.render(t, Request{Chart: "argo-cd", Namespace: "argocd", Values: f.values(t, `
global: {domain: argocd.example.com, priorityClassName: platform-critical, networkPolicy: {create: true, defaultDenyIngress: true}}
configs: {params: {server.insecure: true}, cm: {admin.enabled: false, kustomize.buildOptions: --enable-helm}}
controller: {replicas: 2, pdb: {enabled: true, maxUnavailable: 1}, metrics: {enabled: true}}
redis: {enabled: false}
redis-ha: {enabled: true, exporter: {enabled: true}}
redisSecretInit: {enabled: false}
server: {autoscaling: {enabled: true, minReplicas: 2}, pdb: {enabled: true, minAvailable: 1}}
applicationSet: {replicas: 2}
notifications: {enabled: false}
`)})
	for key, wanted := range map[string]any{
		"StatefulSet/argo-cd-argocd-application-controller": 2.0, "Deployment/argo-cd-argocd-applicationset-controller": 2.0,
		"StatefulSet/argo-cd-redis-ha-server": 3.0, "Deployment/argo-cd-redis-ha-haproxy": 3.0, "Deployment/argo-cd-argocd-server": nil,
	} {
		object := got[key]
		if object == nil {
			t.Errorf("no %s", key)
			continue
		}
		if at(object, "spec", "replicas") != wanted || pod(object)["priorityClassName"] != "platform-critical" {
			t.Errorf("%s: got %v replicas, priority %v", key, at(object, "spec", "replicas"), pod(object)["priorityClassName"])
		}
	}
	for _, absent := range []string{"Job/argo-cd-argocd-redis-secret-init", "Deployment/argo-cd-argocd-redis", "Deployment/argo-cd-argocd-notifications-controller"} {
		if got[absent] != nil {
			t.Errorf("%s is there", absent)
		}
	}
	cm, params := got["ConfigMap/argocd-cm"], got["ConfigMap/argocd-cmd-params-cm"]
	for _, c := range []struct{ got, want any }{
		{at(cm, "data", "admin.enabled"), "false"},
		{at(cm, "data", "url"), "https://argocd.example.com"},
		{at(cm, "data", "kustomize.buildOptions"), "--enable-helm"},
		{at(params, "data", "server.insecure"), "true"},
		{at(params, "data", "redis.server"), "argo-cd-redis-ha-haproxy:6379"},
		{at(params, "data", "applicationsetcontroller.enable.leader.election"), "true"},
		{at(got["HorizontalPodAutoscaler/argo-cd-argocd-server"], "spec", "minReplicas"), 2.0},
		{at(got["PodDisruptionBudget/argo-cd-argocd-server"], "spec", "minAvailable"), 1.0},
		{at(got["NetworkPolicy/argo-cd-argocd-default-deny"], "kind"), "NetworkPolicy"},
		{at(got["Service/argo-cd-argocd-application-controller-metrics"], "kind"), "Service"},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

func TestArgoCDsPartsReadTheConfigMapsAsItsOwnManifestsSay(t *testing.T) {
	f := newFixture(t)
	f.build(t)

	got := f.render(t, Request{Chart: "argo-cd", Namespace: "argocd"})

	variables := map[string]any{}
	for _, one := range container(got["StatefulSet/argo-cd-argocd-application-controller"])["env"].([]any) {
		variable := one.(map[string]any)
		name := variable["name"].(string)

		if _, twice := variables[name]; twice {
			t.Errorf("%s is there twice", name)
		}

		variables[name] = variable
	}

	for _, c := range []struct{ got, want any }{
		{at(variables, "ARGOCD_LEVEL", "valueFrom", "configMapKeyRef", "key"), "controller.log.level"},
		{at(variables, "REDIS_PASSWORD", "valueFrom", "secretKeyRef", "name"), "argocd-redis"},
		{at(variables, "KUBECACHEDIR", "value"), "/tmp/kubecache"},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

func TestArgoCDOfTheDefaultsHasOneRedisAndAnInitJob(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	got := f.render(t, Request{Chart: "argo-cd", Namespace: "argocd"})
	for _, key := range []string{
		"Deployment/argo-cd-argocd-redis", "Service/argo-cd-argocd-redis", "Job/argo-cd-argocd-redis-secret-init",
		"Deployment/argo-cd-argocd-notifications-controller", "Secret/argocd-notifications-secret",
	} {
		if got[key] == nil {
			t.Errorf("no %s", key)
		}
	}
}

func TestAMissingPackageIsNamedWithItsMend(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	_, err := f.rendered(Request{Chart: "traefik", Version: "41.0.0"})
	if err == nil || !strings.Contains(err.Error(), "lab charts traefik@41.0.0") || !strings.Contains(err.Error(), f.Cache) {
		t.Errorf("got %v", err)
	}
	if _, err := f.rendered(Request{Chart: "nginx"}); err == nil || !strings.Contains(err.Error(), "cert-manager") {
		t.Errorf("got %v", err)
	}
}

func TestTheCacheFolderIsRenderedWithoutABuild(t *testing.T) {
	f := newFixture(t)
	pack(t, filepath.Join(f.Cache, "cert-manager-v9.9.9.tgz"), "apiVersion: v2\nname: cert-manager\nversion: v9.9.9\n")
	if _, err := f.rendered(Request{Chart: "cert-manager", Version: "9.9.9"}); err != nil {
		t.Error(err)
	}
}

func TestAChartThatAsksForAnotherKubernetesIsRefused(t *testing.T) {
	f := newFixture(t)
	f.build(t)
	if _, err := f.rendered(Request{Chart: "argo-cd", KubeVersion: "1.20.0"}); err == nil || !strings.Contains(err.Error(), "1.25") {
		t.Errorf("got %v", err)
	}
}

func TestChartsFindKubernetesOwnKinds(t *testing.T) {
	if !slices.Contains(builtIn(), "policy/v1/PodDisruptionBudget") || !slices.Contains(builtIn(), "v1/Pod") {
		t.Errorf("got %v", builtIn())
	}
}
