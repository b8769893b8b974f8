package world

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// outside are variables that lead out of a world, or to trust that does not belong in it.
var outside = []string{
	"SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
	"PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE_FILE", "LAB_OUT", "KUBECONFIG", "TALOSCONFIG", "VSPHERE_PASSWORD", "VSPHERE_USER", "VSPHERE_SERVER",
	"OMNI_ENDPOINT", "OMNI_SERVICE_ACCOUNT_KEY", "SIDERO_SERVICE_ACCOUNT_KEY", "OMNICONFIG", // the second key wins over the first
	"AWS_CA_BUNDLE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
}

// environment is what a command in the world gets: the tools on PATH, the lab's authority as the
// only trusted one, and Pulumi with a backend and plugins of the world's own.
func environment(l Layout, s *Spec) []string {
	set := ownEnvironment(l, s)
	set["PATH"] = set["LAB_PATH"] + ":" + os.Getenv("PATH")
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if _, ours := set[name]; !ours && !slices.Contains(outside, name) {
			env = append(env, pair)
		}
	}
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// ownEnvironment are the world's own variables, without PATH.
func ownEnvironment(l Layout, s *Spec) map[string]string {
	set := map[string]string{
		"LAB_PATH": strings.Join([]string{l.Tools(), s.Bin, filepath.Join(s.Project, ".venv", "bin")}, ":"),

		"LAB_WORLD":          l.Root,
		"SSL_CERT_FILE":      l.Authority(),
		"REQUESTS_CA_BUNDLE": l.Authority(),
		"CURL_CA_BUNDLE":     l.Authority(),
		"GIT_SSL_CAINFO":     l.Authority(), // Git is built with an authority of the system's own

		"PULUMI_HOME":              l.PulumiHome(),
		"PULUMI_BACKEND_URL":       l.BackendURL(),
		"PULUMI_STACK":             s.Stack,
		"PULUMI_CONFIG_PASSPHRASE": s.Secrets.Passphrase,
		// The engine must not look for anything outside.
		"PULUMI_SKIP_UPDATE_CHECK":                    "true",
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
		"PULUMI_DISABLE_REGISTRY_RESOLVE":             "true",
		"PULUMI_DEBUG_COMMANDS":                       "true", // for --event-log

		"XDG_CACHE_HOME": l.path("cache"), // what the program fetches, it fetches in the world
		// What a client remembers of a server: production has the same names and addresses.
		"KUBECACHEDIR":      l.path("cache", "kubectl"),
		"TALOS_HOME":        l.path("cache", "talos"),
		"GOVMOMI_HOME":      l.path("cache", "govmomi"),
		"HELM_CONFIG_HOME":  l.path("cache", "helm", "config"),
		"HELM_DATA_HOME":    l.path("cache", "helm", "data"),
		"ARGOCD_CONFIG_DIR": l.path("cache", "argocd"),
		// The tree is read-only: Python keeps what it compiled beside the lab, for all worlds.
		"PYTHONPYCACHEPREFIX": filepath.Join(s.Project, labFolder, "pycache"),
		// Else every run compiles all of the program and its packages, a third of a preview.
		"PYTHONDONTWRITEBYTECODE": "",

		"KUBECONFIG":  l.path("kubeconfig"),
		"TALOSCONFIG": l.path("talosconfig"),

		"GOVC_URL":        "https://" + s.Settings.Site.Vcenter,
		"GOVC_USERNAME":   s.Settings.Site.User,
		"GOVC_PASSWORD":   s.Secrets.Values["vspherePassword"],
		"GOVC_DATACENTER": s.Settings.Site.Datacenter,
	}
	// Most of its steps wait for the platform. Its own limit is four steps a processor: eight of two, where six charts
	// and as many gates already wait.
	if os.Getenv("PULUMI_PARALLEL") == "" {
		set["PULUMI_PARALLEL"] = strconv.Itoa(max(16, 4*runtime.NumCPU()))
	}
	for name, value := range omniEnvironment(l, s.Settings) {
		set[name] = value
	}
	if s.Out != "" {
		set["LAB_OUT"] = s.Out
	}
	return set
}
