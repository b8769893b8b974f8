"""Configuration: the model of everything that an operator can set for a platform.

One class a section of the stack file (`platform:<section>`), frozen and closed: an unknown key is
an error. Keys are camelCase in YAML and JSON, snake_case here. Secrets are never in the model, see
`config.secret_keys`. A `Settings` comes from `config.parse`, `config.load_file` or
`components.stack_settings.load_from_pulumi`, which also hold the rules between sections.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from config import versions
from config.values import (
    Address,
    AgePublicKey,
    Bucket,
    Certificates,
    ClientId,
    Clock,
    Contract,
    Cron,
    Date,
    Device,
    Direct,
    Domain,
    Email,
    Extension,
    Folder,
    GiteaName,
    GitHubName,
    GitUrl,
    GroupName,
    GroupPath,
    Host,
    HostedZone,
    HostKey,
    HostPort,
    HttpsUrl,
    Interface,
    InterfaceAddress,
    Interval,
    Inventory,
    KeyName,
    KubernetesKey,
    KubernetesValue,
    Label,
    LogDestination,
    MachineApi,
    MailServer,
    Network,
    Origin,
    PortGroup,
    ProxyUrl,
    Range,
    Region,
    Registry,
    Revision,
    Schematic,
    SecretName,
    SlackChannel,
    StorageUrl,
    Team,
    Text,
    TimeServer,
    TreePath,
    Version,
    Zone,
    parse_address,
    parse_network,
    refuse,
)

API_PORT = 6443
"""Of the Kubernetes API. Network policies see it there too: a Service's address is translated
before."""

# The maximums of a virtual machine in vSphere 8 (configmax.broadcom.com).
MOST_CPUS = 768
MOST_MEMORY_MIB = 24 * 1024 * 1024
LARGEST_DISK_GIB = 62 * 1024
MOST_DATA_DISKS = 14
"""A SCSI controller has 15 places, the system disk takes one."""
CONTROLLER_UNIT = 7
"""The unit that a SCSI controller has for itself."""
MOST_CARDS = 10
MOST_REPLICAS = 100
MOST_ENTRIES = 100
"""Entries of a list that nobody makes longer: name servers, pools, teams, taints."""


class Model(BaseModel):
    """What all sections share: closed, frozen, and no guessing of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


# --- The platform, its site and its machines ---------------------------------------------------


class Expiry(Model):
    """An entry of `platform:cluster.expiries`: the day on which a secret ends at its issuer."""

    name: SecretName = Field(description="the secret, by its key in the stack file")
    ends: Date = Field(description="the last day on which its issuer accepts it")


class Cluster(Model):
    """`platform:cluster`: the cluster as a whole."""

    name: Label = Field(description="the cluster's name, also of its contexts and folder")
    lifecycle: Literal["standalone", "omni"] = Field(
        default="standalone", description="who configures the machines"
    )
    drill: bool = Field(
        default=False,
        description="whether this is a rehearsal, which must not use up what production needs",
    )
    expiries: tuple[Expiry, ...] = Field(
        default=(), description="when secrets end at their issuers; reviews warn 60 days before"
    )


class Site(Model):
    """`platform:site`: where in which vCenter the platform lives."""

    vcenter: Host = Field(description="vCenter's host name")
    user: Text = Field(description="the vCenter user, as in pulumi@vsphere.local")
    datacenter: Inventory = Field(description="the vSphere datacenter's name")
    cluster: Inventory = Field(description="the vSphere cluster's name")
    resource_pool: Inventory | None = Field(
        default=None,
        description="the resource pool in that cluster for the machines; missing: its root",
    )
    datastore: Inventory = Field(description="the datastore for the machines' disks and the image")
    storage_policy: Text | None = Field(
        default=None,
        description="the storage policy of the machines and their disks, which fits the datastore; "
        "missing: the datastore's default",
    )
    network: PortGroup = Field(description="the port group that the machines are joined to")
    folder: Folder = Field(description="the folder for the machines, made by the stack")
    content_library: Text = Field(
        description="the content library for the image, made by the stack"
    )
    tag_category: Text | None = Field(
        default=None,
        description="the category of the tags `controlplane` and `worker`, made by the stack with "
        "them; missing: CLUSTER-role",
    )
    existing: tuple[Literal["folder", "contentLibrary", "tagCategory"], ...] = Field(
        default=(),
        description="which of the three exist without the stack: it uses them, and neither makes "
        "nor removes them; decided before the first installation",
    )
    anti_affinity: Literal["mandatory", "preferred", "none"] = Field(
        default="mandatory",
        description="how strictly DRS keeps control planes on different hosts; `none` without DRS",
    )
    allow_unverified_tls: bool = Field(
        default=False, description="whether to accept any certificate of vCenter"
    )
    image_factory: HostPort = Field(
        default="factory.talos.dev", description="the Talos image factory's host"
    )
    definitions: HttpsUrl | None = Field(
        default=None,
        description="a mirror of https://raw.githubusercontent.com, for the definitions of "
        "Gateway API and Traefik; missing: GitHub itself",
    )
    trusted_roots: Certificates | None = Field(
        default=None,
        description="the authorities of your company, in PEM, which machines and services trust "
        "beside the public ones",
    )


class DataDisk(Model):
    """A disk beside the system disk."""

    name: Label = Field(description="the disk's name; it also decides the disk's unit")
    size_gib: int = Field(
        alias="sizeGiB", ge=1, le=LARGEST_DISK_GIB, description="the disk's size in GiB"
    )
    unit: int | None = Field(
        default=None,
        ge=1,
        le=MOST_DATA_DISKS,
        description="the disk's unit on the SCSI controller, where that of its name is taken",
    )
    filesystem: Literal["xfs", "ext4", "none"] = Field(
        default="xfs",
        description="what the disk's volume is formatted with, which is mounted at /var/mnt/NAME; "
        "`none` leaves the disk as it is, to a storage system of your own",
    )

    @property
    def has_volume(self) -> bool:
        """Whether Talos makes a volume of the disk."""
        return self.filesystem != "none"

    @property
    def target(self) -> int:
        """The disk's SCSI target as the machine sees it: its unit, but for the controller's own."""
        return self.place + 1 if self.place >= CONTROLLER_UNIT else self.place

    @property
    def place(self) -> int:
        """The disk's unit on the SCSI controller, 1 to 14: by its name, wherever it is listed.

        So a disk that comes or goes moves no other one.
        """
        if self.unit is not None:
            return self.unit
        digest = hashlib.sha256(self.name.encode()).digest()
        return 1 + int.from_bytes(digest[:8], "big") % MOST_DATA_DISKS


class Taint(Model):
    """A taint of the machine's node."""

    key: KubernetesKey = Field(description="the taint's key")
    value: KubernetesValue = Field(default="", description="the taint's value")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        description="the taint's effect"
    )


class Card(Model):
    """An entry of a machine's `networks`: a further network card, eth1 for the first of them."""

    network: PortGroup = Field(description="the port group that the card is joined to")
    address: InterfaceAddress = Field(
        description="its static address with the network's size, as in 192.168.20.51/24; no route "
        "goes through it but to that network"
    )
    mtu: int | None = Field(
        default=None, ge=1280, le=9000, description="the largest packet; missing: 1500"
    )


class Machine(Model):
    """An entry of `platform:machines`: a virtual machine, which becomes a node."""

    name: Label = Field(description="the machine's name, also its host name")
    address: Address = Field(description="the machine's static IPv4 address")
    role: Literal["controlplane", "worker"] = Field(description="the machine's role")
    cpus: int = Field(le=MOST_CPUS, description="the number of virtual CPUs")
    memory_mib: int = Field(
        alias="memoryMiB", le=MOST_MEMORY_MIB, description="the memory in MiB, a multiple of 4"
    )
    disk_gib: int = Field(
        alias="diskGiB", le=LARGEST_DISK_GIB, description="the system disk's size in GiB"
    )
    data_disks: tuple[DataDisk, ...] = Field(
        default=(), max_length=MOST_DATA_DISKS, description="disks beside the system disk"
    )
    host: Host | None = Field(default=None, description="the ESXi host to place the machine on")
    datastore: Inventory | None = Field(
        default=None, description="the datastore for the machine's disks; missing: site.datastore"
    )
    networks: tuple[Card, ...] = Field(
        default=(),
        max_length=MOST_CARDS - 1,
        description="network cards beside the one in the machines' network",
    )
    labels: dict[KubernetesKey, KubernetesValue] = Field(
        default_factory=dict, description="labels of the machine's node"
    )
    taints: tuple[Taint, ...] = Field(default=(), description="taints of the machine's node")

    @property
    def is_control_plane(self) -> bool:
        """Whether the machine runs etcd and the API server."""
        return self.role == "controlplane"

    @property
    def volumes(self) -> tuple[DataDisk, ...]:
        """The data disks of which Talos makes volumes."""
        return tuple(disk for disk in self.data_disks if disk.has_volume)


# --- Network -----------------------------------------------------------------------------------


class Pool(Model):
    """An entry of `platform:network.pools`: addresses for Services of type LoadBalancer."""

    name: Label = Field(description="the pool's name")
    addresses: Range = Field(description="a range as in 172.16.20.100-172.16.20.150, or a network")


class Firewall(Model):
    """`platform:network.firewall`: who reaches the machines; the cluster's own parts always do."""

    operators: tuple[Network, ...] = Field(
        min_length=1,
        description="networks of the people and CI that reach the APIs of Talos and Kubernetes",
    )
    kubernetes: tuple[Network, ...] = Field(
        default=(), description="further networks that reach the API of Kubernetes alone"
    )


class Proxy(Model):
    """`platform:network.proxy`: what machines and the services' pods use to get outside."""

    url: ProxyUrl = Field(description="its URL, as in http://proxy.example.com:3128")
    direct: tuple[Direct, ...] = Field(
        default=(),
        description="hosts, domains (.example.com) and networks of the site that are reached "
        "without it; the machines' network and the cluster's own are added",
    )


class NetworkSettings(Model):
    """`platform:network`: the machines' network, and the networks inside the cluster."""

    cidr: Network = Field(description="the machines' network, as in 172.16.20.0/24")
    gateway: Address = Field(description="the machines' default gateway")
    name_servers: tuple[Address, ...] = Field(min_length=1, description="DNS servers' addresses")
    time_servers: tuple[TimeServer, ...] = Field(
        default=("time.cloudflare.com",), min_length=1, description="NTP servers"
    )
    vip: Address | None = Field(
        default=None, description="the virtual address of the Kubernetes API"
    )
    pods: Network = Field(
        default=parse_network("10.244.0.0/16"), description="the pods' network inside the cluster"
    )
    services: Network = Field(
        default=parse_network("10.96.0.0/12"), description="the Services' network in the cluster"
    )
    pools: tuple[Pool, ...] = Field(default=(), description="pools of LoadBalancer addresses")
    proxy: Proxy | None = Field(
        default=None, description="the HTTP proxy to the internet; missing: none is needed"
    )
    firewall: Firewall | None = Field(
        default=None,
        description="close the machines' ports to all but the cluster and these networks; "
        "open when missing",
    )


# --- Talos and Kubernetes ----------------------------------------------------------------------


class LogDestinations(Model):
    """Where Talos sends its logs as JSON lines."""

    services: tuple[LogDestination, ...] = Field(default=(), description="for the services' logs")
    kernel: tuple[LogDestination, ...] = Field(default=(), description="for the kernel's log")


class DiskEncryption(Model):
    """How the machines' own partitions are encrypted (LUKS2); fixed once a machine is installed."""

    key: Literal["nodeId", "kms"] = Field(
        description="where the key comes from: the machine's UUID, or a key management server"
    )
    endpoint: HttpsUrl | None = Field(
        default=None, description="kms: the server's URL, as in https://kms.example.com:4050"
    )

    @model_validator(mode="after")
    def _endpoint_of_the_key(self) -> DiskEncryption:
        if self.key == "kms" and self.endpoint is None:
            refuse("kms without `endpoint`", "give the key management server's URL")
        if self.key == "nodeId" and self.endpoint is not None:
            refuse("nodeId with `endpoint`", "remove it")
        return self


class Mirror(Model):
    """An entry of `platform:talos.mirrors`: where the images of a registry are pulled from."""

    registry: Registry = Field(
        description="the registry as images name it, as in docker.io; * is every other one"
    )
    endpoints: tuple[HttpsUrl, ...] = Field(
        min_length=1, description="URLs of its mirrors, tried in this order"
    )
    override_path: bool = Field(
        default=False,
        description="whether the URLs hold the whole path, as in https://mirror.example.com/v2/hub",
    )
    skip_fallback: bool = Field(
        default=False, description="never pull from the registry itself, even if no mirror answers"
    )


class RegistryLogin(Model):
    """`platform:talos.registryLogin`: its password is the secret registryPassword."""

    registry: HostPort = Field(description="the host of the mirror or registry that asks for it")
    user: Text = Field(description="the user that may pull")


class Talos(Model):
    """`platform:talos`: the operating system."""

    version: Version = Field(default=versions.TALOS, description="Talos' exact version")
    contract: Contract = Field(
        default="1.13",  # no pin: it never follows a new Talos by itself
        description="the Talos minor version whose defaults configurations are generated with; "
        "stays what it was when the cluster was made",
    )
    schematic: Schematic | None = Field(default=None, description="an image factory schematic's id")
    extensions: tuple[Extension, ...] | None = Field(
        default=None, description="system extensions to make a schematic of"
    )
    install_disk: Device = Field(default="/dev/sda", description="the disk that Talos installs to")
    patches: TreePath = Field(
        default="clusters/prod", description="the folder of machine configuration patches"
    )
    log_destinations: LogDestinations = Field(
        default_factory=LogDestinations, description="where Talos sends its logs"
    )
    disk_encryption: DiskEncryption | None = Field(
        default=None,
        description="encrypt the machines' own partitions, and the volumes of data disks; decided "
        "before the first installation",
    )
    drain_seconds: int = Field(
        default=300,
        ge=10,
        le=3600,
        description="how long an upgrade waits for a node's pods to go elsewhere, before it stops",
    )
    mirrors: tuple[Mirror, ...] = Field(
        default=(), max_length=MOST_ENTRIES, description="mirrors of the images' registries"
    )
    registry_login: RegistryLogin | None = Field(
        default=None, description="who pulls images where a mirror or registry asks for a login"
    )
    discovery: bool = Field(
        default=True, description="whether machines find each other by discovery.talos.dev"
    )

    @model_validator(mode="after")
    def _schematic_or_extensions(self) -> Talos:
        if (self.schematic is None) == (self.extensions is None):
            fault = "neither `schematic` nor `extensions`"
            if self.schematic is not None:
                fault = "both `schematic` and `extensions`"
            refuse(fault, "give exactly one; `extensions: []` is plain Talos")
        return self

    @property
    def tag(self) -> str:
        """The version as Talos' own tools and images write it: `v1.13.9`."""
        return f"v{self.version}"

    @property
    def contract_tag(self) -> str:
        """The contract as the provider takes it: `v1.13.0`."""
        return f"v{self.contract}.0"

    @property
    def schematic_document(self) -> str | None:
        """The schematic to register with the image factory; `None` when its id was given.

        Written exactly as the factory writes it (indented by four), with the extensions sorted as
        its web page does, because the id is this text's checksum.
        """
        if self.extensions is None:
            return None
        if not self.extensions:
            return "customization: {}\n"
        lines = [
            "customization:",
            "    systemExtensions:",
            "        officialExtensions:",
            *(f"            - {name}" for name in sorted(self.extensions)),
        ]
        return "\n".join(lines) + "\n"

    @property
    def schematic_id(self) -> str:
        """The schematic's id: the SHA-256 of its document (image-factory, pkg/schematic, ID)."""
        if self.schematic is not None:
            return self.schematic
        return hashlib.sha256((self.schematic_document or "").encode()).hexdigest()


class Kubernetes(Model):
    """`platform:kubernetes`: the Kubernetes release that Talos runs."""

    version: Version = Field(default=versions.KUBERNETES, description="Kubernetes' exact version")

    @property
    def tag(self) -> str:
        """The version as Kubernetes' own tools and images write it: `v1.34.1`."""
        return f"v{self.version}"


# --- Omni --------------------------------------------------------------------------------------


class Omni(Model):
    """`platform:omni`: the Sidero Omni that manages the cluster, with `cluster.lifecycle: omni`."""

    version: Version = Field(
        default=versions.OMNI, description="the exact version of Omni, and of omnictl"
    )
    endpoint: Origin = Field(description="Omni's URL, as in https://omni.example.com")
    machine_api: MachineApi = Field(
        description="where machines join: `apiUrl` of `omnictl jointoken machine-config`, without "
        "its token"
    )
    event_port: int = Field(
        ge=1,
        le=65535,
        description="the port of `endpoint` that `omnictl jointoken machine-config` prints for "
        "EventSinkConfig",
    )
    log_port: int = Field(
        default=8092,
        ge=1,
        le=65535,
        description="the port of `url` that it prints for KmsgLogConfig",
    )
    kubernetes_proxy: Origin = Field(
        description="the URL of Omni's proxy to the Kubernetes APIs, as in "
        "https://omni.example.com:8095"
    )
    tunnel: bool = Field(
        default=False,
        description="whether machines reach Omni by gRPC alone, where UDP does not get through",
    )
    backup_interval: Interval = Field(
        default="1h", description="how often Omni takes a backup of etcd, 1h to 24h"
    )
    access_days: int = Field(
        default=365,
        ge=30,
        le=3650,
        description="how many days the kubeconfig is good for that the stack fetches from Omni",
    )
    access_renewed: Date | None = Field(
        default=None,
        description="the day on which the kubeconfig was last renewed; a change fetches a new one",
    )
    lost: tuple[Label, ...] = Field(
        default=(),
        max_length=MOST_ENTRIES,
        description="machines, no longer in platform:machines, that are gone for good: Omni takes "
        "them out of the cluster without waiting for them",
    )

    @property
    def tag(self) -> str:
        """The version as Omni's own tools write it: `v1.9.3`."""
        return f"v{self.version}"


# --- Services ----------------------------------------------------------------------------------


class BgpPeer(Model):
    """A router that Cilium announces to."""

    address: Address = Field(description="the router's address")
    asn: int = Field(ge=1, le=4294967295, description="the router's autonomous system number")


class Bgp(Model):
    """Cilium's BGP control plane."""

    local_asn: int = Field(ge=1, le=4294967295, description="our autonomous system number")
    peers: tuple[BgpPeer, ...] = Field(min_length=1, description="the routers to announce to")


def _chart_mirror() -> Any:  # noqa: ANN401 pydantic's own
    return Field(
        default=None, description="a mirror of the chart's repository; missing: its project's own"
    )


class Cilium(Model):
    """Pod network, kube-proxy's replacement and Gateway API."""

    version: Version = Field(default=versions.CILIUM, description="the chart's version")
    repository: HttpsUrl | None = _chart_mirror()
    gateway_api_version: Version = Field(
        default=versions.GATEWAY_API, description="the version of Gateway API's definitions"
    )
    routing: Literal["native", "geneve", "vxlan"] = Field(
        default="native",
        description="how pods' packets go between machines: as they are, or in a tunnel",
    )
    bgp: Bgp | None = Field(default=None, description="announce by BGP; off when missing")


class MetalLB(Model):
    """Addresses for Services of type LoadBalancer, announced on layer 2."""

    version: Version = Field(default=versions.METALLB, description="the chart's version")
    repository: HttpsUrl | None = _chart_mirror()
    interface: Interface = Field(default="eth0", description="the network interface to announce on")
    spare_addresses: int = Field(
        default=1, ge=0, le=1 << 16, description="addresses to keep for applications' own Services"
    )


def _keys(names: Sequence[str], joint: str = "and") -> str:
    return f" {joint} ".join(f"`{name}`" for name in names)


SolverValue = bool | int | str | list[Any] | dict[str, Any]
"""What a webhook's solver takes is its own."""


class DnsChallenge(Model):
    """How cert-manager proves the domain to an ACME server (DNS-01)."""

    provider: Literal["cloudflare", "rfc2136", "route53", "webhook"] = Field(
        description="who serves the domain; `webhook` is a solver that you install yourself"
    )
    name_server: HostPort | None = Field(
        default=None, description="rfc2136: the name server to update, with its port if not 53"
    )
    key_name: KeyName | None = Field(default=None, description="rfc2136: the TSIG key's name")
    algorithm: Literal["HMACMD5", "HMACSHA1", "HMACSHA256", "HMACSHA512"] | None = Field(
        default=None, description="rfc2136: the TSIG key's algorithm; missing is HMACSHA256"
    )
    region: Region | None = Field(default=None, description="route53: the AWS region")
    hosted_zone_id: HostedZone | None = Field(
        default=None, description="route53: the hosted zone; missing: the one that fits"
    )
    group_name: Domain | None = Field(
        default=None, description="webhook: the API group that its solver serves"
    )
    solver_name: Label | None = Field(default=None, description="webhook: the solver's name")
    config: dict[str, SolverValue] | None = Field(
        default=None,
        description="webhook: the solver's own settings, without secrets: it finds dnsToken in "
        "the Secret dns-token, key token",
    )
    resolvers: tuple[Address, ...] = Field(
        default=(parse_address("1.1.1.1"), parse_address("9.9.9.9")),
        min_length=1,
        description="name servers that see the domain as the ACME server does",
    )

    @model_validator(mode="after")
    def _settings_of_the_provider(self) -> DnsChallenge:
        takes = {
            "rfc2136": ("nameServer", "keyName"),
            "route53": ("region",),
            "webhook": ("groupName", "solverName"),
        }
        may = {"rfc2136": ("algorithm",), "route53": ("hostedZoneId",), "webhook": ("config",)}
        given = {
            "nameServer": self.name_server,
            "keyName": self.key_name,
            "algorithm": self.algorithm,
            "region": self.region,
            "hostedZoneId": self.hosted_zone_id,
            "groupName": self.group_name,
            "solverName": self.solver_name,
            "config": self.config,
        }
        needed = takes.get(self.provider, ())
        if missing := [key for key in needed if given[key] is None]:
            refuse(f"{self.provider} without {_keys(missing, 'or')}", f"give {_keys(needed)}")
        known = (*needed, *may.get(self.provider, ()))
        if foreign := [key for key, one in given.items() if one is not None and key not in known]:
            refuse(f"{self.provider} with {_keys(foreign)}", f"remove {_keys(foreign)}")
        return self


class AcmeServer(Model):
    """An ACME server of one's own, such as step-ca or a company's."""

    directory: HttpsUrl = Field(
        description="its directory, as in https://ca.example.com/acme/acme/directory"
    )
    ca: Certificates | None = Field(
        default=None,
        description="who signed the server's own certificate, in PEM; missing: a public authority",
    )


class CertManager(Model):
    """Certificates: the platform's wildcard certificate, and those of applications."""

    version: Version = Field(default=versions.CERT_MANAGER, description="the chart's version")
    repository: HttpsUrl | None = _chart_mirror()
    issuer: Literal["letsencrypt-production", "letsencrypt-staging", "acme", "private-ca"] = Field(
        description="who issues the certificates; `acme` is a server of one's own"
    )
    domain: Domain = Field(
        description="the platform's domain; certificates are for it and *.DOMAIN"
    )
    email: Email | None = Field(default=None, description="for the ACME server's notices")
    acme: AcmeServer | None = Field(default=None, description="the ACME server of one's own")
    dns: DnsChallenge | None = Field(
        default=None, description="how the domain is proven to the ACME server"
    )

    @property
    def uses_acme(self) -> bool:
        """Whether certificates come from an ACME server."""
        return self.issuer != "private-ca"

    @model_validator(mode="after")
    def _settings_of_the_issuer(self) -> CertManager:
        given = self.email is not None, self.dns is not None
        if self.uses_acme and given != (True, True):
            refuse(f"{self.issuer} without `email` or `dns`", "give both")
        if not self.uses_acme and given != (False, False):
            refuse("private-ca with `email` or `dns`", "remove them")
        if self.issuer == "acme" and self.acme is None:
            refuse("acme without the server's `acme`", "give `acme.directory`")
        if self.issuer != "acme" and self.acme is not None:
            refuse(f"{self.issuer} with `acme`", "remove it, or set issuer: acme")
        return self


class Traefik(Model):
    """Ingress: HTTPS from outside."""

    version: Version = Field(default=versions.TRAEFIK, description="the chart's version")
    repository: HttpsUrl | None = _chart_mirror()
    address: Address = Field(description="the fixed address from one of the pools")
    replicas: int = Field(default=3, ge=2, le=MOST_REPLICAS, description="the number of pods")
    dashboard_domain: Domain | None = Field(
        default=None, description="serve the dashboard there, behind a password"
    )


class MetricsServer(Model):
    """Resource metrics for autoscaling and `kubectl top`."""

    version: Version = Field(default=versions.METRICS_SERVER, description="the chart's version")
    repository: HttpsUrl | None = _chart_mirror()


class GitHubLogin(Model):
    """Single sign-on with GitHub (an OAuth application of the organization)."""

    host_name: Host | None = Field(
        default=None, description="GitHub Enterprise Server's host; missing for github.com"
    )
    client_id: ClientId = Field(description="the OAuth application's client id")
    organization: GitHubName = Field(description="the GitHub organization")
    admin_teams: tuple[Team, ...] = Field(min_length=1, description="teams that may do anything")
    viewer_teams: tuple[Team, ...] = Field(default=(), description="teams that may look")


class GitLabLogin(Model):
    """Single sign-on with GitLab (an application with the scopes read_user and openid)."""

    url: HttpsUrl = Field(description="GitLab's URL, as in https://gitlab.example.com")
    client_id: ClientId = Field(description="the application's id")
    admin_groups: tuple[GroupPath, ...] = Field(
        min_length=1, description="groups that may do anything"
    )
    viewer_groups: tuple[GroupPath, ...] = Field(default=(), description="groups that may look")


class GiteaLogin(Model):
    """Single sign-on with Gitea or Forgejo (an OAuth2 application)."""

    url: HttpsUrl = Field(description="its URL, as in https://gitea.example.com")
    client_id: ClientId = Field(description="the OAuth2 application's client id")
    organization: GiteaName = Field(description="the organization")
    admin_teams: tuple[GiteaName, ...] = Field(
        min_length=1, description="teams that may do anything"
    )
    viewer_teams: tuple[GiteaName, ...] = Field(default=(), description="teams that may look")


class OidcLogin(Model):
    """Single sign-on with any OpenID Connect provider that tells a user's groups."""

    name: Text = Field(default="OpenID Connect", description="what the login's button says")
    issuer: HttpsUrl = Field(description="the provider's issuer URL")
    client_id: ClientId = Field(description="the client's id")
    admin_groups: tuple[GroupName, ...] = Field(
        min_length=1, description="groups that may do anything"
    )
    viewer_groups: tuple[GroupName, ...] = Field(default=(), description="groups that may look")


class RepositoryAccess(Model):
    """How Argo CD reads a private repository; its key is the secret argocdRepositoryKey."""

    kind: Literal["githubApp", "token", "deployKey"] = Field(
        description="by a GitHub App's key, by a token of any Git host over https, or by a deploy "
        "key over SSH"
    )
    app_id: int | None = Field(default=None, ge=1, description="githubApp: the App's id")
    installation_id: int | None = Field(
        default=None, ge=1, description="githubApp: the id of its installation"
    )
    user: Text | None = Field(
        default=None, description="token: the user that the host wants beside it"
    )
    host_keys: tuple[HostKey, ...] = Field(
        default=(), description="deployKey: the public keys of the host's SSH server"
    )

    @model_validator(mode="after")
    def _settings_of_the_kind(self) -> RepositoryAccess:
        given = {
            "appId": self.app_id is not None,
            "installationId": self.installation_id is not None,
            "user": self.user is not None,
            "hostKeys": bool(self.host_keys),
        }
        wanted = {"githubApp": {"appId", "installationId"}, "token": {"user"}, "deployKey": set()}
        known = wanted[self.kind] | ({"hostKeys"} if self.kind == "deployKey" else set())
        lacking = [name for name in wanted[self.kind] if not given[name]]
        strange = [name for name, there in given.items() if there and name not in known]
        fixes = {
            "githubApp": "give `appId` and `installationId` alone",
            "token": "give `user` alone (GitHub: x-access-token, GitLab: oauth2, Gitea: the "
            "token's own user)",
            "deployKey": "give `hostKeys` alone",
        }
        if lacking:
            refuse(f"{self.kind} without `{min(lacking)}`", fixes[self.kind])
        if strange:
            refuse(f"{self.kind} with `{strange[0]}`", fixes[self.kind])
        return self


class CommitStatuses(Model):
    """Where Argo CD tells what became of a commit; its key is the secret commitStatusKey."""

    app_id: int | None = Field(default=None, ge=1, description="github: the GitHub App's id")
    installation_id: int | None = Field(
        default=None, ge=1, description="github: the id of the App's installation"
    )
    url: HttpsUrl | None = Field(
        default=None,
        description="the URL of GitLab or GitHub Enterprise Server; missing: the host of "
        "repositoryUrl, by https",
    )


class ArgoCD(Model):
    """GitOps: what runs on the platform comes from Git."""

    version: Version = Field(default=versions.ARGO_CD, description="the chart's version")
    repository: HttpsUrl | None = _chart_mirror()
    domain: Domain = Field(description="where Argo CD is served")
    repository_url: GitUrl = Field(description="the Git repository of platform/ and apps/")
    revision: Revision = Field(default="main", description="the branch or tag to follow")
    git_host: Literal["github", "gitlab", "gitea", "other"] = Field(
        default="github",
        description="what serves the repository, and calls Argo CD's webhook (gitea: Forgejo too; "
        "other: nothing calls)",
    )
    repository_authority: Literal["public", "company"] | None = Field(
        default=None,
        description="who signed the https certificate of the repository's host: a public "
        "authority, or one of site.trustedRoots",
    )
    repository_access: RepositoryAccess | None = Field(
        default=None, description="how a private repository is read; missing for a public one"
    )
    commit_statuses: CommitStatuses | None = Field(
        default=None,
        description="set a status on each commit that Argo CD has synced, or failed to "
        "(gitHost github and gitlab)",
    )
    github: GitHubLogin | None = Field(default=None, description="single sign-on with GitHub")
    gitlab: GitLabLogin | None = Field(default=None, description="single sign-on with GitLab")
    gitea: GiteaLogin | None = Field(
        default=None, description="single sign-on with Gitea or Forgejo"
    )
    oidc: OidcLogin | None = Field(default=None, description="single sign-on by OpenID Connect")


class Backup(Model):
    """Encrypted etcd snapshots to S3-compatible storage."""

    endpoint: StorageUrl = Field(
        description="the S3 endpoint's URL; by http the snapshots are encrypted all the same, but "
        "who is on the way can delete or replace them"
    )
    bucket: Bucket = Field(description="the bucket's name")
    region: Region = Field(default="us-east-1", description="the bucket's region")
    path_style: bool = Field(
        default=True,
        description="whether the bucket is part of the URL's path, not of its host name",
    )
    schedule: Cron = Field(default="0 * * * *", description="when to take a snapshot")
    age_public_key: AgePublicKey = Field(
        description="the age public key that snapshots are encrypted for"
    )


class LocalVolumes(Model):
    """The machines' data disks as volumes that pods can claim."""

    storage_class: Label = Field(
        default="local", description="the name of the StorageClass that claims ask for"
    )
    default: bool = Field(
        default=False, description="whether claims that name no class get volumes of this one"
    )


class WebhookReceiver(Model):
    """A server that takes Alertmanager's JSON; its URL is the secret alertWebhookUrl."""

    port: int = Field(default=443, ge=1, le=65535, description="the port in that URL")


class SlackReceiver(Model):
    """A Slack channel; the URL of its incoming webhook is the secret alertSlackUrl."""

    channel: SlackChannel = Field(description="the channel, as in '#platform'")


class MailReceiver(Model):
    """E-mail by a server with STARTTLS; the user's password is the secret alertMailPassword."""

    to: Email = Field(description="who gets them")
    sender: Email = Field(description="whom they are from")
    server: MailServer = Field(description="the mail server and its port")
    user: Text = Field(description="the user that the server knows")


class PagerDutyReceiver(Model):
    """A PagerDuty service, for critical alerts alone; its key is the secret alertPagerDutyKey."""


class Receivers(Model):
    """Who is told of alerts."""

    webhook: WebhookReceiver | None = Field(default=None, description="a server that takes JSON")
    slack: SlackReceiver | None = Field(default=None, description="a Slack channel")
    email: MailReceiver | None = Field(default=None, description="an e-mail address")
    pager_duty: PagerDutyReceiver | None = Field(
        default=None, description="PagerDuty, for critical alerts alone"
    )


class Monitoring(Model):
    """Metrics, alerts and dashboards; what runs is in platform/monitoring."""

    receivers: Receivers = Field(description="who is told of alerts; at least one")
    heartbeat: bool = Field(
        default=False,
        description="call the secret heartbeatUrl every minute, for a service outside that tells "
        "when the calls stop",
    )
    retention_days: int = Field(
        default=30, ge=1, le=730, description="for how many days metrics are kept"
    )
    volume_gib: int | None = Field(
        default=None,
        ge=5,
        le=1024,
        description="keep metrics on a volume of localVolumes of at least this size; missing: on "
        "the machine's own disk, and lost with the pod's place",
    )

    @model_validator(mode="after")
    def _somebody_is_told(self) -> Monitoring:
        given = self.receivers.model_dump(exclude_none=True)
        if not given:
            refuse(
                "alerts that nobody gets",
                "give `receivers` a `webhook`, `slack`, `email` or `pagerDuty`",
            )
        if given.keys() == {"pager_duty"}:
            refuse(
                "PagerDuty alone, which gets critical alerts only",
                "give `receivers` a `webhook`, `slack` or `email` for the others",
            )
        return self


class Logging(Model):
    """Logs of machines, containers and the API; what runs is in platform/logging."""

    machines: bool = Field(
        default=True, description="have Talos send its services' and the kernel's logs there too"
    )
    retention_days: int = Field(
        default=14, ge=1, le=365, description="for how many days logs are kept"
    )
    size_gib: int = Field(
        default=10, ge=1, le=1000, description="how much they may take; the oldest day goes first"
    )
    volume: bool = Field(
        default=False,
        description="keep them on a volume of localVolumes of at least sizeGib; otherwise on the "
        "machine's own disk, and lost with the pod's place",
    )


class Services(Model):
    """`platform:services`: what the platform runs; a service that is missing is not installed."""

    cilium: Cilium | None = Field(default=None, description="pod network")
    metallb: MetalLB | None = Field(default=None, description="LoadBalancer addresses")
    cert_manager: CertManager | None = Field(default=None, description="certificates")
    traefik: Traefik | None = Field(default=None, description="ingress")
    metrics_server: MetricsServer | None = Field(default=None, description="resource metrics")
    argocd: ArgoCD | None = Field(default=None, description="GitOps")
    backup: Backup | None = Field(default=None, description="etcd backups")
    local_volumes: LocalVolumes | None = Field(
        default=None, description="data disks as volumes of pods"
    )
    monitoring: Monitoring | None = Field(
        default=None, description="metrics, alerts and dashboards"
    )
    logging: Logging | None = Field(default=None, description="logs in one place")


# --- Updates -----------------------------------------------------------------------------------

Step = Literal["off", "patch", "minor"]
"""The largest step of a version that is made without a person."""
Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class Window(Model):
    """`platform:updates.window`: when updates are deployed without a person."""

    days: tuple[Day, ...] = Field(min_length=1, description="the days on which it opens")
    opens: Clock = Field(description='the time of day, in quotes, as in "22:00"')
    closes: Clock = Field(
        description="until when a deployment may begin; the next day when not after `opens`"
    )
    zone: Zone = Field(default="UTC", description="the time zone, as in Europe/Berlin")


class Updates(Model):
    """`platform:updates`: which new versions are merged and deployed without a person."""

    window: Window | None = Field(default=None, description="when they are deployed")
    minimum_age_days: int = Field(
        default=5, ge=1, le=90, description="how old a release must be, in days"
    )
    talos: Step = Field(default="off", description="the machines' Talos")
    kubernetes: Step = Field(default="off", description="Kubernetes")
    cilium: Step = Field(default="off", description="Cilium, and Gateway API's definitions")
    metallb: Step = Field(default="off", description="MetalLB")
    cert_manager: Step = Field(default="off", description="cert-manager")
    traefik: Step = Field(default="off", description="Traefik, and its definitions")
    metrics_server: Step = Field(default="off", description="metrics-server, and its approver")
    argocd: Step = Field(default="off", description="Argo CD, and what Git says of it")
    backup: Step = Field(default="off", description="the backup job")

    @model_validator(mode="after")
    def _window_for_what_is_on(self) -> Updates:
        if self.steps and self.window is None:
            on = _keys(sorted(self.steps))
            refuse(f"{on} on, without a `window`", "give the window, or set them to off")
        return self

    @property
    def steps(self) -> dict[str, Step]:
        """The layers that are updated without a person, by their keys here, and how far."""
        every = self.model_dump(by_alias=True, exclude={"window", "minimum_age_days"})
        return {layer: step for layer, step in every.items() if step != "off"}


# --- Everything --------------------------------------------------------------------------------


class Settings(Model):
    """All settings of one platform, in the order in which problems are reported."""

    cluster: Cluster = Field(description="the cluster's name and lifecycle")
    site: Site = Field(description="where in which vCenter the platform lives")
    machines: tuple[Machine, ...] = Field(description="the list of machines")
    network: NetworkSettings = Field(description="the machines' network and the cluster's networks")
    talos: Talos = Field(description="Talos' version and image")
    kubernetes: Kubernetes = Field(default_factory=Kubernetes, description="the Kubernetes version")
    omni: Omni | None = Field(
        default=None, description="the Omni that manages the cluster, with lifecycle omni"
    )
    services: Services = Field(default_factory=Services, description="what the platform runs")
    updates: Updates = Field(
        default_factory=Updates, description="which new versions need no person"
    )

    @property
    def control_planes(self) -> tuple[Machine, ...]:
        """The machines that run etcd and the API server; the first one bootstraps the cluster."""
        return tuple(machine for machine in self.machines if machine.is_control_plane)

    @property
    def workers(self) -> tuple[Machine, ...]:
        """The machines that only run workloads."""
        return tuple(machine for machine in self.machines if not machine.is_control_plane)

    @property
    def endpoint(self) -> str:
        """The machines' own URL of the Kubernetes API.

        On the VIP, or on the only control plane when there is none.
        """
        return f"https://{self.network.vip or self.control_planes[0].address}:{API_PORT}"

    @property
    def access_url(self) -> str:
        """The URL of the Kubernetes API that the stack and operators use: Omni has its own."""
        return self.endpoint if self.omni is None else self.omni.kubernetes_proxy

    @property
    def ova_url(self) -> str:
        """Where the image factory serves the machines' image."""
        talos = self.talos
        factory = self.site.image_factory
        return f"https://{factory}/image/{talos.schematic_id}/{talos.tag}/vmware-amd64.ova"

    @property
    def installer_image(self) -> str:
        """The installer image for `machine.install.image` and for upgrades."""
        talos = self.talos
        return f"{self.site.image_factory}/vmware-installer/{talos.schematic_id}:{talos.tag}"
