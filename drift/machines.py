"""Layer Drift: each machine's configuration against the one that was applied.

The Talos provider never reads a machine's configuration back (its Read does nothing), so a refresh
cannot see a change there. What was applied is in the state without its secrets: the gate
`NAME-healthy` holds it (components/cluster.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components import redaction
from components.talosctl import Talosctl, TalosctlError
from components.tokens import CONFIGURATION, GATE, MACHINE_SECRETS
from drift.finding import PULUMI, DriftError, Field, Finding
from review.difference import leaves
from review.judge import HEALTHY

Resources = Sequence[Mapping[str, Any]]

IMAGE_VERSION = re.compile(r":(v\d+\.\d+\.\d+[^@]*)(@.*)?$")
"""The version in the name of an installer image; one by digest alone has none."""
UPGRADE = "see docs/procedures/upgrade-talos.md: `pulumi up` upgrades no machine that runs"


def findings(resources: Resources, secrets: Any, talos: Talosctl) -> Iterator[Finding]:  # noqa: ANN401
    """Ask every machine; `resources` are the state's, `secrets` the machine secrets."""
    applied = {one["urn"].rsplit("::", 1)[1]: one for one in resources if one["type"] == GATE}
    for one in resources:
        if one["type"] != CONFIGURATION:
            continue
        name, address = one["urn"].rsplit("::", 1)[1], str(one["inputs"]["node"])
        wanted = (applied.get(f"{name}{HEALTHY}") or {}).get("inputs", {}).get("fields")
        yield from _machine(str(one["urn"]), name, address, wanted, secrets, talos)


def machine_secrets(resources: Resources) -> Any:  # noqa: ANN401 any nesting
    """Give the machine secrets of an exported state with its secrets in plain text.

    Raises `DriftError` when there are none: without them nothing tells a secret from other text.
    """
    for one in resources:
        if one["type"] == MACHINE_SECRETS:
            return one["outputs"]["machineSecrets"]
    raise DriftError(
        f"the state holds no {MACHINE_SECRETS}: `pulumi stack ls`, is it the right stack?"
    )


def _machine(  # noqa: PLR0913, PLR0917 what was applied, and where to look
    urn: str,
    name: str,
    address: str,
    wanted: Any,  # noqa: ANN401 JSON
    secrets: Any,  # noqa: ANN401 JSON
    talos: Talosctl,
) -> Iterator[Finding]:
    def finding(what: str, mend: str, fields: Sequence[Field] = ()) -> Finding:
        return Finding(
            place="machine", who=f"{name} ({address})", owner=PULUMI, what=what,
            fields=tuple(fields), mend=mend,
        )  # fmt: skip

    if talos.in_maintenance(address):
        yield finding("has no configuration: it waits in maintenance mode", _apply_again(urn))
        return
    image = _image(wanted)
    try:
        text = talos.configuration(address)
        runs = talos.version(address) if image else ""
    except TalosctlError as error:
        yield finding(f"does not answer: {error}", "see docs/procedures/replace-machine.md")
        return
    if not isinstance(wanted, Mapping):
        yield finding(
            "cannot be compared: the state does not know what was applied", "`pulumi up` notes it"
        )
        return
    fields = [
        Field(where=leaf.where, wanted=leaf.texts()[0], found=leaf.texts()[1])
        for leaf in leaves(wanted, redaction.fields(text, secrets))
    ]
    if fields:
        yield finding("changed", _apply_again(urn), fields)
    if image and runs != image:
        yield finding("another Talos", UPGRADE, [Field(where="Talos", wanted=image, found=runs)])


def _image(wanted: Any) -> str | None:  # noqa: ANN401 JSON
    """Give the version of Talos in an applied configuration; None when its image names none."""
    if not isinstance(wanted, Mapping):
        return None
    machine = (wanted.get(redaction.MAIN) or {}).get("machine") or {}
    found = IMAGE_VERSION.search(str((machine.get("install") or {}).get("image", "")))
    return found[1] if found else None


def _apply_again(urn: str) -> str:
    """Give the command that sends a configuration again: the provider sees no reason to."""
    return f"`pulumi up --target-replace '{urn}'` sends it again"
