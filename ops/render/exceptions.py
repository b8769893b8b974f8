"""Layer Render: what may break a rule of `ops.render.policies`, and why: one table.

An exception that nothing needs any more is an error: an upgrade that fixes something shows here.
"""

from __future__ import annotations

from collections.abc import Mapping

from ops.render.policies import Allowed

PROGRAM = "program"
"""What the Pulumi program makes itself, without a chart."""


def token(workload: str, why: str) -> Allowed:
    """Let a workload have its service account's token: it talks to the API."""
    return Allowed("token", workload, why)


def every(rules: str, workload: str, why: str, *parts: str) -> tuple[Allowed, ...]:
    """Allow several rules' breach to the same containers for one reason."""
    return tuple(Allowed(rule, workload, why, parts or ("",)) for rule in rules.split())


AGENT = "DaemonSet kube-system/cilium"
ENVOY = "DaemonSet kube-system/cilium-envoy"
OPERATOR = "Deployment kube-system/cilium-operator"
HUBBLE_UI = "Deployment kube-system/hubble-ui"
SPEAKER = "DaemonSet metallb-system/metallb-speaker"
AGENT_CONTAINERS = (
    "config",
    "apply-sysctl-overwrites",
    "mount-bpf-fs",
    "clean-cilium-state",
    "install-cni-binaries",
    "cilium-agent",
)
CAPABLE = ("config", "apply-sysctl-overwrites", "clean-cilium-state", "cilium-agent")
DATA_PATH = "it is the machine's network: loads eBPF programs and sets up interfaces, as root"
GOPS = "its diagnostic agent (gops) writes to /home/gops, and the program ends when it cannot"


def _certificates(workload: str) -> tuple[Allowed, ...]:
    """Hubble's certificates: a Job at the installation, a CronJob after it, of one template."""
    why = "the chart sets this pod's context itself and has no value for it; it has no capability"
    return (
        token(workload, "writes the certificates as Secrets"),
        *every("read-only non-root", workload, why, "certgen"),
    )


CILIUM = (
    *every("host-namespaces host-path", AGENT, DATA_PATH),
    token(AGENT, "watches services, endpoints, policies and nodes"),
    *every("escalation read-only non-root seccomp", AGENT, DATA_PATH, *AGENT_CONTAINERS),
    Allowed("added-capabilities", AGENT, DATA_PATH + "; none loads kernel modules", CAPABLE),
    *every(
        "privileged capabilities",
        AGENT,
        "mounts the bpf file system for the machine, which needs mount propagation",
        "mount-bpf-fs",
    ),
    *every("host-namespaces host-path", ENVOY, "takes connections that eBPF hands over"),
    *every(
        "escalation read-only non-root seccomp added-capabilities",
        ENVOY,
        "binds sockets transparently and reads the agent's eBPF maps, as root",
        "cilium-envoy",
    ),
    Allowed("host-namespaces", OPERATOR, "runs before there is a pod network"),
    token(OPERATOR, "registers the definitions, and looks after Cilium's objects"),
    *every("read-only", OPERATOR, GOPS, "cilium-operator"),
    *every(
        "non-root", OPERATOR, f"upstream's image has no user but root; {GOPS}", "cilium-operator"
    ),
    *every("read-only", "Deployment kube-system/hubble-relay", GOPS, "hubble-relay"),
    token(HUBBLE_UI, "lists namespaces and pods for its menus"),
    *every(
        "read-only",
        HUBBLE_UI,
        "upstream does not run them read-only; nothing is known of what they "
        "write, and they have neither root nor a capability",
        "frontend",
        "backend",
    ),
    *_certificates("Job kube-system/hubble-generate-certs-*"),
    *_certificates("CronJob kube-system/hubble-generate-certs"),
)

METALLB = (
    Allowed("host-namespaces", SPEAKER, "answers ARP on the machine's own interface"),
    token(SPEAKER, "watches services, endpoints and nodes"),
    *every(
        "non-root added-capabilities", SPEAKER, "raw sockets, for ARP; as root in it", "speaker"
    ),
    token("Deployment metallb-system/metallb-controller", "gives addresses to Services"),
)

CERT_MANAGER = (
    token("Deployment cert-manager/cert-manager", "watches certificates and writes Secrets"),
    token("Deployment cert-manager/cert-manager-cainjector", "puts authorities into webhooks"),
    token("Deployment cert-manager/cert-manager-webhook", "keeps its authority in a Secret"),
)

TRAEFIK = (token("Deployment traefik/traefik", "watches routes, services and Secrets"),)

METRICS_SERVER = (
    token(
        "Deployment metrics-server/metrics-server", "authenticates who asks, watches nodes and pods"
    ),
)

ARGO_CD = (
    token("Deployment argocd/argo-cd-argocd-server", "shows what is in the cluster, and logins"),
    token("Deployment argocd/argo-cd-argocd-dex-server", "reads its configuration from Secrets"),
    token("Deployment argocd/argo-cd-argocd-applicationset-controller", "makes the Applications"),
    token("Deployment argocd/argo-cd-argocd-notifications-controller", "watches Applications"),
    token("StatefulSet argocd/argo-cd-argocd-application-controller", "applies what is in Git"),
)

OWN = (
    token(
        "Deployment kubelet-serving-cert-approver/kubelet-serving-cert-approver",
        "approves certificate requests",
    ),
    token("Deployment platform-backup/backup-metrics", "watches the backup's jobs"),
    Allowed(
        "plain-secret",
        "CronJob platform-backup/etcd-backup",
        "AGE_X25519_PUBLIC_KEY is a public key: what it encrypts only the private half opens",
        ("talos-backup",),
    ),
)

PODINFO = (
    Allowed(
        "priority",
        "Deployment app-podinfo/podinfo",
        "an application: without a class it makes room for what applications stand on",
    ),
)

MONITORING = (
    token("Deployment monitoring/victoria-metrics", "finds its targets, which want to know it"),
    token("Deployment monitoring/kube-state-metrics", "watches nodes, pods and autoscalers"),
)

AGENT_OF_LOGS = "DaemonSet logging/vlagent"
LOGGING = (
    token(AGENT_OF_LOGS, "asks which pod a file is of"),
    Allowed("host-path", AGENT_OF_LOGS, "reads the logs that lie on its machine"),
    Allowed(
        "non-root", AGENT_OF_LOGS, "these files are root's; it has no capability", ("vlagent",)
    ),
)

EXCEPTIONS: Mapping[str, tuple[Allowed, ...]] = {
    "cilium": CILIUM,
    "metallb": METALLB,
    "cert-manager": CERT_MANAGER,
    "traefik": TRAEFIK,
    "metrics-server": METRICS_SERVER,
    "argo-cd": ARGO_CD,
    PROGRAM: OWN,
    "podinfo": PODINFO,
    "monitoring": MONITORING,
    "logging": LOGGING,
}
