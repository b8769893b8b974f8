"""Layer Talos: the names of the arguments in a patch's `extraArgs`.

Nobody looks at them before the component starts, and it does not start with one that it does not
know (`unknown flag`): the first machine to change is without its API server until the patch is
right. Not all that a component takes is known here: what is hidden in its help, or new in a later
version. So only what looks like a misspelled argument is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from components.talos.patch_rules import DIRECTIVE, did_you_mean, field
from config import plain_yaml, versions
from config.shown import key_text

TABLE = Path(__file__).with_name("component_arguments.yaml")
PROGRAMS = {
    "cluster.apiServer": "kube-apiserver",
    "cluster.controllerManager": "kube-controller-manager",
    "cluster.scheduler": "kube-scheduler",
    "cluster.etcd": "etcd",
    "machine.kubelet": "kubelet",
}
"""The program that a component's `extraArgs` are for."""
OLD = "audit-webhook-batch-initial-backoff"
"""An argument that kube-apiserver takes, though its help is silent of it, and much like another."""
ALIKE = 0.85
"""From here on (difflib's ratio) a name is taken for a misspelled one."""


@cache
def _table() -> Mapping[str, Any]:
    table: dict[str, Any] = plain_yaml.read(TABLE.read_text())
    return table


def known(component: str) -> list[str]:
    """Give the arguments of a component, by its field."""
    names: list[str] = _table()[component]
    return names


def of_kubernetes() -> str:
    """Give the minor version of Kubernetes whose arguments are known."""
    return str(_table()["kubernetes"])


def faults(given: Mapping[str, Any], kubernetes: str) -> Iterator[str]:
    """Find misspelled arguments, but for a later minor of Kubernetes than the known one."""
    if versions.parse(kubernetes)[:2] > versions.parse(of_kubernetes()):
        return
    for component, program in PROGRAMS.items():
        arguments = field(given, f"{component}.extraArgs")
        for name in map(str, arguments if isinstance(arguments, Mapping) else ()):
            # Kubernetes' take both (k8s.io/component-base/cli/flag, WordSepNormalizeFunc).
            plain = name if program == "etcd" else name.replace("_", "-")
            if name not in (DIRECTIVE, OLD) and (fix := _fix(plain, known(component))):
                at = f"{component}.extraArgs.{key_text(name)}"
                yield f"{at}: {program} has no such argument, and will not start; {fix}"


def _fix(name: str, arguments: list[str]) -> str:
    """Say what is meant, if it is plain; "" for a name that may be right."""
    if name in arguments:
        return ""
    if name.startswith("-"):
        return f"write it as `{name.lstrip('-')}`: Talos puts the dashes before it"
    return did_you_mean(name, arguments, alike=ALIKE, otherwise="")
