"""Layer Policies: what is asked of the objects and releases on the cluster.

The engine sees a release's values, not what its chart renders: that is held against
`ops.render.policies` (`make lint`, `make render`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from config.resource_types import RELEASE
from ops.engine.values import UNKNOWN, Resource, Secret, mapping, sequence, written
from ops.policies.known import Known
from ops.policies.model import Level, Rule
from ops.render.exceptions import EXCEPTIONS, PROGRAM
from ops.render.policies import findings

POD_SECURITY = "pod-security.kubernetes.io"
MODES = ("enforce", "audit", "warn")
LEVELS = ("restricted", "baseline", "privileged")
EXACT = re.compile(r"v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
NO_NODE_PORTS = "set allocateLoadBalancerNodePorts: false"
SERVICES_IN_VALUES: Mapping[str, tuple[str, str]] = {"traefik": ("service", "spec")}
"""Charts whose Service is of type LoadBalancer by default: the values of it, and of its spec."""


# --- Ports of the machines -----------------------------------------------------------------------


def check_node_ports(resource: Resource, _: Known) -> Iterator[str]:
    """Find Services that open ports on every machine, past the ingress and its policies."""
    if resource.type == RELEASE:
        yield from _in_values(resource)
    elif resource.kind == "Service":
        yield from _of_service(resource.spec, "spec")
    elif resource.kind == "CiliumGatewayClassConfig":
        # Cilium makes a Service of type LoadBalancer for each gateway unless told otherwise.
        service = {"type": "LoadBalancer", **mapping(resource.spec.get("service"))}
        yield from _of_service(service, "spec.service")


def _of_service(spec: Mapping[str, Any], where: str) -> Iterator[str]:
    if spec.get("type") == "NodePort":
        yield f"{where}.type is NodePort; use ClusterIP behind the ingress, or LoadBalancer"
    if spec.get("type") == "LoadBalancer" and _is_not_off(
        spec.get("allocateLoadBalancerNodePorts")
    ):
        yield f"{where} also gets ports of the machines; {NO_NODE_PORTS}"
    for index, port in enumerate(sequence(spec.get("ports"))):
        if _is_number(mapping(port).get("nodePort")):
            yield f"{where}.ports[{index}].nodePort is set; remove it"


def _in_values(release: Resource) -> Iterator[str]:
    values = mapping(release.inputs.get("values"))
    known, inner = SERVICES_IN_VALUES.get(str(release.inputs.get("chart")), ("", ""))
    if known and _is_balanced(service := mapping(values.get(known))):
        spec = {**mapping(service.get(inner)), "type": "LoadBalancer"}
        yield from _of_service(spec, f"values.{known}.{inner}")
        values = {key: value for key, value in values.items() if key != known}
    for where, one in _mappings(values, ("values",)):
        yield from _of_service(one, written(where))
        if _is_number(one.get("nodePort")):
            yield f"{written(where)}.nodePort is set; remove it"


def _is_balanced(service: Mapping[str, Any]) -> bool:
    on = service.get("enabled", True) is not False
    return on and service.get("type", "LoadBalancer") == "LoadBalancer"


def _mappings(
    value: Any,  # noqa: ANN401 any value
    path: tuple[str | int, ...],
) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    if found := mapping(value):
        yield path, found
        for key, one in found.items():
            yield from _mappings(one, (*path, key))
    for index, one in enumerate(sequence(value)):
        yield from _mappings(one, (*path, index))


def _is_not_off(value: Any) -> bool:  # noqa: ANN401 any value
    return value is not False and value is not UNKNOWN


def _is_number(value: Any) -> bool:  # noqa: ANN401 any value
    """Say whether it is a port; the engine sends numbers as floats."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


# --- Namespaces ----------------------------------------------------------------------------------


def check_namespace(resource: Resource, _: Known) -> Iterator[str]:
    """Ask for Pod Security labels: without them every pod may do anything."""
    if resource.type == RELEASE and resource.inputs.get("createNamespace"):
        yield (
            "createNamespace makes a namespace without labels; make it with "
            "components.kubernetes.isolated_namespace and set create_namespace=False"
        )
    if resource.kind != "Namespace":
        return
    labels = mapping(resource.metadata.get("labels"))
    for mode in MODES:
        value = labels.get(f"{POD_SECURITY}/{mode}")
        if value is not UNKNOWN and value not in LEVELS:
            yield (
                f"the label {POD_SECURITY}/{mode} is not one of {', '.join(LEVELS)}; "
                "make the namespace with components.kubernetes.isolated_namespace"
            )


# --- Releases ------------------------------------------------------------------------------------


def check_release(resource: Resource, _: Known) -> Iterator[str]:
    """Ask that a release is the same tomorrow, and ends."""
    if resource.type != RELEASE:
        return
    version, timeout = resource.inputs.get("version"), resource.inputs.get("timeout")
    if version is not UNKNOWN and not (isinstance(version, str) and EXACT.fullmatch(version)):
        yield (
            f"its version {version!r} is not exact, so another day installs something else; "
            "take it from config/versions.py"
        )
    if timeout is not UNKNOWN and not _is_number(timeout):
        yield "it has no timeout, and may wait for ever; install it with kubernetes.release.install"


# --- Workloads -----------------------------------------------------------------------------------


def check_workloads(resources: Sequence[Resource], _: Known) -> Iterator[tuple[Resource, str]]:
    """Hold workloads against the rules for rendered ones, with the same exceptions."""
    made = {_name(one): one for one in resources if one.kind and one.metadata.get("name")}
    for finding in findings(_plain(one.inputs) for one in made.values()):
        allowed = any(
            each.covers(finding, part) for each in EXCEPTIONS[PROGRAM] for part in each.parts
        )
        owner = made.get(finding.workload)
        # Ports of the machines are a rule of their own here, which is not only shown.
        if not allowed and owner is not None and finding.rule != "node-port":
            yield owner, f"{finding}; fix it, or say why not in ops/render/exceptions.py"


def _name(resource: Resource) -> str:
    """Name an object as `render` does: `Deployment traefik/traefik`."""
    namespace, name = resource.metadata.get("namespace"), resource.metadata.get("name")
    return f"{resource.kind} {namespace}/{name}" if namespace else f"{resource.kind} {name}"


def _plain(value: Any) -> Any:  # noqa: ANN401 any value
    """Give an object as it would be in YAML, without what is secret or not known yet."""
    if isinstance(value, Secret) or value is UNKNOWN:
        return None
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


RULES = (
    Rule(
        "no-node-port",
        Level.MANDATORY,
        "No Service opens a port on the machines: it would be reached past the ingress.",
        check=check_node_ports,
    ),
    Rule(
        "namespace-has-pod-security",
        Level.MANDATORY,
        "Every namespace says what its pods may do.",
        check=check_namespace,
    ),
    Rule(
        "release-is-exact",
        Level.MANDATORY,
        "Every release has an exact version and a timeout.",
        check=check_release,
    ),
    Rule(
        "workload-standards",
        Level.ADVISORY,
        "Workloads that the program makes itself keep to what is asked of charts' workloads.",
        check_stack=check_workloads,
    ),
)
