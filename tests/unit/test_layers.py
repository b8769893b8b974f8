"""The layers on the cluster under mocks: their order, what they register, what they keep secret."""

import base64
import datetime as dt
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pulumi
import pytest

import config.traefik_api
import config.versions
from components import layers
from components.kubernetes.manifests import Manifest
from config import SettingsError, parse
from config.layers import LAYERS
from config.needed_secrets import needed
from config.secret_keys import SECRET_KEYS
from tests.unit import recorder
from tests.unit.certificates import certificate
from tests.unit.recorder import (
    Platform,
    Registered,
    definition,
    everything,
    is_secret,
    on_one_machine,
    plain,
    production,
    public_text,
    run,
    run_everything,
    run_once,
    run_production,
    with_services,
)

RELEASE = "kubernetes:helm.sh/v3:Release"
NAMESPACE = "kubernetes:core/v1:Namespace"
POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
SECRET = "kubernetes:core/v1:Secret"  # noqa: S105 a type
ISSUER = "kubernetes:cert-manager.io/v1:ClusterIssuer"
CERTIFICATE = "kubernetes:cert-manager.io/v1:Certificate"
ENTRANCE = ("cilium", "metallb", "certManager", "traefik")
"""The services that an entrance needs."""
CHARTS = ["argo-cd", "cert-manager", "cilium", "metallb", "metrics-server", "traefik"]

pytestmark = pytest.mark.usefixtures("talosctl")


def changed(**services: object) -> dict[str, Any]:
    """Give the production settings with other services, on one machine; None leaves one out."""
    settings = on_one_machine(production())
    for name, value in services.items():
        if value is None:
            settings["services"].pop(name)
        else:
            settings["services"][name] = value
    return settings


def only(*names: str, **services: object) -> dict[str, Any]:
    """Give the production settings with these services alone, on one machine."""
    return with_services(changed(**services), *names)


def order(platform: Platform) -> dict[str, int]:
    return {one.urn: position for position, one in enumerate(platform.resources)}


def specs(platform: Platform, type_: str) -> dict[str, Any]:
    return {one.inputs["metadata"]["name"]: one.inputs.get("spec") for one in platform.all(type_)}


def chart_values(chart: str, settings: dict[str, Any] | None = None) -> Mapping[str, Any]:
    """Give the values with which a chart is installed, in production unless told otherwise."""
    plans = layers.plans(parse(production() if settings is None else settings))
    (plan,) = (one for one in plans if one.chart == chart)
    return plan.values


def test_production_installs_every_chart_at_its_pinned_version() -> None:
    platform = run_production()
    planned = {plan.release: plan for plan in layers.plans(parse(production()))}
    assert sorted(platform.names(RELEASE)) == sorted(planned) == CHARTS
    for one in platform.all(RELEASE):
        plan = planned[one.name]
        assert one.inputs["version"] == plan.version
        assert one.inputs["repositoryOpts"] == {"repo": plan.repository}
        assert one.inputs["namespace"] == plan.namespace
        assert one.inputs["name"] == plan.chart == one.inputs["chart"]


def test_a_release_that_fails_is_rolled_back_and_one_that_was_killed_is_fixed_first() -> None:
    for one in run_production().all(RELEASE):
        assert one.inputs["atomic"] is True
        assert one.inputs["cleanupOnFail"] is True
        assert one.inputs["timeout"] == 600
        assert one.hooks("before_create") == [f"{one.name}-install"]
        assert one.hooks("before_update") == [f"{one.name}-upgrade"]


def test_what_kubectl_may_keep_of_a_secret_in_its_annotations_is_secret_in_the_state() -> None:
    made = run_production().all(SECRET)
    assert made
    for one in made:
        assert {"data", "metadata", "stringData"} <= set(one.request.additionalSecretOutputs)


def ancestors(platform: Platform, *made: Registered) -> set[str]:
    """Give all that these wait for, by URN, with what the components around them wait for."""
    by_urn = {one.urn: one for one in platform.resources}
    seen: set[str] = set()
    waiting = [one.urn for one in made]
    while waiting:
        urn = waiting.pop()
        if urn not in seen and urn in by_urn:
            seen.add(urn)
            waiting += [*by_urn[urn].dependencies, by_urn[urn].request.parent]
    return seen


def test_each_layer_waits_for_those_that_the_table_says_it_stands_on() -> None:
    platform = run_everything()
    names = {one.urn: layer.name for layer in LAYERS.values() for one in platform.all(layer.type)}

    def needs(layer: str) -> set[str]:
        own = platform.all(LAYERS[layer].type)
        urns = {one.urn for one in own}
        own += [one for one in platform.resources if one.request.parent in urns]
        return {names[urn] for urn in ancestors(platform, *own) if urn in names} - {layer}

    def told(layer: str) -> set[str]:
        below = [*LAYERS[layer].waits_for(LAYERS), *LAYERS[layer].partly_after]
        return set(below).union(*map(told, below))

    # Machines and nodes wait for each other's, one after the other.
    for layer in list(LAYERS)[list(LAYERS).index("cluster") :]:
        assert needs(layer) == told(layer), layer
    assert told("argo-cd") >= {"cilium", "metallb", "cert-manager", "traefik"}


def test_argo_cd_starts_beside_traefik_and_is_given_its_applications_once_that_answers() -> None:
    platform = run_production()
    traefik = platform.one(RELEASE, "traefik")
    answers = platform.one("kubernetes:traefik.io/v1alpha1:TLSOption", "traefik-tlsoption-default")
    release = platform.one(RELEASE, "argo-cd")
    root = platform.one("kubernetes:argoproj.io/v1alpha1:Application", "root-application")
    route = platform.one("kubernetes:traefik.io/v1alpha1:IngressRoute", "argocd-route")
    assert traefik.urn not in release.dependencies
    assert traefik.urn in answers.dependencies
    assert {answers.urn, release.urn} <= set(root.dependencies) & set(route.dependencies)


def test_the_certificate_is_asked_for_before_metallb_is_there_and_holds_up_no_application() -> None:
    platform = run_production()
    wildcard = platform.one(CERTIFICATE, "certificate-wildcard")
    assert platform.one(RELEASE, "metallb").urn not in ancestors(platform, wildcard)
    root = platform.one("kubernetes:argoproj.io/v1alpha1:Application", "root-application")
    assert wildcard.urn not in ancestors(platform, root)
    assert platform.one(RELEASE, "metallb").urn in ancestors(platform, root)
    assert platform.one(RELEASE, "cert-manager").urn in ancestors(platform, root)


def test_the_table_has_every_component_that_is_no_part_of_another_and_is_in_order() -> None:
    components = [one for one in run_everything().resources if one.type.startswith("platform:")]
    urns = {one.urn for one in components}
    tops = {one.type for one in components if one.request.parent not in urns}
    assert tops == {layer.type for layer in LAYERS.values()}
    names = list(LAYERS)
    for number, layer in enumerate(LAYERS.values()):
        assert {*layer.stands_on, *layer.after, *layer.partly_after} <= set(names[:number]), (
            layer.name
        )


def test_a_data_disk_is_a_volume_on_its_machine_that_waits_for_a_pod() -> None:
    platform = run_everything()
    made = platform.one("kubernetes:storage.k8s.io/v1:StorageClass", "local").inputs
    assert made["provisioner"] == "kubernetes.io/no-provisioner"
    assert made["volumeBindingMode"] == "WaitForFirstConsumer"
    assert "annotations" not in made["metadata"]
    (volume,) = specs(platform, "kubernetes:core/v1:PersistentVolume").items()
    assert volume[0] == "node01.data"
    assert volume[1]["capacity"] == {"storage": "50Gi"}
    assert volume[1]["local"] == {"path": "/var/mnt/data"}
    (term,) = volume[1]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node01"]}
    ]
    assert volume[1]["persistentVolumeReclaimPolicy"] == "Retain"


def test_the_class_of_local_volumes_is_the_default_only_where_the_settings_say_so() -> None:
    given = with_services(on_one_machine(everything()), "cilium", "localVolumes")
    given["services"]["localVolumes"] = {"storageClass": "disks", "default": True}
    platform = run(given)
    made = platform.one("kubernetes:storage.k8s.io/v1:StorageClass", "disks").inputs
    key = "storageclass.kubernetes.io/is-default-class"
    assert made["metadata"]["annotations"] == {key: "true"}
    (spec,) = specs(platform, "kubernetes:core/v1:PersistentVolume").values()
    assert spec["storageClassName"] == "disks"


def test_metrics_server_waits_for_its_issuer_only_where_there_is_one() -> None:
    layer = LAYERS["metrics-server"]
    assert layer.waits_for({"cilium", "cert-manager"}) == ["cert-manager"]
    assert layer.waits_for({"cilium"}) == ["cilium"]


def test_every_layer_tells_what_it_is_and_a_preview_knows_it_all() -> None:
    platform = run_everything()
    told = {layer.name: platform.told[layer.type] for layer in LAYERS.values()}
    assert all(told.values())
    assert told["cluster"] == {
        "endpoint": "https://172.16.20.250:6443",
        "version": config.versions.KUBERNETES,
    }
    assert told["nodes"]["controlPlanes"]["node01"] == "172.16.20.51"
    for plan in layers.plans(parse(production())):
        assert told[plan.chart]["namespace"] == plan.namespace
        assert told[plan.chart]["version"] == plan.version
    assert told["backup"]["namespace"] == LAYERS["backup"].namespace
    assert told["traefik"]["address"] == "172.16.20.100"
    assert told["argo-cd"]["address"] == "https://argocd.platform.example.com"
    assert told["cert-manager"]["issuer"] == "letsencrypt-production"
    assert told["local-volumes"]["volumes"] == {"node01.data": "50Gi"}
    assert told["metallb"]["pools"] == {"default": "172.16.20.100-172.16.20.150"}
    for outputs in told.values():
        assert "[secret]" not in public_text(outputs)
        assert not any(f"{key.name}-of-the-test" in str(outputs) for key in SECRET_KEYS)
    # What is unknown in a preview would show as a change of the component.
    preview = run(everything(), preview=True).told
    assert {name: preview[layer.type] for name, layer in LAYERS.items()} == told


def test_the_api_server_verifies_metrics_server() -> None:
    values = run_production().one(RELEASE, "metrics-server").inputs["values"]
    assert values["apiService"]["insecureSkipTLSVerify"] is False
    assert values["tls"]["type"] == "cert-manager"
    issuer = values["tls"]["certManager"]["existingIssuer"]
    assert issuer == {"enabled": True, "kind": "ClusterIssuer", "name": "private-ca"}


def test_without_cert_manager_metrics_server_is_there_and_not_verified() -> None:
    platform = run(only("cilium", "metricsServer"))
    values = platform.one(RELEASE, "metrics-server").inputs["values"]
    assert values["apiService"]["insecureSkipTLSVerify"] is True
    assert "tls" not in values


def test_gateway_apis_definitions_come_before_cilium_and_traefik() -> None:
    platform = run_production()
    definitions = platform.all("kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition")
    position = order(platform)
    assert len(definitions) == 7
    first = min(position[platform.one(RELEASE, name).urn] for name in ("cilium", "traefik"))
    assert all(position[one.urn] < first for one in definitions)


def test_traefiks_definitions_have_an_owner_that_brings_their_new_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition"
    name = "ingressroutes.traefik.io"
    platform = run_production()
    # Helm installs what lies in crds/ once, and never changes it.
    assert platform.one(RELEASE, "traefik").inputs["skipCrds"] is True
    before = platform.one(kind, name)
    assert before.request.retainOnDelete  # with the definition all routes would go
    assert [one.name for one in platform.all(kind) if one.request.retainOnDelete] == [name]

    newer = "3.6.99"
    monkeypatch.setattr(config.versions, "TRAEFIK_API", newer)
    monkeypatch.setitem(config.traefik_api.SHA256, newer, "0" * 64)

    def load(manifest: Manifest) -> list[dict[str, Any]]:
        (found,) = definition(manifest)
        if f"/v{newer}/" in manifest.url:
            found["spec"]["newField"] = True
        return [found]

    monkeypatch.setattr(recorder, "definition", load)
    after = run(only(*ENTRANCE)).one(kind, name)
    assert after.urn == before.urn  # changed in place
    assert "newField" not in before.inputs["spec"]
    assert after.inputs["spec"]["newField"] is True


def test_every_namespace_denies_by_default_and_is_held_to_a_level() -> None:
    platform = run_production()
    levels = {}
    for one in platform.all(NAMESPACE):
        labels = one.inputs["metadata"]["labels"]
        modes = {
            labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")
        }
        (levels[one.name],) = modes
        deny = platform.one(POLICY, f"{one.name}/default-deny").inputs["spec"]
        assert deny["podSelector"] == {}
        assert deny["policyTypes"] == ["Ingress", "Egress"]
        assert "ingress" not in deny
    # Agents of logs read files of machines, and speakers use their network; nothing else may.
    higher = [name for name, level in levels.items() if level != "restricted"]
    assert sorted(higher) == ["logging", "metallb-system"]


def test_every_namespace_may_ask_the_clusters_name_service() -> None:
    platform = run_production()
    for one in platform.all(NAMESPACE):
        (out,) = platform.one(POLICY, f"{one.name}/default-deny").inputs["spec"]["egress"]
        (peer,) = out["to"]
        assert peer["namespaceSelector"]["matchLabels"] == {
            "kubernetes.io/metadata.name": "kube-system"
        }
        assert peer["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
        assert {(each["port"], each["protocol"]) for each in out["ports"]} == {
            (53, "UDP"),
            (53, "TCP"),
        }


def test_hubble_is_on_with_its_relay_and_its_interface() -> None:
    hubble = chart_values("cilium")["hubble"]
    assert [part["enabled"] for part in (hubble, hubble["relay"], hubble["ui"])] == [True] * 3


def test_cilium_and_hubble_have_metrics() -> None:
    values = chart_values("cilium")
    for part in (values, values["operator"]):
        assert part["prometheus"] == {"enabled": True, "metricsService": True}
    assert values["hubble"]["relay"]["prometheus"] == {"enabled": True}
    kinds = {kind.partition(":")[0] for kind in values["hubble"]["metrics"]["enabled"]}
    assert {"dns", "drop", "flow", "tcp"} <= kinds


def test_traefik_has_metrics_that_monitoring_alone_may_read() -> None:
    assert chart_values("traefik")["metrics"]["prometheus"]["service"] == {"enabled": True}
    rules = run_production().one(POLICY, "traefik/ingress").inputs["spec"]["ingress"]
    (reads,) = (rule for rule in rules if 9100 in [one["port"] for one in rule["ports"]])
    (peer,) = reads["from"]
    assert peer == {"namespaceSelector": {"matchLabels": {"platform.io/scrapes-metrics": "true"}}}


def test_no_pod_but_hubbles_own_may_ask_hubble_what_flows() -> None:
    platform = run_production()
    interface = platform.one(POLICY, "kube-system/hubble-ui").inputs["spec"]
    assert interface["policyTypes"] == ["Ingress"]
    assert "ingress" not in interface  # an empty list would be a change in every preview
    relay = platform.one(POLICY, "kube-system/hubble-relay").inputs["spec"]
    asks, reads = relay["ingress"]
    assert asks["from"] == [{"podSelector": {"matchLabels": {"k8s-app": "hubble-ui"}}}]
    assert asks["ports"] == [{"port": 4245, "protocol": "TCP"}]
    assert list(reads["from"][0]) == ["namespaceSelector"]
    # Closed before anything runs there.
    position = order(platform)
    release = position[platform.one(RELEASE, "cilium").urn]
    assert position[platform.one(POLICY, "kube-system/hubble-ui").urn] < release


def test_nothing_in_the_cluster_is_deleted_one_by_one_when_the_machines_go() -> None:
    platform = run_production()
    machines = platform.one("platform:vsphere:Machines", "machines")
    components = [one for one in platform.resources if one.type.startswith("platform:kubernetes:")]
    assert len(components) > len(CHARTS)
    by_urn = {one.urn: one for one in platform.resources}
    for one in platform.resources:
        if one.type.startswith("kubernetes:"):
            top: Registered = one
            while not top.request.deletedWith:
                top = by_urn[top.request.parent]  # children inherit it in the engine
            assert top.request.deletedWith == machines.urn, one.urn


def test_a_layer_that_is_not_listed_leaves_nothing_behind() -> None:
    platform = run(
        changed(logging=None, monitoring=None, argocd=None, metricsServer=None, backup=None)
    )
    assert sorted(platform.names(RELEASE)) == ["cert-manager", "cilium", "metallb", "traefik"]
    text = " ".join(one.urn for one in platform.resources)
    for gone in ("argocd", "metrics-server", "backup", "approver"):
        assert gone not in text


def test_a_second_pool_is_a_line_and_only_the_given_interface_is_used() -> None:
    settings = only("cilium", "metallb")
    more = {"name": "more", "addresses": "172.16.20.160-172.16.20.169"}
    settings["network"]["pools"].append(more)
    platform = run(settings)
    pools = specs(platform, "kubernetes:metallb.io/v1beta1:IPAddressPool")
    assert pools["default"]["addresses"] == ["172.16.20.100-172.16.20.150"]
    assert pools["more"]["addresses"] == ["172.16.20.160-172.16.20.169"]
    layer2 = specs(platform, "kubernetes:metallb.io/v1beta1:L2Advertisement")["layer2"]
    assert layer2 == {"ipAddressPools": ["default", "more"], "interfaces": ["eth0"]}


def test_production_can_ask_all_issuers_and_its_certificate_asks_the_one_of_the_settings() -> None:
    platform = run_production()
    issuers = specs(platform, ISSUER)
    assert sorted(issuers) == [
        "letsencrypt-production",
        "letsencrypt-staging",
        "private-ca",
        "self-signed",
    ]
    (solver,) = issuers["letsencrypt-production"]["acme"]["solvers"]
    assert solver["dns01"] == {
        "cloudflare": {"apiTokenSecretRef": {"name": "dns-token", "key": "token"}}
    }
    certificates = specs(platform, CERTIFICATE)
    for name, host in (("wildcard", "*.platform.example.com"), ("domain", "platform.example.com")):
        issuer = {"kind": "ClusterIssuer", "name": "letsencrypt-production"}
        assert certificates[name]["issuerRef"] == issuer
        assert certificates[name]["dnsNames"] == [host]
        assert certificates[name]["secretName"] == name
    # One record proves both names: the second is asked for when the first is issued.
    names = [one.name for one in platform.resources]
    assert names.index("wildcard-issued") < names.index("certificate-domain")
    first = platform.one(CERTIFICATE, "certificate-wildcard")
    assert first.urn in platform.one(CERTIFICATE, "certificate-domain").dependencies
    assert "domain-issued" not in names
    gateway = specs(platform, "kubernetes:gateway.networking.k8s.io/v1:Gateway")["platform"]
    served = {
        one["hostname"]: one["tls"]["certificateRefs"][0]["name"] for one in gateway["listeners"]
    }
    assert served == {"*.platform.example.com": "wildcard", "platform.example.com": "domain"}


@pytest.mark.parametrize(("service", "key"), [("argocd", "domain"), ("traefik", "dashboardDomain")])
def test_a_page_at_the_domain_itself_waits_for_the_domains_own_certificate(
    service: str, key: str
) -> None:
    settings = production()
    settings["services"][service][key] = "platform.example.com"
    platform = run(settings)
    names = [one.name for one in platform.resources]
    assert names.index("domain-issued") < names.index("traefik-tlsstore-default")
    store = platform.one("kubernetes:traefik.io/v1alpha1:TLSStore", "traefik-tlsstore-default")
    assert platform.one(CERTIFICATE, "certificate-domain").urn in store.dependencies


def test_a_drill_has_no_production_issuer() -> None:
    settings = only("cilium", "certManager")
    settings["cluster"]["drill"] = True
    settings["services"]["certManager"]["issuer"] = "letsencrypt-staging"
    issuers = specs(run(settings), ISSUER)
    assert sorted(issuers) == ["letsencrypt-staging", "private-ca", "self-signed"]


def test_a_platform_without_a_public_domain_has_its_own_authority_and_no_token() -> None:
    private = {"issuer": "private-ca", "domain": "platform.internal"}
    settings = changed(certManager=private, logging=None, monitoring=None, argocd=None)
    settings["services"]["traefik"]["dashboardDomain"] = "traefik.platform.internal"
    platform = run(settings)
    assert sorted(specs(platform, ISSUER)) == ["private-ca", "self-signed"]
    assert "cert-manager/dns-token" not in platform.names(SECRET)


def test_a_zone_of_rfc2136_is_updated_at_its_name_server() -> None:
    dns = {"provider": "rfc2136", "nameServer": "ns.example.com:5353", "keyName": "acme"}
    settings = only("cilium", "certManager")
    settings["services"]["certManager"]["dns"] = dns
    platform = run(settings)
    (solver,) = specs(platform, ISSUER)["letsencrypt-staging"]["acme"]["solvers"]
    assert solver["dns01"]["rfc2136"]["nameserver"] == "ns.example.com:5353"
    egress = platform.one(POLICY, "cert-manager/controller").inputs["spec"]["egress"]
    assert 5353 in [port["port"] for rule in egress for port in rule["ports"]]


@pytest.mark.parametrize(("given", "used"), [(None, "HMACSHA256"), ("HMACSHA512", "HMACSHA512")])
def test_the_key_of_rfc2136_has_the_algorithm_that_its_server_made_it_with(
    given: str | None, used: str
) -> None:
    dns = {"provider": "rfc2136", "nameServer": "ns.example.com", "keyName": "acme"}
    settings = only("cilium", "certManager")
    settings["services"]["certManager"]["dns"] = dns | ({"algorithm": given} if given else {})
    (solver,) = specs(run(settings), ISSUER)["letsencrypt-staging"]["acme"]["solvers"]
    assert solver["dns01"]["rfc2136"]["tsigAlgorithm"] == used


def test_a_zone_of_route_53_is_changed_with_an_access_key_of_its_own() -> None:
    settings = only("cilium", "certManager")
    settings["services"]["certManager"]["dns"] = {
        "provider": "route53", "region": "eu-central-1", "hostedZoneId": "Z2ABCDEF3GHIJK",
    }  # fmt: skip
    platform = run(settings)
    (solver,) = specs(platform, ISSUER)["letsencrypt-staging"]["acme"]["solvers"]
    assert solver["dns01"]["route53"] == {
        "region": "eu-central-1",
        "hostedZoneID": "Z2ABCDEF3GHIJK",
        "accessKeyIDSecretRef": {"name": "dns-token", "key": "access-key"},
        "secretAccessKeySecretRef": {"name": "dns-token", "key": "token"},
    }
    assert sorted(plain(platform.one(SECRET, "cert-manager/dns-token").inputs["stringData"])) == [
        "access-key",
        "token",
    ]


def test_an_acme_server_of_ones_own_is_the_only_one_and_is_reached_and_trusted() -> None:
    end = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    authority = base64.b64decode(certificate(end)).decode()
    settings = only(*ENTRANCE)
    settings["services"]["certManager"] |= {
        "issuer": "acme",
        "acme": {"directory": "https://ca.corp.net:9000/acme/acme/directory", "ca": authority},
    }
    platform = run(settings)
    issuers = specs(platform, ISSUER)
    assert sorted(issuers) == ["acme", "private-ca", "self-signed"]
    acme = issuers["acme"]["acme"]
    assert acme["server"] == "https://ca.corp.net:9000/acme/acme/directory"
    assert base64.b64decode(acme["caBundle"]).decode() == authority
    wildcard = specs(platform, CERTIFICATE)["wildcard"]
    assert wildcard["issuerRef"] == {"kind": "ClusterIssuer", "name": "acme"}
    egress = platform.one(POLICY, "cert-manager/controller").inputs["spec"]["egress"]
    assert 9000 in [port["port"] for rule in egress for port in rule["ports"]]


def test_bgp_is_a_switch_with_peers() -> None:
    cluster = "kubernetes:cilium.io/v2:CiliumBGPClusterConfig"
    assert run_production().all(cluster) == []
    bgp = {"localAsn": 65001, "peers": [{"address": "172.16.20.2", "asn": 65000}]}
    platform = run(only("cilium", cilium={"bgp": bgp}))
    (instance,) = platform.one(cluster, "bgp-cluster").inputs["spec"]["bgpInstances"]
    assert instance["localASN"] == 65001
    assert instance["peers"][0]["peerAddress"] == "172.16.20.2"
    assert platform.one(RELEASE, "cilium").inputs["values"]["bgpControlPlane"] == {"enabled": True}


def test_a_pool_that_bgp_announces_may_lie_outside_the_machines_network() -> None:
    advertisement = "kubernetes:metallb.io/v1beta1:L2Advertisement"
    bgp = {"localAsn": 65001, "peers": [{"address": "172.16.20.2", "asn": 65000}]}
    raw = only(*ENTRANCE, cilium={"bgp": bgp})
    far = {"name": "far", "addresses": "10.50.0.0/24"}
    raw["network"]["pools"].append(far)
    spec = run(raw).one(advertisement, "layer2").inputs["spec"]
    assert spec["ipAddressPools"] == ["default"]
    raw["network"]["pools"] = [far]
    raw["services"]["traefik"]["address"] = "10.50.0.10"
    assert run(raw).all(advertisement) == []


def test_no_service_of_ours_opens_a_node_port() -> None:
    platform = run_production()
    service = platform.one(RELEASE, "traefik").inputs["values"]["service"]
    assert service["spec"]["allocateLoadBalancerNodePorts"] is False
    config = specs(platform, "kubernetes:cilium.io/v2alpha1:CiliumGatewayClassConfig")["cilium"]
    assert config["service"]["allocateLoadBalancerNodePorts"] is False
    for one in platform.all("kubernetes:core/v1:Service"):
        assert one.inputs["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_the_dashboard_is_behind_a_password_or_not_there() -> None:
    platform = run_production()
    route = specs(platform, "kubernetes:traefik.io/v1alpha1:IngressRoute")["dashboard"]
    assert route["routes"][0]["middlewares"] == [{"name": "dashboard-password"}]
    without = only(*ENTRANCE)
    del without["services"]["traefik"]["dashboardDomain"]
    assert "dashboard" not in specs(run(without), "kubernetes:traefik.io/v1alpha1:IngressRoute")


def test_the_backup_may_read_snapshots_and_nothing_else_of_talos() -> None:
    platform = run_production()
    account = specs(platform, "kubernetes:talos.dev/v1alpha1:ServiceAccount")["talos-credentials"]
    assert account == {"roles": ["os:etcd:backup"]}
    job = platform.one("kubernetes:batch/v1:CronJob", "etcd-backup").inputs["spec"]
    assert job["schedule"] == "0 * * * *"
    pod = job["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    names = [one["name"] for one in pod["containers"][0]["env"]]
    assert not any("SECRET" in name or "ACCESS" in name for name in names)


def backup_environment(**changes: Any) -> dict[str, str]:
    backup = production()["services"]["backup"] | changes
    platform = run(only("cilium", "backup", backup=backup))
    job = platform.one("kubernetes:batch/v1:CronJob", "etcd-backup").inputs["spec"]
    (container,) = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"]}


def test_the_backup_job_is_given_what_its_release_reads_and_nothing_else() -> None:
    backup = production()["services"]["backup"]
    assert backup_environment() == {
        "AWS_REGION": "us-east-1",
        "BUCKET": backup["bucket"],
        "CUSTOM_S3_ENDPOINT": backup["endpoint"],
        "S3_PREFIX": "prod",
        "CLUSTER_NAME": "prod",
        "AGE_X25519_PUBLIC_KEY": backup["agePublicKey"],
        # talos-backup 0.1.0-beta.3 compares with "false": this is https://HOST/BUCKET.
        "USE_PATH_STYLE": "false",
    }


def test_a_bucket_can_be_part_of_the_storages_host_name() -> None:
    assert backup_environment(pathStyle=False)["USE_PATH_STYLE"] == "true"


# An SSH server's public key; nobody has the other half.
HOST_KEY = "ssh-ed25519 " + base64.b64encode(
    (11).to_bytes(4, "big") + b"ssh-ed25519" + (32).to_bytes(4, "big") + bytes(range(32))
).decode("ascii")


def argocd_with(**changes: Any) -> Platform:
    """Run Argo CD and what it stands on, with other settings of it."""
    argocd = production()["services"]["argocd"] | changes
    return run_once(only(*ENTRANCE, "argocd", argocd=argocd))


@pytest.mark.parametrize(
    ("url", "access", "expected"),
    [
        (
            "https://github.com/example/platform",
            {"kind": "githubApp", "appId": 12, "installationId": 34},
            {
                "githubAppID": "12",
                "githubAppInstallationID": "34",
                "githubAppPrivateKey": "argocdRepositoryKey-of-the-test",
            },
        ),
        (
            "https://github.corp.example.com/example/platform",
            {"kind": "githubApp", "appId": 12, "installationId": 34},
            {
                "githubAppEnterpriseBaseUrl": "https://github.corp.example.com/api/v3",
                "githubAppID": "12",
                "githubAppInstallationID": "34",
                "githubAppPrivateKey": "argocdRepositoryKey-of-the-test",
            },
        ),
        (
            "https://git.example.com/example/platform",
            {"kind": "token", "user": "oauth2"},
            {"username": "oauth2", "password": "argocdRepositoryKey-of-the-test"},
        ),
        (
            "ssh://git@git.example.com:2222/example/platform.git",
            {"kind": "deployKey", "hostKeys": [HOST_KEY]},
            {"sshPrivateKey": "argocdRepositoryKey-of-the-test"},
        ),
        (
            "git@github.com:example/platform.git",
            {"kind": "deployKey"},
            {"sshPrivateKey": "argocdRepositoryKey-of-the-test"},
        ),
    ],
)
def test_a_private_repository_is_read_with_a_key_that_is_a_secret_of_the_stack(
    url: str, access: dict[str, Any], expected: dict[str, str]
) -> None:
    platform = argocd_with(repositoryUrl=url, repositoryAccess=access)
    secret = platform.one(SECRET, "argocd/argocd-repository")
    labels = secret.inputs["metadata"]["labels"]
    assert labels["argocd.argoproj.io/secret-type"] == "repository"
    assert "argocdRepositoryKey-of-the-test" not in public_text(secret.inputs)
    assert plain(secret.inputs["stringData"]) == {"type": "git", "url": url} | expected
    root = platform.one("kubernetes:argoproj.io/v1alpha1:Application", "root-application")
    release = platform.one(RELEASE, "argo-cd")
    assert secret.urn in release.dependencies
    assert release.urn in root.dependencies


def test_a_public_repository_needs_no_key() -> None:
    assert "argocd/argocd-repository" not in run_production().names(SECRET)


@pytest.mark.parametrize(
    "access",
    [
        {"kind": "githubApp", "appId": 12},
        {"kind": "githubApp", "appId": 12, "installationId": 34, "user": "x"},
        {"kind": "token"},
        {"kind": "token", "user": "x", "appId": 12},
        {"kind": "token", "user": "x", "hostKeys": [HOST_KEY]},
        {"kind": "deployKey", "user": "git"},
        {"kind": "password"},
    ],
)
def test_an_access_that_lacks_something_is_refused(access: dict[str, Any]) -> None:
    argocd = production()["services"]["argocd"] | {"repositoryAccess": access}
    with pytest.raises(SettingsError, match=r"platform:services\.argocd\.repositoryAccess"):
        parse(changed(argocd=argocd))


def outside(platform: Platform, part: str) -> list[int]:
    """Give the ports on which a part of Argo CD may go out."""
    egress = platform.one(POLICY, f"argocd/{part}").inputs["spec"]["egress"]
    return [port["port"] for rule in egress for port in rule["ports"]]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://git.example.com:8443/example/platform", 8443),
        ("ssh://git@git.example.com:2222/example/platform.git", 2222),
        ("git@git.example.com:example/platform.git", 22),
    ],
)
def test_argo_cd_may_go_to_the_port_of_its_repository(url: str, port: int) -> None:
    access = {"kind": "deployKey", "hostKeys": [HOST_KEY]} if "@" in url else None
    assert port in outside(argocd_with(repositoryUrl=url, repositoryAccess=access), "repo-server")


def test_argo_cd_may_go_to_the_port_of_its_charts_mirror() -> None:
    mirror = "https://charts.example.com:8443/argo"
    assert 8443 in outside(argocd_with(repository=mirror), "repo-server")


LOGINS = {
    "gitlab": {
        "url": "https://gitlab.example.com:8443",
        "clientId": "x",
        "adminGroups": ["ops/platform"],
    },
    "gitea": {
        "url": "https://gitea.example.com:3000",
        "clientId": "x",
        "organization": "ops",
        "adminTeams": ["platform"],
    },
    "oidc": {
        "issuer": "https://login.example.com:8443/realms/x",
        "clientId": "x",
        "adminGroups": ["admins"],
    },
}


def test_what_takes_statuses_is_reached_on_its_own_port_with_a_key_of_the_stack() -> None:
    platform = argocd_with(
        repositoryUrl="https://gitlab.example.com:8443/ops/platform",
        gitHost="gitlab",
        commitStatuses={},
    )
    assert 8443 in outside(platform, "notifications")
    assert 8443 not in outside(platform, "dex")
    secret = platform.one(SECRET, "argocd/argocd-notifications-secret")
    assert plain(secret.inputs["stringData"]) == {
        "commit-status-key": "commitStatusKey-of-the-test"
    }
    without = argocd_with(commitStatuses=None)
    told = without.one(SECRET, "argocd/argocd-notifications-secret")
    assert "stringData" not in told.inputs, "until somebody is to be told"


@pytest.mark.parametrize(
    ("login", "host", "webhook"),
    [
        ("gitlab", "gitlab", "webhook.gitlab.secret"),
        # Gitea and Forgejo call as Gogs does (argo-cd, util/webhook).
        ("gitea", "gitea", "webhook.gogs.secret"),
        ("oidc", "other", None),
    ],
)
def test_another_git_host_has_its_webhook_and_its_login_as_secrets_of_the_stack(
    login: str, host: str, webhook: str | None
) -> None:
    argocd = production()["services"]["argocd"] | {
        "github": None,
        login: LOGINS[login],
        "repositoryUrl": "https://git.example.com/ops/platform",
        "gitHost": host,
        "commitStatuses": None,
        "repositoryAccess": {"kind": "token", "user": "oauth2"},
    }
    platform = run(changed(argocd=argocd))
    given = [f"{key.name}-of-the-test" for key in SECRET_KEYS]
    for one in platform.resources:
        text = public_text(one.inputs)
        assert not any(secret in text for secret in given), one.urn
    own = plain(platform.one(SECRET, "argocd/argocd-secret").inputs.get("stringData", {}))
    assert own == ({} if webhook is None else {webhook: f"{host}WebhookSecret-of-the-test"})
    sso = plain(platform.one(SECRET, "argocd/argocd-sso").inputs["stringData"])
    assert sso == {f"dex.{login}.clientSecret": f"{login}ClientSecret-of-the-test"}
    url = str(LOGINS[login].get("url", LOGINS[login].get("issuer")))
    assert urlsplit(url).port in outside(platform, "dex")


def test_only_the_issuer_of_the_settings_is_waited_for() -> None:
    platform = run_production()
    waited = {
        one.inputs["metadata"]["name"]
        for one in platform.all(ISSUER)
        if "pulumi.com/waitFor" in one.inputs["metadata"].get("annotations", {})
    }
    assert waited == {"letsencrypt-production", "private-ca", "self-signed"}


def test_the_resolvers_that_check_a_challenge_are_a_setting() -> None:
    def asked(**changes: Any) -> Any:
        settings = changed()
        settings["services"]["certManager"]["dns"] |= changes
        (plan,) = (one for one in layers.plans(parse(settings)) if one.chart == "cert-manager")
        return plan.values["dns01RecursiveNameservers"]

    assert asked() == "1.1.1.1:53,9.9.9.9:53"
    assert asked(resolvers=["172.16.20.1"]) == "172.16.20.1:53"


@pytest.mark.parametrize(
    ("cilium", "expected"),
    [
        (
            {},
            {
                "routingMode": "native",
                "ipv4NativeRoutingCIDR": "10.244.0.0/16",
                "autoDirectNodeRoutes": True,
            },
        ),
        ({"routing": "geneve"}, {"routingMode": "tunnel", "tunnelProtocol": "geneve"}),
        (
            {"routing": "vxlan"},
            {"routingMode": "tunnel", "tunnelProtocol": "vxlan", "tunnelPort": 8223},
        ),
    ],
)
def test_pods_packets_never_use_the_port_that_vmxnet3_loses(
    cilium: dict[str, str], expected: dict[str, Any]
) -> None:
    values = chart_values("cilium", changed(cilium=cilium))
    keys = ("routingMode", "ipv4NativeRoutingCIDR", "autoDirectNodeRoutes", "tunnel")
    assert {key: value for key, value in values.items() if key.startswith(keys)} == expected


def test_the_pod_network_is_renewed_on_one_machine_at_a_time() -> None:
    values = chart_values("cilium")
    for strategy in (values["updateStrategy"], values["envoy"]["updateStrategy"]):
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}


def test_secrets_reach_the_engine_only_as_secrets() -> None:
    platform = run_production()
    given = [f"{key.name}-of-the-test" for key in SECRET_KEYS]
    used: set[str] = set()
    for one in platform.resources:
        text = public_text(one.inputs)
        assert not any(secret in text for secret in given), one.urn
        used |= {secret for secret in given if secret in str(one.inputs)}
    needs = {f"{key.name}-of-the-test" for key in needed(parse(production()).services)}
    assert used == needs - {"vspherePassword-of-the-test"}
    made = {one.name: one.inputs for one in platform.all(SECRET)}
    for inputs in made.values():
        data = inputs["stringData"]
        assert is_secret(data) or all(map(is_secret, data.values()))


def test_no_object_declares_an_empty_map_that_the_api_server_drops() -> None:
    objects = [one for one in run_production().resources if "metadata" in one.inputs]
    assert objects
    for one in objects:
        parts = {name: one.inputs.get(name, "absent") for name in ("data", "stringData")}
        assert {} not in [*parts.values(), *one.inputs["metadata"].values()], one.urn


@pytest.mark.parametrize("name", ["cilium", "metallb", "certManager", "traefik"])
def test_planning_needs_no_engine_and_gives_plain_data(name: str) -> None:
    def is_plain(value: object) -> bool:
        if isinstance(value, Mapping):
            return all(isinstance(key, str) and is_plain(one) for key, one in value.items())
        if isinstance(value, list):
            return all(map(is_plain, value))
        return value is None or isinstance(value, str | int | float | bool)

    charts = {plan.chart: plan for plan in layers.plans(parse(production()))}
    chart = {"certManager": "cert-manager"}.get(name, name)
    assert is_plain(charts[chart].values)
    assert not any(isinstance(value, pulumi.Output) for value in charts[chart].values.values())
