package programs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Image is a container image whose program the lab can run as a process.
type Image struct {
	// Repository is the image's name without tag and digest.
	Repository string
	// Part is the program's name where the image's own says too little.
	Part string
	// Files are the programs of Bin by their place in the image.
	Files map[string]string
	// System are further ones, where the computer's own programs lie: they take the place of those of the computer.
	System map[string]string
	// Needs are programs of the computer that the image's own ones call.
	Needs []string
	// Entrypoint, Command, Folder, User and Environment are the image's own, which a pod may override.
	Entrypoint  []string
	Command     []string
	Folder      string
	User, Group int64
	Environment []string
	// Asked says that its programs are built only when somebody asks for them: see Built.
	Asked bool
	// Kind is "real", or "stand-in" for a program of the lab's own that does the work of the real one.
	Kind string
	// Says is one line on what it is, for a run's summary.
	Says string
}

// Name is the program's, as a run's summary has it: the last part of the image's name, if there is no better one.
func (i Image) Name() string {
	if i.Part != "" {
		return i.Part
	}

	return i.Repository[strings.LastIndexByte(i.Repository, '/')+1:]
}

// Lab is the lab's own program, which is several by their names.
const Lab = "lab"

// Users of images: of distroless ones, and of Dex' own.
const (
	nonRoot = 65532
	dexUser = 1001
)

// Images are those that the lab knows.
func Images() []Image {
	return []Image{
		{
			Repository: "registry.k8s.io/metrics-server/metrics-server", Files: map[string]string{"/metrics-server": "metrics-server"},
			Entrypoint: []string{"/metrics-server"}, User: nonRoot, Group: nonRoot, Kind: "real", Says: "built from its module",
		},
		{
			Repository: "registry.k8s.io/coredns/coredns", Files: map[string]string{"/coredns": "coredns"},
			Entrypoint: []string{"/coredns"}, User: nonRoot, Group: nonRoot, Kind: "real", Says: "built from its module, with the plugins of Talos' Corefile",
		},
		certManager("controller", "built from its module, without the issuers Vault and Venafi"),
		certManager("webhook", "built from its module"),
		certManager("cainjector", "built from its module"),
		{
			Repository: "ghcr.io/stefanprodan/podinfo", Files: map[string]string{"/home/app/podinfo": "podinfo", "/home/app/podcli": "podinfo"},
			Command: []string{"./podinfo"}, Folder: "/home/app", User: 100, Group: 101, Kind: "stand-in",
			Says: "the paths, ports and probes of podinfo that the platform and its tests use",
		},
		{
			Repository: "ghcr.io/siderolabs/talos-backup", Files: map[string]string{"/talos-backup": Lab},
			Entrypoint: []string{"/talos-backup"}, User: nonRoot, Group: nonRoot, Kind: "stand-in",
			Says: "does what 0.1.0-beta.3 does, over Talos' own client, age and Amazon's library; the storage outside is simulated",
		},
		{
			Repository: "ghcr.io/alex1989hu/kubelet-serving-cert-approver", Files: map[string]string{"/app/kubelet-serving-cert-approver": Lab},
			Entrypoint: []string{"/app/kubelet-serving-cert-approver"}, User: nonRoot, Group: nonRoot, Kind: "stand-in",
			Says: "approves by the rules of 0.11.0, over Kubernetes' own client; without metrics",
		},
		{
			Repository: "docker.io/traefik", Files: map[string]string{"/usr/local/bin/traefik": "traefik"},
			Entrypoint: []string{"/usr/local/bin/traefik"}, Kind: "real",
			Says: "built from its module's packages; no ACME, plugins, ECS, Tailscale, tracing, and no pages of the dashboard",
		},
		{
			Repository: "quay.io/metallb/controller", Part: "metallb-controller", Files: map[string]string{"/controller": "metallb-controller"},
			Entrypoint: []string{"/controller"}, Kind: "real", Says: "built from its module",
		},
		{
			Repository: "quay.io/metallb/speaker", Part: "metallb-speaker", Files: map[string]string{"/speaker": "metallb-speaker"},
			Entrypoint: []string{"/speaker"}, Kind: "real", Says: "built from its module; layer 2 only, as the platform's settings have it",
		},
		argoCD(),
		{
			// Its pod runs Argo CD's program, copied from the other image, which starts this one.
			Repository: "ghcr.io/dexidp/dex", Files: map[string]string{"/usr/local/bin/dex": Lab}, Entrypoint: []string{"/usr/local/bin/dex"},
			User: dexUser, Group: dexUser, Kind: "stand-in",
			Says: "Argo CD's own rundex is real; Dex 2.45 itself has its ports, checks and metrics here, and lets nobody in",
		},
		{
			Repository: "ecr-public.aws.com/docker/library/redis", Files: in("/usr/local/bin", "redis", "redis-server", "redis-sentinel", "redis-cli"),
			Entrypoint: []string{"redis-server"}, Folder: "/data", User: 999, Group: 1000, Kind: "stand-in",
			Says: "miniredis, and a sentinel without votes: the first server that answers is the master, and a new one begins empty",
		},
		{
			Repository: "ecr-public.aws.com/docker/library/haproxy", Files: in("/usr/local/sbin", "redis", "haproxy"),
			Command: []string{"haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"}, Folder: "/var/lib/haproxy", User: 99, Group: 99, Kind: "stand-in",
			Says: "brings connections to the first Redis of its configuration that answers",
		},
		{
			Repository: "ghcr.io/oliver006/redis_exporter", Files: in("", "redis", "redis_exporter"),
			Entrypoint: []string{"/redis_exporter"}, User: 59000, Group: 59000, Kind: "stand-in", Says: "whether its Redis answers",
		},
		{
			Repository: "registry.k8s.io/kube-state-metrics/kube-state-metrics", Files: map[string]string{"/kube-state-metrics": Lab},
			Entrypoint: []string{"/kube-state-metrics", "--port=8080", "--telemetry-port=8081"}, User: nobody, Group: nobody, Kind: "stand-in",
			Says: "some of the metrics of 2.17 under their real names, over Kubernetes' own client",
		},
		victoriaImage("victoria-metrics", "built from its module, with its pages"),
		victoriaImage("vmalert", "built from its module"),
		victoriaImage("victoria-logs", "built from its module, with its pages"),
		victoriaImage("vlagent", "built from its module"),
		{
			// In the real image it lies in /bin, which is the computer's own here.
			Repository: "quay.io/prometheus/alertmanager", Files: map[string]string{"/usr/local/bin/alertmanager": "alertmanager"}, Asked: true,
			Entrypoint: []string{"/usr/local/bin/alertmanager"},
			Command:    []string{"--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"},
			Folder:     "/alertmanager", User: nobody, Group: nobody, Kind: "real", Says: "built from its module, without its pages",
		},
	}
}

// nobody is the user of some images.
const nobody = 65534

// victoriaImage is an image of VictoriaMetrics' makers: one program in the root, which names no user.
func victoriaImage(name, says string) Image {
	place := "/" + name + "-prod"

	return Image{
		Repository: "docker.io/victoriametrics/" + name, Files: map[string]string{place: name}, Asked: true,
		Entrypoint: []string{place}, Kind: "real", Says: says,
	}
}

// Built leaves out the images whose programs are built only when somebody asks for them, and are not in bin. Their pods are
// simulated, like those of images that the lab does not know.
func Built(bin string, images []Image) []Image {
	return slices.DeleteFunc(slices.Clone(images), func(one Image) bool {
		if !one.Asked {
			return false
		}

		for _, name := range one.Files {
			if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
				return true
			}
		}

		return false
	})
}

// certManager is one of cert-manager's images: one program does the work of all, by the name that it is started with.
func certManager(name, says string) Image {
	const user = 1000

	place := "/app/cmd/" + name + "/" + name

	return Image{
		Repository: "quay.io/jetstack/cert-manager-" + name, Files: map[string]string{place: "cert-manager"},
		Entrypoint: []string{place}, User: user, Group: user, Kind: "real", Says: says,
	}
}

// argoCD is the image of all of Argo CD's parts (its Dockerfile).
func argoCD() Image {
	files := in("/usr/local/bin", "argocd", "argocd", "argocd-server", "argocd-repo-server", "argocd-application-controller",
		"argocd-applicationset-controller", "argocd-notifications", "argocd-dex")
	for _, name := range []string{"helm", "kustomize", "git-verify-wrapper.sh", "gpg-wrapper.sh"} {
		files["/usr/local/bin/"+name] = name
	}

	return Image{
		// The chart's pods copy the program with an option that cp has since 2023 only.
		Repository: "quay.io/argoproj/argocd", Files: files, System: map[string]string{"/bin/cp": Lab}, Needs: []string{"git", "gpg", "ssh"},
		Folder: "/home/argocd", User: 999, Group: 999, Kind: "real",
		Environment: []string{"USER=argocd", "HOME=/home/argocd", "GRPC_ENABLE_TXT_SERVICE_CONFIG=false"},
		Says:        "built from its module, of the nearest version that is served; without the web interface and the command line",
	}
}

// in gives places of a folder that all have one program.
func in(folder, program string, names ...string) map[string]string {
	files := map[string]string{}
	for _, name := range names {
		files[folder+"/"+name] = program
	}

	return files
}

// ImageOf finds what a pod's image is; false for one that the lab does not know.
func ImageOf(images []Image, reference string) (Image, bool) {
	repository := Repository(reference)

	at := slices.IndexFunc(images, func(one Image) bool { return one.Repository == repository })
	if at < 0 {
		return Image{}, false
	}

	return images[at], true
}

// Repository is an image's name without tag and digest.
func Repository(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}

	return name
}
