"""The policy pack: each rule passes what is right and finds its breach; production has none."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from google.protobuf import empty_pb2, json_format, struct_pb2  # type: ignore[import-untyped]
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

from components.talos import redaction
from components.vsphere.machines import guestinfo
from config import parse, plain_yaml
from config.resource_types import (
    CONFIGURATION,
    GATE,
    KUBECONFIG,
    MACHINE,
    MACHINE_SECRETS,
    RELEASE,
)
from config.secret_keys import SECRET_KEYS
from ops.engine.values import OUTPUT, REFERENCE, SECRET, SIGNATURE, Resource, decode
from ops.policies import server
from ops.policies.catalogue import RULES
from ops.policies.known import Known
from ops.policies.model import Level, Rule
from ops.policies.server import Pack
from tests.unit.recorder import (
    KEY,
    PASSWORD,
    Platform,
    install_talosctl,
    production,
    run_production,
)

ROOT = Path(__file__).parents[2]
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
SETTINGS = parse(production())
CONFIG = {f"platform:{key}": json.dumps(value) for key, value in production().items()}
SECRETS = {f"platform:{key.name}": f"{key.name}-of-the-test" for key in SECRET_KEYS} | {
    "platform:vspherePassword": PASSWORD
}
LABELS = {f"pod-security.kubernetes.io/{m}": "restricted" for m in ("enforce", "audit", "warn")}
CERTIFICATE = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nabc").decode()
PEM = "-----BEGIN EC " + "PRIVATE KEY-----\nabc"


def secret(value: object) -> dict[str, object]:
    return {SIGNATURE: SECRET, "value": value}


def resource(
    type_: str,
    name: str = "one",
    *,
    protect: bool = False,
    ignored: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    **inputs: object,
) -> Resource:
    """Give a resource; `after` are names of those of the same type that it waits for."""
    urn = f"urn:pulumi:prod::platform::{type_}::"
    dependencies = tuple(urn + other for other in after)
    return Resource(urn + name, type_, name, decode(inputs), protect, ignored, dependencies)


def thing(kind: str, name: str = "web", **more: Any) -> Resource:
    """Give an object of Kubernetes."""
    metadata = {"name": name} | more.pop("metadata", {})
    return resource(f"kubernetes:x/v1:{kind}", name, kind=kind, metadata=metadata, **more)


def service(**spec: object) -> Resource:
    return thing("Service", spec=spec)


def asking(address: str) -> Resource:
    return thing("Service", metadata={"annotations": {"metallb.io/loadBalancerIPs": address}})


def release(**inputs: object) -> Resource:
    given: dict[str, Any] = {"chart": "web", "version": "1.2.3", "timeout": 600, "values": {}}
    return resource(RELEASE, **(given | inputs))


def traefik(**service_: object) -> Resource:
    return release(chart="traefik", values={"service": service_})


def machine(name: str, index: int = 0, **options: Any) -> Resource:
    """Give a machine with the guestinfo of the plan's machine number `index`."""
    given = guestinfo(SETTINGS.network, SETTINGS.machines[index])
    options.setdefault("ignored", ("clone", "extraConfig", "hostSystemId"))
    return resource(MACHINE, name, **({"extraConfig": given} | options))


def members(**addresses: str) -> Resource:
    return resource(GATE, "etcd-members", controlPlanes=addresses)


THREE = {f"node0{n}": f"172.16.20.5{n}" for n in (1, 2, 3)}


def keys(**options: Any) -> Resource:
    return resource(MACHINE_SECRETS, "prod", **options)


def chain(*after: tuple[str, ...]) -> list[Resource]:
    return [machine(f"node0{n}", n - 1, after=names) for n, names in enumerate(after, start=1)]


def configured(*after: tuple[str, ...]) -> list[Resource]:
    return [
        resource(CONFIGURATION, f"node0{n}", after=names) for n, names in enumerate(after, start=1)
    ]


def deployment(resources: Mapping[str, object]) -> Resource:
    container = {
        "name": "web",
        "image": "registry.example.com/web:1.2.3",
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "automountServiceAccountToken": False,
        "priorityClassName": "platform-critical",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return thing(
        "Deployment",
        metadata={"namespace": "apps"},
        spec={"replicas": 1, "template": {"metadata": {"labels": {}}, "spec": pod}},
    )


def shown(configuration: Mapping[str, object]) -> dict[str, Any]:
    """Give what a gate shows of a machine's configuration."""
    return redaction.fields(json.dumps(configuration), "the machine secrets")


LIMITED = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}}
ON_A_DISK = {"local": {"path": "/var/mnt/data"}, "persistentVolumeReclaimPolicy": "Retain"}
CLAIMS = {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}

GOOD: list[tuple[str, list[Resource]]] = [
    ("no-plain-secret", [resource("pulumi:providers:x", password=secret(PASSWORD))]),
    ("no-plain-secret", [resource("pulumi:providers:x", password=UNKNOWN)]),
    ("no-plain-secret", [thing("Secret", stringData=secret({"auth": "anything"}))]),
    ("no-plain-secret", [thing("Secret", type="Opaque", data={"auth": secret("YW55")})]),
    ("no-plain-secret", [thing("Middleware", spec={"basicAuth": {"secret": "dashboard-user"}})]),
    ("no-plain-secret", [release(values={"clientSecret": "$argocd-sso:client.secret"})]),
    ("no-plain-secret", [resource(GATE, fields=shown({"token": "a-long-token"}))]),
    ("no-plain-secret", [thing("Pod", spec={"automountServiceAccountToken": False})]),
    (
        "no-secret-value-in-plain",
        [
            resource("x:a:A", clientKey=secret("a-long-private-key")),
            resource("x:b:B", "two", text="something else"),
        ],
    ),
    (
        # Short texts, certificates and names beside a key say nothing.
        "no-secret-value-in-plain",
        [
            resource("x:a:A", a=secret("admin"), b=secret(CERTIFICATE)),
            resource("x:b:B", "two", bundle=secret({"host": "10.0.0.1:6443", "key": "k" * 9})),
            resource("x:c:C", "three", a="admin", b=CERTIFICATE, c="10.0.0.1:6443"),
        ],
    ),
    ("machine-secrets-stay", [keys(protect=True, ignored=("talosVersion",))]),
    ("machines-stay", [machine("node01")]),
    ("data-is-protected", [thing("StatefulSet", spec=CLAIMS)]),
    ("data-is-protected", [replace(thing("PersistentVolumeClaim"), protect=True)]),
    ("data-is-protected", [thing("PersistentVolume", spec=ON_A_DISK)]),
    ("addresses-are-planned", chain((), (), ())),
    (
        "addresses-are-planned",
        [resource(CONFIGURATION, "node02", node=THREE["node02"], endpoint=UNKNOWN)],
    ),
    ("addresses-are-planned", [resource(KUBECONFIG, node="172.16.20.51", endpoint="172.16.20.53")]),
    ("addresses-are-planned", [resource(GATE, "kubernetes-api", endpoint=SETTINGS.endpoint)]),
    ("addresses-are-planned", [members(**THREE)]),
    ("addresses-are-planned", [asking("172.16.20.150"), asking("172.16.20.100, 172.16.20.101")]),
    ("addresses-are-planned", [service(loadBalancerIP="172.16.20.120")]),
    ("control-planes-are-odd", [members(**THREE)]),
    ("control-planes-are-odd", [resource(GATE, "etcd", cluster="prod")]),
    ("control-planes-wait", chain((), ("node01",), ("node02",))),
    ("control-planes-wait", [*chain((), (), ()), *configured((), ("node01",), ("node02",))]),
    ("no-node-port", [service(type="ClusterIP", ports=[{"port": 80}])]),
    ("no-node-port", [service(type="LoadBalancer", allocateLoadBalancerNodePorts=False)]),
    ("no-node-port", [traefik(spec={"allocateLoadBalancerNodePorts": False})]),
    ("no-node-port", [traefik(type="LoadBalancer", spec={"allocateLoadBalancerNodePorts": False})]),
    ("no-node-port", [traefik(type="ClusterIP"), traefik(enabled=False)]),
    ("no-node-port", [release(values={"nodePort": {"enabled": False}, "type": "Opaque"})]),
    (
        "no-node-port",
        [
            thing(
                "CiliumGatewayClassConfig",
                spec={"service": {"allocateLoadBalancerNodePorts": False}},
            )
        ],
    ),
    ("namespace-has-pod-security", [thing("Namespace", metadata={"labels": LABELS})]),
    ("namespace-has-pod-security", [release(createNamespace=False)]),
    ("release-is-exact", [release(), release(version="v1.2.3-rc.1"), release(version=UNKNOWN)]),
    ("workload-standards", [deployment(LIMITED)]),
]

BAD: list[tuple[str, str, list[Resource]]] = [
    ("no-plain-secret", "password is in plain", [resource("x:a:A", password="anything")]),  # noqa: S106
    ("no-plain-secret", "own secrets", [resource("x:a:A", text=f"user:{PASSWORD}@")]),
    (
        "no-plain-secret",
        r"a\[0\]\.b holds one of the stack's own",
        [resource("x:a:A", a=[{"b": base64.b64encode(PASSWORD.encode()).decode()}])],
    ),
    ("no-plain-secret", "looks like a private key", [resource("x:a:A", text=PEM)]),
    ("no-plain-secret", "Secret's content", [thing("Secret", stringData={"auth": "anything"})]),
    ("no-plain-secret", "clientSecret is", [release(values={"clientSecret": "anything"})]),
    ("no-plain-secret", "kubeconfig is", [resource("pulumi:providers:k", kubeconfig="text")]),
    (
        "no-secret-value-in-plain",
        r"spec\.text holds in plain",
        [
            resource("x:a:A", bundle=secret({"certs": {"os": {"key": "a-long-private-key"}}})),
            thing("ConfigMap", spec={"text": "key: a-long-private-key"}),
        ],
    ),
    ("machine-secrets-stay", "set `protect=True`", [keys(ignored=("talosVersion",))]),
    ("machine-secrets-stay", '"talosVersion" to its ignore_changes', [keys(protect=True)]),
    ("machines-stay", '"clone" to its ignore', [machine("node01", ignored=("extraConfig",))]),
    ("machines-stay", '"extraConfig" to its', [machine("node01", ignored=("clone",))]),
    ("data-is-protected", "not protected", [thing("PersistentVolumeClaim")]),
    (
        "data-is-protected",
        "not protected",
        [thing("PersistentVolume", spec=ON_A_DISK | {"persistentVolumeReclaimPolicy": "Delete"})],
    ),
    (
        "data-is-protected",
        "volumes go with it",
        [
            thing(
                "StatefulSet",
                spec=CLAIMS | {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}},
            )
        ],
    ),
    ("addresses-are-planned", "no machine of that name", [machine("node09")]),
    (
        "addresses-are-planned",
        r"gives it 172\.16\.20\.52/24, and the plan 172\.16\.20\.51; .*platform:machines",
        [machine("node01", 1)],
    ),
    (
        "addresses-are-planned",
        "not JSON in base64",
        [machine("node01", extraConfig={"guestinfo.metadata": "{}"})],
    ),
    (
        "addresses-are-planned",
        r"node is 172\.16\.20\.53, and the plan has 172\.16\.20\.52",
        [resource(CONFIGURATION, "node02", node="172.16.20.53")],
    ),
    ("addresses-are-planned", "endpoint is 10.", [resource(KUBECONFIG, endpoint="10.0.0.9")]),
    (
        "addresses-are-planned",
        "awaited at https://10",
        [resource(GATE, "kubernetes-api", endpoint="https://10.0.0.9:6443")],
    ),
    ("addresses-are-planned", "members are node01 10", [members(node01="10.0.0.9")]),
    ("addresses-are-planned", r"in no pool .*100-172\.16\.20\.150", [asking("172.16.20.200")]),
    ("addresses-are-planned", "for 172.16.20.9,", [asking("172.16.20.101,172.16.20.9")]),
    ("addresses-are-planned", "loadBalancerIP asks", [service(loadBalancerIP="172.16.20.51")]),
    (
        "addresses-are-planned",
        "in no pool",
        [release(values={"a": {"annotations": {"metallb.io/loadBalancerIPs": "10.0.0.9"}}})],
    ),
    (
        "addresses-are-planned",
        "not a pool of the plan",
        [
            resource(
                "kubernetes:metallb.io/v1beta1:IPAddressPool",
                kind="IPAddressPool",
                spec={"addresses": ["172.16.20.40-172.16.20.60"]},
            )
        ],
    ),
    (
        "control-planes-are-odd",
        "2 control planes.* make it 1 or 3",
        [members(node01="172.16.20.51", node02="172.16.20.52")],
    ),
    ("control-planes-are-odd", "0 control planes.* make it 1 or 3", [members()]),
    (
        "control-planes-wait",
        "nothing keeps it and node02 from",
        chain((), ("node01",), ("node01",)),
    ),
    (
        "control-planes-wait",
        "nothing keeps it and node01 from",
        [*chain((), (), ()), *configured((), (), ("node01", "node02"))],
    ),
    (
        "control-planes-wait",
        "nothing keeps it and node02 from",
        [*chain((), ("node01",), ("node01",)), *configured((), ("node01",), ("node02",))],
    ),
    ("no-node-port", "type is NodePort", [service(type="NodePort")]),
    ("no-node-port", "also gets ports", [service(type="LoadBalancer")]),
    ("no-node-port", r"ports\[0\]\.nodePort", [service(ports=[{"nodePort": 30080}])]),
    ("no-node-port", r"values\.service\.spec also gets", [traefik()]),
    (
        "no-node-port",
        "values.server.service.type is Node",
        [release(values={"server": {"service": {"type": "NodePort"}}})],
    ),
    (
        "no-node-port",
        r"values\.ports\[0\]\.nodePort is set",
        [release(values={"ports": [{"nodePort": 30443}]})],
    ),
    ("no-node-port", "spec.service also", [thing("CiliumGatewayClassConfig", spec={})]),
    ("namespace-has-pod-security", "/enforce is not one", [thing("Namespace")]),
    (
        "namespace-has-pod-security",
        "/warn is not one of restricted",
        [
            thing(
                "Namespace",
                metadata={"labels": LABELS | {"pod-security.kubernetes.io/warn": "strict"}},
            )
        ],
    ),
    ("namespace-has-pod-security", "createNamespace", [release(createNamespace=True)]),
    ("release-is-exact", r"'1\.2' is not exact", [release(version="1.2")]),
    ("release-is-exact", "'>=1.2.3' is not", [release(version=">=1.2.3")]),
    ("release-is-exact", "None is not exact", [release(version=None)]),
    ("release-is-exact", "no timeout", [release(timeout=0)]),
    ("workload-standards", "no memory in resources.limits", [deployment({})]),
]


def known(resources: list[Resource]) -> Known:
    found = Known.of(CONFIG | SECRETS, SECRETS)
    for one in resources:
        found.met.learn(one.inputs)
    return found


def judged(rule: Rule, resources: list[Resource]) -> list[str]:
    told = known(resources)
    if rule.check_stack is not None:
        return [text for _, text in rule.check_stack(resources, told)]
    assert rule.check is not None
    return [text for one in resources for text in rule.check(one, told)]


def named(name: str) -> Rule:
    (found,) = (rule for rule in RULES if rule.name == name)
    return found


@pytest.mark.parametrize(("name", "resources"), GOOD)
def test_a_rule_lets_pass_what_is_right(name: str, resources: list[Resource]) -> None:
    assert judged(named(name), resources) == []


@pytest.mark.parametrize(("name", "says", "resources"), BAD)
def test_a_rule_finds_its_breach_and_says_the_fix(
    name: str, says: str, resources: list[Resource]
) -> None:
    found = judged(named(name), resources)
    assert [text for text in found if re.search(says, text)]
    assert all(";" in text for text in found), "each says what is wrong; and what to do"


def test_every_rule_has_what_passes_and_what_fails() -> None:
    names = {rule.name for rule in RULES}
    assert {name for name, _ in GOOD} == {name for name, _, _ in BAD} == names
    assert {rule.level for rule in RULES} == set(Level)


def test_no_message_shows_a_secret() -> None:
    hidden = (PASSWORD, PEM, "anything", "a-long-private-key")
    for name, _, resources in BAD:
        texts = "\n".join(judged(named(name), resources))
        assert [value for value in hidden if value in texts] == [], name


def test_every_rule_is_explained_in_the_documents_under_its_level() -> None:
    text = (ROOT / "docs" / "policies.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\w+) \|", text, re.MULTILINE))
    assert {rule.name: rule.level.value for rule in RULES}.items() <= rows.items()


def test_a_rule_is_of_resources_or_of_the_stack() -> None:
    with pytest.raises(ValueError, match="either"):
        Rule("none", Level.ADVISORY, "nothing")


def test_what_the_engine_sends_is_read_with_its_marks() -> None:
    found = decode(
        {
            "secret": secret({"a": [1.0]}),
            "output": {SIGNATURE: OUTPUT, "value": "x", "secret": True},
            "later": {SIGNATURE: OUTPUT},
            "other": {SIGNATURE: REFERENCE, "urn": "urn:x"},
            "file": {SIGNATURE: "asset", "text": "in it"},
        }
    )
    assert (found["secret"].value, found["output"].value) == ({"a": [1.0]}, "x")
    assert repr(found["later"]) == "(not known yet)"
    assert (found["other"], found["file"]) == ("urn:x", {"text": "in it"})
    assert repr(found["secret"]) == "Secret()"


def test_without_settings_an_address_is_refused() -> None:
    rule = named("addresses-are-planned")
    assert rule.check is not None
    (text,) = rule.check(machine("node01"), Known.of({}, ()))
    assert "ops check" in text


# --- As the engine runs it -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with pytest.MonkeyPatch.context() as patch:
        tools = tmp_path_factory.mktemp("tools")
        install_talosctl(tools, "1.13.9")
        patch.setenv("PATH", str(tools), prepend=":")
        yield run_production()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[analyzer_pb2_grpc.AnalyzerStub]:
    """Start the pack as the language host does, from some other folder."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-m",
            "pulumi.policy",
            "127.0.0.1:0",
            str(ROOT / "ops" / "policies"),
        ],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        port = lines.readline().strip()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield analyzer_pb2_grpc.AnalyzerStub(channel)
        process.kill()
        process.wait()


def configure(engine: analyzer_pb2_grpc.AnalyzerStub) -> None:
    engine.Handshake(analyzer_pb2.AnalyzerHandshakeRequest())
    engine.ConfigureStack(
        analyzer_pb2.AnalyzerStackConfigureRequest(
            config=CONFIG | SECRETS, config_secret_keys=list(SECRETS)
        )
    )


def analyze(
    engine: analyzer_pb2_grpc.AnalyzerStub, type_: str, name: str, inputs: struct_pb2.Struct,
    options: analyzer_pb2.AnalyzerResourceOptions | None = None,
) -> list[analyzer_pb2.AnalyzeDiagnostic]:  # fmt: skip
    request = analyzer_pb2.AnalyzeRequest(
        urn=f"urn:pulumi:prod::platform::{type_}::{name}",
        type=type_,
        name=name,
        properties=inputs,
        options=options,
    )
    assert not engine.Remediate(request).remediations
    return list(engine.Analyze(request).diagnostics)


def struct(inputs: Mapping[str, object]) -> struct_pb2.Struct:
    return json_format.ParseDict(inputs, struct_pb2.Struct())


def test_the_production_stack_has_no_violation(
    platform: Platform, engine: analyzer_pb2_grpc.AnalyzerStub
) -> None:
    configure(engine)
    urns = {
        one.urn: f"urn:pulumi:prod::platform::{one.type}::{one.name}" for one in platform.resources
    }
    for one in platform.resources:
        options = analyzer_pb2.AnalyzerResourceOptions(
            protect=one.request.protect, ignoreChanges=one.request.ignoreChanges
        )
        assert analyze(engine, one.type, one.name, one.request.object, options) == []
    stack = [
        analyzer_pb2.AnalyzerResource(
            urn=urns[one.urn],
            type=one.type,
            name=one.name,
            properties=one.request.object,
            dependencies=[urns[each] for each in one.dependencies if each in urns],
        )
        for one in platform.resources
    ]
    assert len(stack) > 100
    assert not engine.AnalyzeStack(analyzer_pb2.AnalyzeStackRequest(resources=stack)).diagnostics


def test_what_talos_makes_is_not_repeated_in_plain_text(
    engine: analyzer_pb2_grpc.AnalyzerStub,
) -> None:
    configure(engine)
    assert analyze(engine, "x:a:A", "notes", struct({"text": f"the key is {KEY}"})) == []
    bundle = {"machineSecrets": secret({"cluster": {"secret": KEY}})}
    stack = [
        analyzer_pb2.AnalyzerResource(
            urn="urn:keys", type="x:b:B", name="b", properties=struct(bundle)
        ),
        analyzer_pb2.AnalyzerResource(
            urn="urn:pulumi:prod::platform::x:a:A::notes", type="x:a:A", name="notes"
        ),
    ]
    (found,) = engine.AnalyzeStack(analyzer_pb2.AnalyzeStackRequest(resources=stack)).diagnostics
    assert (found.policyName, found.enforcementLevel) == (
        "no-secret-value-in-plain",
        analyzer_pb2.MANDATORY,
    )
    assert "notes: text holds" in found.message
    assert KEY not in found.message


def test_the_engine_is_told_the_rules_and_can_change_their_levels(
    engine: analyzer_pb2_grpc.AnalyzerStub,
) -> None:
    configure(engine)
    told = engine.GetAnalyzerInfo(empty_pb2.Empty())
    assert [one.name for one in told.policies] == [rule.name for rule in RULES]
    assert told.supportsConfig
    namespace = struct({"kind": "Namespace", "metadata": {"name": "x"}})
    type_ = "kubernetes:core/v1:Namespace"
    found = analyze(engine, type_, "x", namespace)
    assert {one.enforcementLevel for one in found} == {analyzer_pb2.MANDATORY}
    for level, expected in (
        (analyzer_pb2.ADVISORY, 3),
        (analyzer_pb2.DISABLED, 0),
        (analyzer_pb2.MANDATORY, 3),  # and back: the pack is that of other tests too
    ):
        config = {"namespace-has-pod-security": analyzer_pb2.PolicyConfig(enforcementLevel=level)}
        engine.Configure(analyzer_pb2.ConfigureAnalyzerRequest(policyConfig=config))
        found = analyze(engine, type_, "x", namespace)
        assert [one.enforcementLevel for one in found] == [level] * expected


def test_the_pack_tells_the_version_that_its_file_has() -> None:
    file = plain_yaml.read((ROOT / "ops" / "policies" / "PulumiPolicy.yaml").read_text())
    assert file["version"] == server.VERSION
    assert (ROOT / "ops" / "policies" / file["runtime"]["options"]["virtualenv"]).resolve() == (
        ROOT / ".venv"
    ).resolve()
    assert Pack().GetPluginInfo(empty_pb2.Empty(), None).version == server.VERSION
