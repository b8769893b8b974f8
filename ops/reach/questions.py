"""Reach: everything that the settings need from their site, as questions.

docs/site-requirements.md lists the same for people. A row that only the machines need is tried from
here all the same; its answer is a hint.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from clients.chart_repositories import package_of
from clients.talosctl import TALOS_API_PORT, local_address
from components.kubernetes.cert_manager import OWN_SERVER, acme_servers
from components.kubernetes.foundation import load_definitions
from components.kubernetes.manifests import ManifestError
from components.layers import plans
from components.talos import firewall
from components.talos.inputs import TalosInputs
from config import gateway_api, git
from config.addresses import Entry, Kind
from config.problems import key_of
from config.settings import API_PORT
from config.show import address_plan
from config.values import split_git_url, split_url
from ops.reach.network import (
    DNS_A,
    DNS_PORT,
    DNS_REFUSED,
    DNS_SOA,
    NTP_PORT,
    Answer,
    Network,
    NotTriedError,
    Probe,
    probe,
    who_answers,
)
from ops.reach.report import Question, RefusedError

if TYPE_CHECKING:
    from config.charts import ChartPlan
    from config.problems import Path
    from config.settings import Settings

HTTPS_PORT = 443
PORTS = (TALOS_API_PORT, API_PORT, HTTPS_PORT, 80, 22)
"""Where somebody who has an address of ours would most likely answer."""
MOST_POOL_ADDRESSES = 128
"""Addresses of one pool that are tried."""
SOON_DAYS = 30
CLOCK_SECONDS = 60.0
"""Certificates made here are valid from this computer's now: machines behind would refuse them."""
LABEL = "reach-check"
"""Any label: the record of `*.DOMAIN` answers for it."""

DOCKER_HUB, DOCKER_REGISTRY = "docker.io", "registry-1.docker.io"
"""As images and mirrors name it, and where it is."""
REGISTRIES = (
    "ghcr.io",
    "registry.k8s.io",
    "quay.io",
    DOCKER_REGISTRY,
    "ecr-public.aws.com",
)
"""Where the machines' images are, but for the image factory."""
PLUGINS = "https://get.pulumi.com/"
CLOUDFLARE = "https://api.cloudflare.com/client/v4/"
DISCOVERY = "https://discovery.talos.dev/"


def questions(settings: Settings, *, installed: bool) -> list[Question]:
    """Give all questions; `installed` says whether machines and entrances have to answer."""
    return [
        *_vcenter(settings),
        *_factory(settings),
        *_charts(settings),
        *addresses(settings, installed=installed),
        *firewall_rules(settings),
        *_names(settings),
        *_certificates(settings),
        *_git(settings),
        *_backup(settings),
        *_omni(settings),
        *_machines_needs(settings),
    ]


# --- What this computer needs ------------------------------------------------------------------


def _vcenter(settings: Settings) -> Iterator[Question]:
    site = settings.site
    key = key_of(("site", "vcenter"))

    def ask(network: Network) -> str:
        url = f"https://{site.vcenter}/sdk/vimServiceVersions.xml"
        verify = not site.allow_unverified_tls
        answer = network.get(url, verify=verify)
        if answer.proxy:
            # The stack's own checks of vCenter are Python and use no proxy; the plugin does.
            direct = Network({}, network.seconds)
            direct.get(url, verify=verify)
        if answer.status != 200 or b"urn:vim25" not in answer.body:  # noqa: PLR2004
            fault = f"what answers there is not a vCenter (status {answer.status})"
            raise RefusedError(fault, "check the name; a proxy in between may answer in its place")
        if not verify:
            return "answers; its certificate is not looked at (allowUnverifiedTls)"
        return _certificate(answer)

    yield Question("vCenter", site.vcenter, key, ask)
    user = key_of(("site", "user"))
    reason = "only the engine opens the password; `pulumi preview` logs in first of all"
    yield Question("vCenter's login", site.user, user, _not_tried(reason))
    where = f"{site.datacenter}, {site.cluster}, {site.datastore}, {site.network}"
    reason = "takes a login; `pulumi preview` looks each of them up"
    yield Question("vSphere's objects", where, key_of(("site",)), _not_tried(reason))


def _factory(settings: Settings) -> Iterator[Question]:
    talos, base = settings.talos, f"https://{settings.site.image_factory}"

    def versions(network: Network) -> str:
        found = _json(network.get(f"{base}/versions"), "an image factory")
        if talos.tag not in found:
            fault = f"{settings.site.image_factory} has no Talos {talos.tag}"
            raise RefusedError(fault, f"set a version that {base}/versions lists")
        return "has it"

    def schematic(network: Network) -> str:
        answer = network.get(f"{base}/schematics/{talos.schematic}")
        if answer.status == 404:  # noqa: PLR2004
            fault = f"{settings.site.image_factory} does not know this schematic"
            raise RefusedError(fault, "register it there, or set `extensions` in its place")
        return _status(answer, (200,), "is known")

    def extensions(network: Network) -> str:
        answer = network.get(f"{base}/version/{talos.tag}/extensions/official")
        found = {str(one.get("name")) for one in _json(answer, "an image factory")}
        if lacking := sorted(set(talos.extensions or ()) - found):
            fault = f"not among the extensions of Talos {talos.tag}: {', '.join(lacking)}"
            raise RefusedError(fault, "leave them out, or check their names at the factory's page")
        return "there for this version"

    key = key_of(("talos", "version"))
    yield Question(f"Talos {talos.tag}", base, key, versions)
    if talos.schematic is not None:
        yield Question("schematic", talos.schematic, key_of(("talos", "schematic")), schematic)
    elif talos.extensions:
        names = ", ".join(talos.extensions)
        yield Question("extensions", names, key_of(("talos", "extensions")), extensions)


def _charts(settings: Settings) -> Iterator[Question]:
    for plan in plans(settings):
        key = key_of(("services", plan.service, "version"))
        title = f"chart {plan.chart} {plan.version}"
        yield Question(title, plan.repository, key, _chart(plan))
    if settings.services.cilium is not None:
        where = settings.site.definitions or str(urlsplit(gateway_api.URL).hostname)
        key = key_of(("services", "cilium", "gatewayApiVersion"))

        def definitions(_: Network) -> str:
            try:
                found = load_definitions(settings.services, settings.site.definitions)
            except ManifestError as error:
                raise RefusedError(str(error), "let this computer go there") from None
            return f"{len(found)} with the right checksums"

        yield Question("definitions", where, key, definitions)

    def plugins(network: Network) -> str:
        return _status(network.get(PLUGINS, most=1), range(200, 500), "answers")

    yield Question("Pulumi's plugins", PLUGINS, "the first `pulumi up`", plugins)


def _chart(plan: ChartPlan) -> Callable[[Network], str]:
    def ask(network: Network) -> str:
        scheme, _, rest = plan.repository.partition("://")
        if scheme == "oci":
            host = rest.partition("/")[0]
            told = "the registry answers; whether it has the chart is not looked at"
            return _status(network.get(f"https://{host}/v2/"), (200, 401), told)
        index = f"{plan.repository.rstrip('/')}/index.yaml"
        answer = network.get(index)
        _status(answer, (200,), "")
        package = package_of(answer.body.decode("utf-8", "replace"), plan.chart, plan.version)
        if package is None:
            fault = f"{index} lists no {plan.chart} {plan.version}"
            raise RefusedError(fault, "set a version that it lists")
        url = urljoin(index, package)
        got = network.get(url, most=1)
        if got.status != 200:  # noqa: PLR2004
            at = urlsplit(url).hostname
            fault = f"the package at {at} cannot be downloaded (status {got.status})"
            raise RefusedError(fault, "let this computer go there too")
        return "is there, and its package too"

    return ask


def addresses(
    settings: Settings, *, installed: bool, try_port: Probe = probe
) -> Iterator[Question]:
    """Ask whether the platform's own addresses are free, or answer where it is installed."""
    for entry in address_plan(settings):
        if entry.kind is Kind.OURS:
            ask = _answers(entry) if installed else _is_free(entry, try_port)
            title = f"{entry.use} {entry.name}".strip()
            yield Question(title, entry.value, entry.key, ask)


def _is_free(entry: Entry, try_port: Probe) -> Callable[[Network], str]:
    def ask(_: Network) -> str:
        first, last = entry.addresses.first, entry.addresses.last
        count = int(last) - int(first) + 1
        tried = list(islice((str(first + n) for n in range(count)), MOST_POOL_ADDRESSES))
        found = who_answers(tried, PORTS, try_port)
        if found:
            address, shown = next(iter(found.items()))
            one = f" ({address}, and {len(found) - 1} more)" if len(found) > 1 else ""
            fault = f"taken: {shown}{one}"
            fix = (
                "use another address, or take it from whoever has it; if this platform is "
                "installed already, add --installed; a firewall between may answer for others"
            )
            raise RefusedError(fault, fix)
        part = f" (the first {len(tried)} of {count} tried)" if len(tried) < count else ""
        return f"nothing answers there{part}"

    return ask


def _answers(entry: Entry) -> Callable[[Network], str]:
    """Try what has to answer once the platform runs."""
    ports = {"machine": TALOS_API_PORT, "VIP": API_PORT}

    def ask(network: Network) -> str:
        if entry.use not in ports:
            message = "its addresses answer where Services have them"
            raise NotTriedError(message)
        network.connect(str(entry.addresses.first), ports[entry.use])
        return f"answers on TCP {ports[entry.use]}"

    return ask


def firewall_rules(
    settings: Settings, source: Callable[[str], str | None] = local_address
) -> Iterator[Question]:
    """Ask whether the machines' firewall would let this computer in."""
    wall = settings.network.firewall
    if wall is None:
        return
    first = settings.control_planes[0]
    wanted = firewall.documents(TalosInputs.of(settings), first)
    text = "---\n".join(json.dumps(one) + "\n" for one in wanted)

    def ask(_: Network) -> str:
        own = source(str(first.address))
        if own is None:
            message = "no route to the machines from here"
            raise NotTriedError(message)
        if not firewall.lets_in(text, own):
            raise RefusedError(
                f"it keeps this computer out, which reaches the machines from {own}",
                "give that address, or its network; behind a NAT, that which the machines see too",
            )
        return f"lets in {own}, from which this computer reaches the machines"

    key = key_of(("network", "firewall", "operators"))
    yield Question("machines' firewall", ", ".join(map(str, wall.operators)), key, ask)


# --- What people and machines need -------------------------------------------------------------


def _names(settings: Settings) -> Iterator[Question]:
    services = settings.services
    if services.cert_manager is not None and services.traefik is not None:
        domain, address = services.cert_manager.domain, str(services.traefik.address)
        key = key_of(("services", "certManager", "domain"))
        for title, name in ((domain, domain), (f"*.{domain}", f"{LABEL}.{domain}")):
            yield Question("DNS record", title, key, _record(name, address))
    wanted = settings.site.image_factory.partition(":")[0]
    for index, server in enumerate(settings.network.name_servers):
        key = key_of(("network", "nameServers", index))
        ask = _name_server(str(server), wanted, DNS_A)
        yield Question("name server", str(server), key, ask, by_machines=True)
    for index, host in enumerate(settings.network.time_servers):
        key = key_of(("network", "timeServers", index))
        yield Question("time server", host, key, _clock(host), by_machines=True)


def _record(name: str, address: str) -> Callable[[Network], str]:
    def ask(network: Network) -> str:
        fix = f"make this DNS record, to {address}, where the platform's users look"
        try:
            found = network.resolve(name)
        except OSError:
            fault = "no name server of this computer knows it"
            raise RefusedError(fault, fix) from None
        if found != {address}:
            fault = f"points to {', '.join(sorted(found))} and not to Traefik's {address}"
            raise RefusedError(fault, fix)
        return f"points to {address}"

    return ask


def _name_server(server: str, name: str, kind: int) -> Callable[[Network], str]:
    def ask(network: Network) -> str:
        code, answers = network.ask_dns(server, name, kind, DNS_PORT)
        if code == DNS_REFUSED:
            message = "it answers, and refuses this computer's questions"
            raise NotTriedError(message)
        if code != 0 or (kind == DNS_A and not answers):
            fault = f"it does not know {name} (DNS code {code})"
            raise RefusedError(fault, "name a server that knows names of the internet")
        return f"answers, and knows {name}"

    return ask


def _clock(host: str) -> Callable[[Network], str]:
    def ask(network: Network) -> str:
        ahead = network.ask_time(host, NTP_PORT)
        if abs(ahead) > CLOCK_SECONDS:
            side = "behind" if ahead > 0 else "ahead of"
            fault = f"this computer's clock is {abs(ahead):.0f} s {side} it"
            fix = "set the clock: certificates made here are not valid yet where it is earlier"
            raise RefusedError(fault, fix)
        return f"answers; this computer's clock differs by {abs(ahead):.1f} s"

    return ask


def _certificates(settings: Settings) -> Iterator[Question]:
    manager = settings.services.cert_manager
    if manager is None or manager.dns is None:
        return
    base: Path = ("services", "certManager")
    for name, server in acme_servers(manager, settings.cluster).items():

        def directory(network: Network, server: str = server) -> str:
            found = _json(network.get(server), "an ACME server")
            if "newOrder" not in found:
                fault = "what answers there is not an ACME server"
                raise RefusedError(fault, "check the name; a proxy in between may answer for it")
            return "answers"

        key = key_of((*base, *(("acme", "directory") if name == OWN_SERVER else ("issuer",))))
        yield Question("ACME", server, key, directory, by_machines=True)
    for index, resolver in enumerate(manager.dns.resolvers):
        key = key_of((*base, "dns", "resolvers", index))
        ask = _name_server(str(resolver), manager.domain, DNS_SOA)
        yield Question("resolver", str(resolver), key, ask, by_machines=True)
    if manager.dns.name_server is not None:
        host, _, port = manager.dns.name_server.partition(":")
        key = key_of((*base, "dns", "nameServer"))
        ask = _connects(host, int(port or DNS_PORT))
        yield Question("name server", manager.dns.name_server, key, ask, by_machines=True)
    if manager.dns.provider == "cloudflare":

        def api(network: Network) -> str:
            return _status(network.get(CLOUDFLARE, most=1), range(200, 500), "answers")

        key = key_of((*base, "dns", "provider"))
        yield Question("Cloudflare", CLOUDFLARE, key, api, by_machines=True)


def _git(settings: Settings) -> Iterator[Question]:
    argocd = settings.services.argocd
    if argocd is None:
        return
    url, key = argocd.repository_url, key_of(("services", "argocd", "repositoryUrl"))
    private = argocd.repository_access is not None
    found = split_git_url(url)
    if found is not None and found.scheme == "ssh":
        ask_port = _connects(found.host, git.port(url))
        yield Question("Git repository", url, key, ask_port, by_machines=True)
        return

    def ask(network: Network) -> str:
        answer = network.get(f"{url.removesuffix('/')}/info/refs?service=git-upload-pack", most=512)
        if private and answer.status in (401, 403, 404):
            return "the host answers; the repository's key is not used here"
        if answer.status in (401, 403, 404):
            fix = "check the URL; a private one takes services.argocd.repositoryAccess"
            raise RefusedError("not to be read by everybody, or not there", fix)
        if b"service=git-upload-pack" not in answer.body:
            fault = f"what answers there is not a Git repository (status {answer.status})"
            raise RefusedError(fault, "give the URL that `git clone` takes")
        return "can be read"

    yield Question("Git repository", url, key, ask, by_machines=True)


def _backup(settings: Settings) -> Iterator[Question]:
    backup = settings.services.backup
    if backup is None:
        return
    parts = urlsplit(backup.endpoint)
    address = f"{backup.endpoint.rstrip('/')}/{backup.bucket}"
    if not backup.path_style:
        address = f"{parts.scheme}://{backup.bucket}.{parts.netloc}/"

    def ask(network: Network) -> str:
        answer = network.get(address, most=1 << 16)
        if answer.status == 404:  # noqa: PLR2004
            fix = "make the bucket, or correct its name or services.backup.pathStyle"
            raise RefusedError("the storage has no such bucket", fix)
        return _status(answer, (200, 400, 403), "answers; keys are not used here")

    key = key_of(("services", "backup", "bucket"))
    yield Question("backup storage", address, key, ask, by_machines=True)


def _omni(settings: Settings) -> Iterator[Question]:
    """Ask the ports of Omni; what it answers takes the service account's key."""
    omni = settings.omni
    if omni is None:
        return
    for what, url, name in (
        ("Omni", omni.endpoint, "endpoint"),
        ("Omni's machine API", omni.machine_api, "machineApi"),
        ("Omni's Kubernetes proxy", omni.kubernetes_proxy, "kubernetesProxy"),
    ):
        one = _by_url(what, url, ("omni", name))
        yield replace(one, by_machines=name == "machineApi")
    if not omni.tunnel:
        reason = "UDP gives no answer; where it does not get through, set platform:omni.tunnel"
        key = key_of(("omni", "tunnel"))
        yield Question("Omni's WireGuard", omni.machine_api, key, _not_tried(reason))


def _registry(url: str) -> Callable[[Network], str]:
    def ask(network: Network) -> str:
        return _status(network.get(url, most=1), (200, 401, 404), "answers")

    return ask


def _registries(settings: Settings) -> Iterator[Question]:
    """Ask the mirrors, and those registries that machines may still pull from."""
    only = {one.registry for one in settings.talos.mirrors if one.skip_fallback}
    for host in REGISTRIES:
        if not {host, DOCKER_HUB if host == DOCKER_REGISTRY else host, "*"} & only:
            ask, key = _registry(f"https://{host}/v2/"), "docs/site-requirements.md"
            yield Question("registry", host, key, ask, by_machines=True)
    for index, mirror in enumerate(settings.talos.mirrors):
        for number, url in enumerate(mirror.endpoints):
            key = key_of(("talos", "mirrors", index, "endpoints", number))
            where = url if mirror.override_path else f"{url.rstrip('/')}/v2/"
            yield Question("mirror", url, key, _registry(where), by_machines=True)


def _machines_needs(settings: Settings) -> Iterator[Question]:
    yield from _registries(settings)
    if settings.network.proxy is not None:
        yield _by_url("HTTP proxy", settings.network.proxy.url, ("network", "proxy", "url"))
    if settings.talos.discovery:
        ask = _connects(str(urlsplit(DISCOVERY).hostname), HTTPS_PORT)
        key = key_of(("talos", "discovery"))
        yield Question("discovery service", DISCOVERY, key, ask, by_machines=True)
    if settings.talos.disk_encryption is not None and settings.talos.disk_encryption.endpoint:
        yield _by_url(
            "key management server",
            settings.talos.disk_encryption.endpoint,
            ("talos", "diskEncryption", "endpoint"),
        )
    logs = settings.talos.log_destinations
    for name, destinations in (("services", logs.services), ("kernel", logs.kernel)):
        for index, one in enumerate(destinations):
            yield _by_url("log destination", one, ("talos", "logDestinations", name, index))
    if settings.services.cilium is not None and settings.services.cilium.bgp is not None:
        for index, peer in enumerate(settings.services.cilium.bgp.peers):
            key = key_of(("services", "cilium", "bgp", "peers", index, "address"))
            reason = "a BGP router answers to its peers, the machines, alone"
            yield Question("BGP router", str(peer.address), key, _not_tried(reason))


def _by_url(what: str, text: str, path: Path) -> Question:
    url = split_url(text)
    if url is None or url.scheme == "udp":
        return Question(what, text, key_of(path), _not_tried("UDP gives no answer"))
    ask = _connects(url.host, url.port or HTTPS_PORT)
    return Question(what, text, key_of(path), ask, by_machines=True)


def _connects(host: str, port: int) -> Callable[[Network], str]:
    def ask(network: Network) -> str:
        network.connect(host, port)
        return f"answers on TCP {port}"

    return ask


def _not_tried(reason: str) -> Callable[[Network], str]:
    def ask(_: Network) -> str:
        raise NotTriedError(reason)

    return ask


# --- Answers -----------------------------------------------------------------------------------


def _certificate(answer: Answer) -> str:
    """Say until when a certificate is good."""
    through = f", through the proxy {answer.proxy} and without it" if answer.proxy else ""
    if not answer.ends:
        return f"answers{through}"
    left = (dt.date.fromisoformat(answer.ends) - dt.datetime.now(dt.UTC).date()).days
    soon = f": renew it within {left} days" if left < SOON_DAYS else ""
    return f"answers{through}; its certificate is trusted, until {answer.ends}{soon}"


def _status(answer: Answer, good: tuple[int, ...] | range, told: str) -> str:
    if answer.status in good:
        return f"{told}, through the proxy {answer.proxy}" if answer.proxy and told else told
    through = f" through the proxy {answer.proxy}" if answer.proxy else ""
    fault = f"answers{through} with status {answer.status}"
    raise RefusedError(fault, "check the address, and what stands between")


def _json(answer: Answer, what: str) -> Any:  # noqa: ANN401 as it came
    _status(answer, (200,), "")
    try:
        return json.loads(answer.body)
    except ValueError:
        fault = f"what answers there is not {what}"
        raise RefusedError(fault, "check the name; a proxy in between may answer for it") from None
