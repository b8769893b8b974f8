"""Layer Policies: no secret where the state, a preview or a log would show it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from components.talos.redaction import MARK
from config.secret_keys import SECRET_NAMES
from config.shown import looks_secret, names_secret
from ops.engine.values import Leaf, Resource, leaves
from ops.policies.known import Known
from ops.policies.model import Level, Rule

INPUTS = frozenset(
    {
        "clientKey",
        "client-key-data",
        "kubeconfig",
        "machineConfiguration",
        "machineConfigurationInput",
        "talosConfig",
        *SECRET_NAMES,
    }
)
"""Inputs that hold a secret, of the providers that the platform uses."""
REFERENCE = re.compile(r"\$[\w-]+:\S+|\$\([A-Za-z_]\w*\)|\$\{[^}]+\}")
"""`$argocd-sso:key`, `$(VARIABLE)`, `${variable}`: where a secret is, not the secret."""
NAMES_OBJECT = frozenset({"secret", "existingSecret"})
"""Keys of charts and of Traefik's objects that name a Secret of Kubernetes; not its content."""
FIX = "pass it as a secret (components.stack_settings.require_secret, pulumi.Output.secret)"


def check_inputs(resource: Resource, known: Known) -> Iterator[str]:
    """Find secrets in plain text: by their key, by their look, and by their value."""
    for leaf in _plain(resource):
        if why := _suspicion(resource, leaf, known):
            yield f"{leaf.where} {why} (not shown); {FIX}"


def check_values(resources: Sequence[Resource], known: Known) -> Iterator[tuple[Resource, str]]:
    """Find in plain text what another resource holds as a secret, as the machine secrets are."""
    for resource in resources:
        for leaf in _plain(resource):
            # Those of the stack's configuration were found before, with the resource itself.
            if known.met.found_in(leaf.value) and not known.given.found_in(leaf.value):
                where = f"{leaf.where} holds in plain text what another resource holds as a secret"
                yield resource, f"{where} (not shown); {FIX}"


def _plain(resource: Resource) -> Iterator[Leaf]:
    for leaf in leaves(resource.inputs):
        if isinstance(leaf.value, str) and leaf.value and not leaf.is_secret:
            yield leaf


def _suspicion(resource: Resource, leaf: Leaf, known: Known) -> str:
    if known.given.found_in(leaf.value):
        return "holds one of the stack's own secrets in plain text"
    if looks_secret(leaf.value):
        return "looks like a private key, a token or a URL with a password in it"
    if REFERENCE.fullmatch(leaf.value) or MARK.fullmatch(leaf.value):
        return ""
    if resource.kind == "Secret" and leaf.path[0] in {"data", "stringData"}:
        return "is a Secret's content in plain text"
    if leaf.key in INPUTS or (names_secret(leaf.key) and leaf.key not in NAMES_OBJECT):
        return "is in plain text, and its key says that it is a secret"
    return ""


RULES = (
    Rule(
        "no-plain-secret",
        Level.MANDATORY,
        "No input holds a secret in plain text: state, previews and logs would show it.",
        check=check_inputs,
    ),
    Rule(
        "no-secret-value-in-plain",
        Level.MANDATORY,
        "No input repeats in plain text what another one holds as a secret.",
        check_stack=check_values,
    ),
)
