package controlplane

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/config"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"

	"platform.lab/lab/internal/machine/arguments"
	"platform.lab/lab/internal/machine/certificates"
	"platform.lab/lab/internal/machine/etcd"
	"platform.lab/lab/internal/machine/kubeapi"
)

// components are the control plane's static pods as Talos 1.13.9 makes them from a machine configuration
// (controllers/k8s/control_plane_static_pod.go), with this machine's paths.
func (p *Plane) components(provider config.Provider) ([]Component, error) {
	var list []Component

	for _, build := range []func(config.Provider) (Component, error){p.apiServer, p.controllerManager, p.scheduler} {
		c, err := build(provider)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}

		list = append(list, c)
	}

	if controllers := provider.Machine().Controlplane(); controllers != nil {
		list = slices.DeleteFunc(list, func(c Component) bool {
			return c.Name == ControllerManager && controllers.ControllerManager().Disabled() ||
				c.Name == Scheduler && controllers.Scheduler().Disabled()
		})
	}

	return list, nil
}

func (p *Plane) apiServer(provider config.Provider) (Component, error) {
	cluster := provider.Cluster()
	c := Component{
		Name:        APIServer,
		Image:       cluster.APIServer().Image(),
		environment: environment(cluster.APIServer().Env()),
		probe:       certificates.LocalAPIServer(provider) + "/readyz",
		files: map[string][]byte{
			"admission-control-config.yaml": admissionConfig(cluster),
			"auditpolicy.yaml":              kubeapi.MustJSON(cluster.APIServer().AuditPolicy()),
			"encryptionconfig.yaml":         encryptionConfig(cluster),
			"authorization-config.yaml":     authorizationConfig(cluster),
		},
	}

	file := func(name string) string { return p.podFile(c.Name, name) }
	secret := func(name string) string { return p.Secrets.Path(c.Name + "/" + name) }

	c.Arguments = arguments.Of(map[string]string{
		"admission-control-config-file":      file("admission-control-config.yaml"),
		"advertise-address":                  p.Network.Address().String(),
		"allow-privileged":                   "true",
		"anonymous-auth":                     "false",
		"api-audiences":                      cluster.Endpoint().String(),
		"audit-log-maxage":                   "30",
		"audit-log-maxbackup":                "10",
		"audit-log-maxsize":                  "100",
		"audit-log-path":                     p.Disk.OnMachine("/var/log/audit/kube/kube-apiserver.log"),
		"audit-policy-file":                  file("auditpolicy.yaml"),
		"bind-address":                       "0.0.0.0",
		"client-ca-file":                     secret("ca.crt"),
		"enable-admission-plugins":           "NodeRestriction",
		"enable-bootstrap-token-auth":        "true",
		"encryption-provider-config":         file("encryptionconfig.yaml"),
		"etcd-cafile":                        secret("etcd-client-ca.crt"),
		"etcd-certfile":                      secret("etcd-client.crt"),
		"etcd-keyfile":                       secret("etcd-client.key"),
		"etcd-servers":                       "https://localhost:" + strconv.Itoa(etcd.ClientPort),
		"kubelet-client-certificate":         secret("apiserver-kubelet-client.crt"),
		"kubelet-client-key":                 secret("apiserver-kubelet-client.key"),
		"kubelet-preferred-address-types":    "InternalIP,ExternalIP,Hostname",
		"profiling":                          "false",
		"proxy-client-cert-file":             secret("front-proxy-client.crt"),
		"proxy-client-key-file":              secret("front-proxy-client.key"),
		"requestheader-allowed-names":        "front-proxy-client",
		"requestheader-client-ca-file":       secret("aggregator-ca.crt"),
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-username-headers":     "X-Remote-User",
		"secure-port":                        strconv.Itoa(cluster.LocalAPIServerPort()),
		"service-account-issuer":             cluster.Endpoint().String(),
		"service-account-key-file":           secret("service-account.pub"),
		"service-account-signing-key-file":   secret("service-account.key"),
		"service-cluster-ip-range":           strings.Join(cluster.Network().ServiceCIDRs(), ","),
		"tls-cert-file":                      secret("apiserver.crt"),
		"tls-cipher-suites":                  apiServerCipherSuites,
		"tls-min-version":                    "VersionTLS12",
		"tls-private-key-file":               secret("apiserver.key"),
	})

	extra := cluster.APIServer().ExtraArgs()
	if namesAuthorization(extra) {
		c.Arguments["authorization-mode"] = []string{"Node,RBAC"}
	} else {
		c.Arguments["authorization-config"] = []string{file("authorization-config.yaml")}
	}

	return c, c.Arguments.Merge(extra, apiServerPolicies)
}

const apiServerCipherSuites = "TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256," +
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305," +
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384," +
	"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"

var apiServerPolicies = merged(
	arguments.Policies(arguments.Additive, "enable-admission-plugins", "feature-gates", "authorization-mode", "tls-cipher-suites"),
	arguments.Policies(arguments.Denied, "etcd-servers", "client-ca-file", "requestheader-client-ca-file", "proxy-client-cert-file", "proxy-client-key-file",
		"encryption-provider-config", "etcd-cafile", "etcd-certfile", "etcd-keyfile", "kubelet-client-certificate", "kubelet-client-key",
		"service-account-key-file", "service-account-signing-key-file", "tls-cert-file", "tls-private-key-file", "authorization-config"),
)

// namesAuthorization says whether extraArgs set the authorization modes themselves.
func namesAuthorization(extra map[string][]string) bool {
	for key := range extra {
		if key == "authorization-mode" || strings.HasPrefix(key, "authorization-webhook-") {
			return true
		}
	}

	return false
}

func (p *Plane) controllerManager(provider config.Provider) (Component, error) {
	cluster := provider.Cluster()
	c := Component{
		Name:        ControllerManager,
		Image:       cluster.ControllerManager().Image(),
		environment: environment(cluster.ControllerManager().Env()),
		probe:       "https://localhost:10257/healthz",
	}
	secret := func(name string) string { return p.Secrets.Path(c.Name + "/" + name) }

	c.Arguments = arguments.Of(map[string]string{
		"allocate-node-cidrs":              "true",
		"authentication-kubeconfig":        secret("kubeconfig"),
		"authorization-kubeconfig":         secret("kubeconfig"),
		"bind-address":                     "127.0.0.1",
		"cluster-cidr":                     strings.Join(cluster.Network().PodCIDRs(), ","),
		"cluster-signing-cert-file":        secret("ca.crt"),
		"cluster-signing-key-file":         secret("ca.key"),
		"configure-cloud-routes":           "false",
		"controllers":                      "*,tokencleaner",
		"kubeconfig":                       secret("kubeconfig"),
		"leader-elect":                     "true",
		"profiling":                        "false",
		"root-ca-file":                     secret("ca.crt"),
		"service-account-private-key-file": secret("service-account.key"),
		"service-cluster-ip-range":         strings.Join(cluster.Network().ServiceCIDRs(), ","),
		"tls-min-version":                  "VersionTLS13",
		"use-service-account-credentials":  "true",
	})

	return c, c.Arguments.Merge(cluster.ControllerManager().ExtraArgs(), merged(
		arguments.Policies(arguments.Additive, "controllers"),
		arguments.Policies(arguments.Denied, "service-cluster-ip-range", "cluster-cidr", "cluster-signing-cert-file", "cluster-signing-key-file",
			"authentication-kubeconfig", "authorization-kubeconfig", "kubeconfig", "root-ca-file", "service-account-private-key-file"),
	))
}

func (p *Plane) scheduler(provider config.Provider) (Component, error) {
	cluster := provider.Cluster()
	c := Component{
		Name:        Scheduler,
		Image:       cluster.Scheduler().Image(),
		environment: environment(cluster.Scheduler().Env()),
		probe:       "https://localhost:10259/readyz",
	}
	kubeconfig := p.Secrets.Path(c.Name + "/kubeconfig")

	settings := map[string]any{
		"apiVersion":       "kubescheduler.config.k8s.io/v1",
		"kind":             "KubeSchedulerConfiguration",
		"clientConnection": map[string]any{"kubeconfig": kubeconfig},
	}
	maps.Copy(settings, cluster.Scheduler().Config())

	c.files = map[string][]byte{"scheduler-config.yaml": kubeapi.MustJSON(settings)}
	c.Arguments = arguments.Of(map[string]string{
		"authentication-kubeconfig":              kubeconfig,
		"authentication-tolerate-lookup-failure": "false",
		"authorization-kubeconfig":               kubeconfig,
		"bind-address":                           "127.0.0.1",
		"config":                                 p.podFile(c.Name, "scheduler-config.yaml"),
		"leader-elect":                           "true",
		"profiling":                              "false",
		"tls-min-version":                        "VersionTLS13",
	})

	return c, c.Arguments.Merge(cluster.Scheduler().ExtraArgs(),
		arguments.Policies(arguments.Denied, "kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig", "config"))
}

func environment(values map[string]string) []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		list = append(list, key+"="+values[key])
	}

	return list
}

func merged(all ...map[string]arguments.Policy) map[string]arguments.Policy {
	result := map[string]arguments.Policy{}
	for _, part := range all {
		maps.Copy(result, part)
	}

	return result
}

// object is a Kubernetes configuration file; JSON is YAML.
type object = map[string]any

func admissionConfig(cluster talosconfig.ClusterConfig) []byte {
	plugins := []object{}
	for _, plugin := range cluster.APIServer().AdmissionControl() {
		plugins = append(plugins, object{"name": plugin.Name(), "configuration": plugin.Configuration()})
	}

	return kubeapi.MustJSON(object{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": plugins})
}

// encryptionConfig encrypts secrets in etcd; what was written with the older key can still be read.
func encryptionConfig(cluster talosconfig.ClusterConfig) []byte {
	providers := []object{}

	if secret := cluster.SecretboxEncryptionSecret(); secret != "" {
		providers = append(providers, object{"secretbox": object{"keys": []object{{"name": "key2", "secret": secret}}}})
	}

	if secret := cluster.AESCBCEncryptionSecret(); secret != "" {
		providers = append(providers, object{"aescbc": object{"keys": []object{{"name": "key1", "secret": secret}}}})
	}

	return kubeapi.MustJSON(object{
		"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
		"resources": []object{{"resources": []string{"secrets"}, "providers": append(providers, object{"identity": object{}})}},
	})
}

// authorizationConfig always holds the Node and RBAC authorizers, at the front when the configuration leaves them out.
func authorizationConfig(cluster talosconfig.ClusterConfig) []byte {
	authorizers := []object{}
	named := map[string]bool{}

	for _, authorizer := range cluster.APIServer().AuthorizationConfig() {
		entry := object{"type": authorizer.Type(), "name": authorizer.Name()}
		if webhook := authorizer.Webhook(); len(webhook) > 0 {
			entry["webhook"] = webhook
		}

		authorizers = append(authorizers, entry)
		named[authorizer.Type()] = true
	}

	for position, standard := range v1alpha1.APIServerDefaultAuthorizationConfigAuthorizers {
		if !named[standard.Type] {
			authorizers = slices.Insert(authorizers, min(position, len(authorizers)), object{"type": standard.Type, "name": standard.Name})
		}
	}

	return kubeapi.MustJSON(object{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": authorizers})
}
