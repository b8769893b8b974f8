"""Configuration: the rules between sections, on as many sections as could be read.

Each rule takes the draft, says nothing where a section it needs is missing, and gives every problem
it finds. Rules on addresses are in `config.addresses`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from config import addresses, gateway_api, git, omni, storage, versions
from config.draft import Draft
from config.layers import LAYERS
from config.problems import Path, Problem, problem
from config.settings import MOST_DATA_DISKS

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from config.settings import NetworkSettings, Traefik
    from config.values import AddressRange

# Talos' system requirements (docs.siderolabs.com, "System Requirements", minimum):
# role -> CPUs, memory in MiB, system disk in GiB.
MINIMUM_SIZES = {"controlplane": (2, 2048, 10), "worker": (1, 1024, 10)}

MOST_CONTROL_PLANES = 9
"""Each write waits for a majority of them; etcd's own advice is 7 at most (etcd.io, "FAQ")."""
MOST_MACHINES = 500
"""Each is asked about in every run, and each takes a /24 of the pods' network."""
MEMORY_STEP_MIB = 4
"""vCenter takes a virtual machine's memory in multiples of four MiB."""
LONGEST_VOLUME_NAME = 34
"""Of a data disk's volume: a partition's label has 36 characters, and begins with `u-`."""
LONGEST_CILIUM_NAME = 32
"""Of a cluster (Cilium's chart, templates/validate.yaml)."""


Rule = Callable[[Draft], Iterator[Problem]]


def _control_planes(draft: Draft) -> Iterator[Problem]:
    if not draft.all_machines:
        return
    count = sum(machine.is_control_plane for machine in draft.machines.values())
    if count == 0:
        yield problem(
            ("machines",),
            None,
            "no control plane",
            "give one machine, better three, `role: controlplane`",
        )
    elif count > MOST_CONTROL_PLANES:
        yield problem(
            ("machines",),
            None,
            f"{count} control planes: etcd gets slower with each, and no safer",
            f"make it 3 or 5, at most {MOST_CONTROL_PLANES}, and the others workers",
        )
    elif count % 2 == 0:
        yield problem(
            ("machines",),
            None,
            f"{count} control planes, which survive no more failures than {count - 1} would",
            f"make it {count - 1} or {count + 1}",
        )
    if len(draft.machines) > MOST_MACHINES:
        yield problem(
            ("machines",),
            None,
            f"{len(draft.machines)} machines",
            f"give at most {MOST_MACHINES}; build a second cluster for more",
        )
    if count > 1 and draft.network is not None and draft.network.vip is None:
        yield problem(
            ("network", "vip"),
            None,
            f"missing, with {count} control planes",
            "add the virtual address of the Kubernetes API, a free one of the machines' network",
        )


def _sizes(draft: Draft) -> Iterator[Problem]:
    for index, machine in draft.machines.items():
        cpus, memory, disk = MINIMUM_SIZES[machine.role]
        role = "control plane" if machine.is_control_plane else "worker"
        for key, value, least, unit in (
            ("cpus", machine.cpus, cpus, ""),
            ("memoryMiB", machine.memory_mib, memory, " MiB"),
            ("diskGiB", machine.disk_gib, disk, " GiB"),
        ):
            if value < least:
                yield problem(
                    ("machines", index, key),
                    value,
                    f"below Talos' minimum for a {role}",
                    f"give at least {least}{unit}",
                )


def _memory(draft: Draft) -> Iterator[Problem]:
    for index, machine in draft.machines.items():
        if rest := machine.memory_mib % MEMORY_STEP_MIB:
            lower = machine.memory_mib - rest
            yield problem(
                ("machines", index, "memoryMiB"),
                machine.memory_mib,
                f"not a multiple of {MEMORY_STEP_MIB} MiB, as vCenter takes memory",
                f"give {lower} or {lower + MEMORY_STEP_MIB}",
            )


def _cluster_name(draft: Draft) -> Iterator[Problem]:
    if draft.cluster is not None and len(draft.cluster.name) > LONGEST_CILIUM_NAME:
        yield problem(
            ("cluster", "name"),
            draft.cluster.name,
            f"longer than {LONGEST_CILIUM_NAME} characters, which Cilium refuses",
            "shorten it: once the cluster is built, it stands in keys, tags and backups",
        )


RESERVED_NAMES = {
    "common": "also the file of patches for every machine",
    "controlplane": "also the file of patches for control planes",
    "worker": "also the file of patches for workers",
    "localhost": "also what every computer calls itself",
    "gitops": "also the folder beside the patches that Argo CD reads",
}
"""What a machine must not be called, and why (components/talos/configuration.py)."""
SYSTEM_DISK = "system"


def _reserved_names(draft: Draft) -> Iterator[Problem]:
    for index, machine in draft.machines.items():
        if machine.name in RESERVED_NAMES:
            yield problem(
                ("machines", index, "name"),
                machine.name,
                RESERVED_NAMES[machine.name],
                "give the machine another name, as in node01",
            )
        for number, disk in enumerate(machine.data_disks):
            if disk.name == SYSTEM_DISK:
                yield problem(
                    ("machines", index, "dataDisks", number, "name"),
                    disk.name,
                    "the name of the disk that Talos is installed to",
                    "give the data disk another name",
                )


def _volume_names(draft: Draft) -> Iterator[Problem]:
    for index, machine in draft.machines.items():
        for number, disk in enumerate(machine.data_disks):
            if disk.has_volume and len(disk.name) > LONGEST_VOLUME_NAME:
                yield problem(
                    ("machines", index, "dataDisks", number, "name"),
                    disk.name,
                    f"longer than {LONGEST_VOLUME_NAME} characters, which Talos takes for a volume",
                    "shorten it, or give `filesystem: none` where Talos makes no volume of it",
                )


def _disk_units(draft: Draft) -> Iterator[Problem]:
    """Find data disks of a machine that would be at the same place of its controller."""
    for index, machine in draft.machines.items():
        taken: dict[int, str] = {}
        used = {disk.place for disk in machine.data_disks}
        free = next((one for one in range(1, MOST_DATA_DISKS + 1) if one not in used), None)
        for number, disk in enumerate(machine.data_disks):
            if disk.place in taken and taken[disk.place] != disk.name:
                yield problem(
                    ("machines", index, "dataDisks", number, "name"),
                    disk.name,
                    f"at unit {disk.place} of the SCSI controller, as is {taken[disk.place]}",
                    f"give the newer one of the two `unit: {free}`, which is free, or another name",
                )
            taken.setdefault(disk.place, disk.name)


def _hosts(draft: Draft) -> Iterator[Problem]:
    """Keep control planes on hosts of their own, as the anti-affinity rule does."""
    if draft.site is not None and draft.site.anti_affinity == "none":
        return
    seen: dict[str, str] = {}
    for index, machine in draft.machines.items():
        if not machine.is_control_plane or machine.host is None:
            continue
        if machine.host in seen:
            yield problem(
                ("machines", index, "host"),
                machine.host,
                f"also the host of control plane {seen[machine.host]}: the rule that keeps control "
                "planes apart forbids it",
                "give each control plane a host of its own, or leave `host` out",
            )
        seen.setdefault(machine.host, machine.name)


# What the API lets a kubelet set on its own node, of labels below kubernetes.io and k8s.io
# (kubernetes, staging/src/k8s.io/kubelet/pkg/apis/well_known_labels.go). On workers Talos sets
# labels as the kubelet, and with one that is refused all of the machine's are lost.
KUBELET_LABELS = frozenset(
    {
        "beta.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
KUBELET_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")
# These the kubelet writes itself, on every machine.
OWN_LABELS = frozenset(
    {
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "node-role.kubernetes.io/control-plane",
    }
)


def _is_kubernetes_domain(domain: str) -> bool:
    return any(domain == one or domain.endswith(f".{one}") for one in ("kubernetes.io", "k8s.io"))


def may_set(label: str) -> bool:
    """Say whether a kubelet may set a label on its node (the admission plugin NodeRestriction)."""
    prefix = label.rpartition("/")[0]
    allowed = any(prefix == one or prefix.endswith(f".{one}") for one in KUBELET_PREFIXES)
    return not _is_kubernetes_domain(prefix) or label in KUBELET_LABELS or allowed


def _labels(draft: Draft) -> Iterator[Problem]:
    for index, machine in draft.machines.items():
        for label, value in machine.labels.items():
            path = ("machines", index, "labels", label)
            if label in OWN_LABELS:
                yield problem(path, value, "a label that Kubernetes sets itself", "remove it")
            elif not machine.is_control_plane and not may_set(label):
                yield problem(
                    path,
                    value,
                    "a label that a worker may not set on its node: Kubernetes refuses it, and "
                    "with it all labels and taints of the machine",
                    "use a domain of your own, as in example.com/role; one below kubernetes.io can "
                    "be set later with `kubectl label node`",
                )


CONDITIONS = ("node.kubernetes.io", "node.cloudprovider.kubernetes.io")
KEEPS_PODS_AWAY = frozenset({"NoSchedule", "NoExecute"})


def _taints(draft: Draft) -> Iterator[Problem]:
    for index, machine in draft.machines.items():
        seen: set[str] = set()
        for number, taint in enumerate(machine.taints):
            path = ("machines", index, "taints", number, "key")
            if taint.key in seen:
                yield problem(
                    path,
                    taint.key,
                    "a taint that the machine has already: Talos keeps one for each key",
                    "keep one of the two",
                )
            seen.add(taint.key)
            if taint.key.rpartition("/")[0] in CONDITIONS:
                fault = "a taint that Kubernetes itself sets and removes"
                yield problem(path, taint.key, fault, "use a domain of your own")
    everywhere = draft.all_machines and all(
        any(one.effect in KEEPS_PODS_AWAY for one in machine.taints)
        for machine in draft.machines.values()
    )
    if everywhere and draft.machines:
        yield problem(
            ("machines",),
            None,
            "all have taints that keep pods away: the platform's own services find no machine to "
            "run on",
            "remove the taints of some, or add a worker without one",
        )


def _domains(draft: Draft) -> Iterator[Problem]:
    """Hold the names that are served against the certificate, and against each other."""
    if draft.services is None or draft.services.cert_manager is None:
        return
    domain = draft.services.cert_manager.domain
    traefik, argocd = draft.services.traefik, draft.services.argocd
    seen: dict[str, str] = {}
    for service, key, name in (
        ("traefik", "dashboardDomain", None if traefik is None else traefik.dashboard_domain),
        ("argocd", "domain", None if argocd is None else argocd.domain),
    ):
        if name is None:
            continue
        path: Path = ("services", service, key)
        if name != domain and name.partition(".")[2] != domain:
            yield problem(
                path,
                name,
                f"not in the platform's certificate, which is for {domain} and *.{domain}",
                f"use a name as {service}.{domain}, or change services.certManager.domain",
            )
        if name in seen:
            yield problem(
                path, name, f"also the name of {seen[name]}", "give each service its own name"
            )
        seen.setdefault(name, f"services.{service}.{key}")


def _repeated(
    named: Iterable[tuple[Path, str]], what: str, fix: str = "give each its own name"
) -> Iterator[Problem]:
    """Find names that are given twice; `named` holds each name with its path."""
    seen: set[str] = set()
    for path, name in named:
        if name in seen:
            yield problem(path, name, f"the name of another {what}", fix)
        seen.add(name)


def _names(draft: Draft) -> Iterator[Problem]:
    machines = draft.machines.items()
    yield from _repeated(((("machines", i, "name"), m.name) for i, m in machines), "machine")
    for index, machine in machines:
        disks = enumerate(machine.data_disks)
        path: Path = ("machines", index, "dataDisks")
        yield from _repeated((((*path, i, "name"), disk.name) for i, disk in disks), "data disk")
    if draft.cluster is not None:
        expiries = enumerate(draft.cluster.expiries)
        yield from _repeated(
            ((("cluster", "expiries", i, "name"), one.name) for i, one in expiries),
            "expiry",
            "keep one of the two",
        )
    if draft.network is not None:
        pools = enumerate(draft.network.pools)
        yield from _repeated(
            ((("network", "pools", i, "name"), pool.name) for i, pool in pools), "pool"
        )
    if draft.talos is not None:
        mirrors = enumerate(draft.talos.mirrors)
        yield from _repeated(
            ((("talos", "mirrors", i, "registry"), one.registry) for i, one in mirrors),
            "mirror's registry",
            "list all its `endpoints` in one entry",
        )
        extensions = enumerate(draft.talos.extensions or ())
        yield from _repeated(
            ((("talos", "extensions", i), name) for i, name in extensions), "extension"
        )


def _addresses(draft: Draft) -> Iterator[Problem]:
    if len(draft.machines) > MOST_MACHINES:
        return
    plan = addresses.entries(
        draft.machines, draft.network, draft.site, draft.services, draft.talos, omni=draft.omni
    )
    yield from addresses.problems(plan)
    if draft.network is not None:
        yield from addresses.network_sizes(draft.network, len(draft.machines))


def _talos_and_kubernetes(draft: Draft) -> Iterator[Problem]:
    if draft.talos is None or draft.kubernetes is None:
        return
    talos = versions.minor(draft.talos.version)
    span = versions.TALOS_KUBERNETES.get(talos)
    if span is None:
        yield problem(
            ("talos", "version"),
            draft.talos.version,
            "not a Talos release that the stack knows",
            f"use one of {', '.join(versions.TALOS_KUBERNETES)}",
        )
    elif not versions.fits(versions.minor(draft.kubernetes.version), span):
        yield problem(
            ("kubernetes", "version"),
            draft.kubernetes.version,
            f"does not run on Talos {draft.talos.version}",
            f"use Kubernetes {versions.describe(span)}",
        )


def _contract(draft: Draft) -> Iterator[Problem]:
    if draft.talos is None:
        return
    talos, contract = versions.minor(draft.talos.version), draft.talos.contract
    known = talos in versions.TALOS_KUBERNETES
    if known and versions.parse(contract) > versions.parse(talos):
        yield problem(
            ("talos", "contract"),
            contract,
            f"newer than Talos {draft.talos.version}, which does not know all that it writes",
            f'write "{talos}", or the contract that the cluster was made with',
        )


def _services_and_kubernetes(draft: Draft) -> Iterator[Problem]:
    if draft.services is None or draft.kubernetes is None:
        return
    given = {
        "cilium": draft.services.cilium,
        "metricsServer": draft.services.metrics_server,
        "argocd": draft.services.argocd,
    }
    for (name, line), span in versions.SERVICE_KUBERNETES.items():
        service = given[name]
        if service is None or not versions.fits(service.version, (line, line)):
            continue
        if not versions.fits(versions.minor(draft.kubernetes.version), span):
            yield problem(
                ("services", name, "version"),
                service.version,
                f"does not run on Kubernetes {draft.kubernetes.version}",
                f"it needs Kubernetes {versions.describe(span)}",
            )


def _gateway_api(draft: Draft) -> Iterator[Problem]:
    if draft.services is None or draft.services.cilium is None:
        return
    cilium, traefik = draft.services.cilium, draft.services.traefik
    fit = versions.GATEWAY_API_FITS.get(versions.minor(cilium.version))
    if fit is None:
        yield problem(
            ("services", "cilium", "version"),
            cilium.version,
            "not a Cilium release that the stack knows",
            f"use one of {', '.join(versions.GATEWAY_API_FITS)}",
        )
        return
    if not versions.fits(cilium.gateway_api_version, fit.gateway_api):
        yield problem(
            ("services", "cilium", "gatewayApiVersion"),
            cilium.gateway_api_version,
            f"does not fit Cilium {cilium.version}",
            f"use Gateway API {versions.describe(fit.gateway_api)}",
        )
    elif cilium.gateway_api_version not in gateway_api.SHA256:
        yield problem(
            ("services", "cilium", "gatewayApiVersion"),
            cilium.gateway_api_version,
            "a version whose definitions are not pinned",
            f"use one of {', '.join(gateway_api.SHA256)}, or pin it in config/gateway_api.py",
        )
    if traefik is not None and not versions.fits(traefik.version, fit.traefik_chart):
        yield problem(
            ("services", "traefik", "version"),
            traefik.version,
            f"does not fit the Gateway API of Cilium {cilium.version}",
            f"use Traefik's chart {versions.describe(fit.traefik_chart)}",
        )


def _service_dependencies(draft: Draft) -> Iterator[Problem]:
    if draft.services is None:
        return
    there = draft.services.model_dump(by_alias=True, exclude_none=True)
    for layer in LAYERS.values():
        for below in dict.fromkeys((*layer.stands_on, *layer.partly_after, *layer.brought_by)):
            need, name = LAYERS[below].service, layer.service
            if need and name in there and need not in there:
                yield problem(
                    ("services", name),
                    None,
                    f"needs {need}, which is missing",
                    f"add `{need}` to the services, or remove `{name}`",
                )


def _local_volumes(draft: Draft) -> Iterator[Problem]:
    """Find a service of volumes that has none to give."""
    if draft.services is None or draft.services.local_volumes is None or not draft.all_machines:
        return
    if not any(machine.volumes for machine in draft.machines.values()):
        yield problem(
            ("services", "localVolumes"),
            None,
            "no machine has a data disk with a filesystem",
            "give a machine `dataDisks`, or remove `localVolumes`",
        )


def _volumes_of_services(draft: Draft) -> Iterator[Problem]:
    """Find a volume for metrics or logs that no machine has."""
    services = draft.services
    if services is None or not draft.all_machines:
        return
    sizes = [disk.size_gib for machine in draft.machines.values() for disk in machine.volumes]
    monitoring, logging = services.monitoring, services.logging
    wanted: list[tuple[Path, object, int]] = []
    if monitoring is not None and monitoring.volume_gib is not None:
        key: Path = ("services", "monitoring", "volumeGib")
        wanted.append((key, monitoring.volume_gib, monitoring.volume_gib))
    if logging is not None and logging.volume:
        wanted.append((("services", "logging", "volume"), True, logging.size_gib))
    for key, value, gib in wanted:
        if services.local_volumes is None:
            fix = f"add `localVolumes` to the services, or remove `{key[-1]}`"
            yield problem(key, value, "needs localVolumes, which is missing", fix)
        elif sizes and max(sizes) < gib:
            fix = "give a machine a larger data disk, or ask for less"
            fault = f"needs {gib} GiB, and the largest data disk has {max(sizes)}"
            yield problem(key, value, fault, fix)
    if services.local_volumes is not None and 0 < len(sizes) < len(wanted):
        fix = "give a machine one more data disk, or keep one of them without a volume"
        yield problem(wanted[-1][0], wanted[-1][1], "needs a data disk of its own", fix)


def _pools(draft: Draft) -> Iterator[Problem]:
    if draft.services is None or draft.network is None:
        return
    metallb, traefik, pools = draft.services.metallb, draft.services.traefik, draft.network.pools
    if traefik is not None:
        yield from _traefik_address(traefik, draft.network)
    if metallb is None:
        return
    claimed = metallb.spare_addresses + (traefik is not None)
    size = sum(_given(pool.addresses) for pool in pools)
    if not pools:
        yield problem(
            ("network", "pools"),
            None,
            "missing, with services.metallb",
            "add a pool: `- {name: default, addresses: FIRST-LAST}`",
        )
    elif size < claimed:
        yield problem(
            ("network", "pools"),
            None,
            f"too small: {size} addresses, where services claim {claimed} "
            f"({claimed - metallb.spare_addresses} fixed, {metallb.spare_addresses} spare)"
            + ("" if size == sum(pool.addresses.size for pool in pools) else f"; {NEVER_GIVEN}"),
            "enlarge a pool, add one, or lower services.metallb.spareAddresses",
        )


NEVER_GIVEN = "MetalLB gives no address that ends in .0 or .255 (avoidBuggyIPs)"


def _given(addresses: AddressRange) -> int:
    """Count the addresses of a pool that MetalLB gives (internal/allocator, avoidBuggyIPs)."""
    first, last = int(addresses.first), int(addresses.last)
    return addresses.size - sum((last - end) // 256 - (first - 1 - end) // 256 for end in (0, 255))


def _traefik_address(traefik: Traefik, network: NetworkSettings) -> Iterator[Problem]:
    path: Path = ("services", "traefik", "address")
    if network.pools and not any(traefik.address in pool.addresses for pool in network.pools):
        yield problem(
            path,
            traefik.address,
            "in none of the pools",
            "use one of " + ", ".join(str(pool.addresses) for pool in network.pools[:10]),
        )
    elif int(traefik.address) % 256 in (0, 255):
        yield problem(path, traefik.address, NEVER_GIVEN, "use another address of the pool")


def _firewall(draft: Draft) -> Iterator[Problem]:
    if draft.network is None or draft.network.firewall is None:
        return
    network, firewall = draft.network, draft.network.firewall
    listed = [("operators", index, one) for index, one in enumerate(firewall.operators)]
    listed += [("kubernetes", index, one) for index, one in enumerate(firewall.kubernetes)]
    inner = (("pod", "pods", network.pods), ("service", "services", network.services))
    wider: list[tuple[str, int, IPv4Network]] = []
    for key, index, source in listed:
        path: Path = ("network", "firewall", key, index)
        for kind, setting, inside in inner:
            if source.overlaps(inside):
                yield problem(
                    path,
                    source,
                    f"overlaps the {kind} network {inside} (platform:network.{setting}): whoever "
                    "is there outside the cluster gets no answer",
                    "give the networks from which the machines see these computers",
                )
        for other_key, other_index, other in wider:
            if source.subnet_of(other):
                yield problem(
                    path,
                    source,
                    f"lies in {other} (platform:network.firewall.{other_key}[{other_index}])",
                    "remove it",
                )
                break
        wider.append((key, index, source))


def _cards(draft: Draft) -> Iterator[Problem]:
    """Find cards of one machine in one network, and an announcing card that no machine has."""
    site = None if draft.site is None else draft.site.network
    for index, machine in draft.machines.items():
        seen = set() if site is None else {site}
        for number, card in enumerate(machine.networks):
            if card.network in seen:
                yield problem(
                    ("machines", index, "networks", number, "network"),
                    card.network,
                    f"a port group that another card of {machine.name} is in: answers may leave by "
                    "the wrong one",
                    "give each card a port group of its own, or remove this one",
                )
            seen.add(card.network)
    metallb = None if draft.services is None else draft.services.metallb
    if metallb is None or not draft.all_machines:
        return
    path: Path = ("services", "metallb", "interface")
    cards = [f"eth{n}" for n in range(1 + max(len(m.networks) for m in draft.machines.values()))]
    name = metallb.interface.partition(".")[0]
    # Bonds and the like, which patches make, may have any name.
    if name not in cards and re.fullmatch(r"eth\d+|en[opsx]\w+", name):
        yield problem(
            path,
            metallb.interface,
            "a network card that no machine has: nothing would be announced",
            f"use {' or '.join(cards)}: Talos' image for VMware names network cards so",
        )


def _place(draft: Draft) -> Iterator[Problem]:
    """Find what names something existing that the stack would make, or the other way round."""
    if draft.site is None:
        return
    site = draft.site
    yield from _repeated(
        ((("site", "existing", i), one) for i, one in enumerate(site.existing)),
        "entry",
        "keep one of the two",
    )
    if "tagCategory" in site.existing and site.tag_category is None:
        yield problem(
            ("site", "tagCategory"),
            None,
            "missing, with `tagCategory` among site.existing",
            "name the category, which has the tags `controlplane` and `worker`",
        )


def _git(draft: Draft) -> Iterator[Problem]:
    if draft.services is not None and draft.services.argocd is not None:
        yield from git.problems(draft.services.argocd)
        if draft.site is not None:
            company = draft.site.trusted_roots is not None
            yield from git.authority_problems(draft.services.argocd, company=company)


def _storage(draft: Draft) -> Iterator[Problem]:
    """Find an endpoint, a bucket and a region that no S3 request could be made of."""
    if draft.services is not None and draft.services.backup is not None:
        yield from storage.problems(draft.services.backup)


def _drill(draft: Draft) -> Iterator[Problem]:
    if draft.cluster is None or draft.services is None or draft.services.cert_manager is None:
        return
    issuer = draft.services.cert_manager.issuer
    if draft.cluster.drill and issuer == "letsencrypt-production":
        yield problem(
            ("services", "certManager", "issuer"),
            issuer,
            "in a drill (platform:cluster.drill), which would use up production's certificates: "
            "Let's Encrypt gives five a week for the same names",
            "use letsencrypt-staging or private-ca, or set platform:cluster.drill to false",
        )


RULES: tuple[Rule, ...] = (
    omni.problems,
    _control_planes,
    _sizes,
    _memory,
    _cluster_name,
    _reserved_names,
    _volume_names,
    _disk_units,
    _hosts,
    _labels,
    _taints,
    _domains,
    _names,
    _addresses,
    _talos_and_kubernetes,
    _contract,
    _services_and_kubernetes,
    _gateway_api,
    _service_dependencies,
    _local_volumes,
    _volumes_of_services,
    _pools,
    _firewall,
    _cards,
    _place,
    _git,
    _storage,
    _drill,
)


def check(draft: Draft) -> Iterator[Problem]:
    """Hold all rules against a draft."""
    for rule in RULES:
        yield from rule(draft)
