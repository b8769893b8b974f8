"""Layer Talos: the kubelet's own configuration in a patch, `machine.kubelet.extraConfig`.

Talos validates a configuration without it, and reads it only when it starts the kubelet, strictly
(controllers/k8s/kubelet_spec.go, prepareExtraConfig): with one misspelled field a machine that runs
goes on with what it had, and a new one never becomes a node.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from components.talos.patch_rules import DIRECTIVE, did_you_mean, field
from config import plain_yaml
from config.shown import key_text, value_text

PLACE = "machine.kubelet.extraConfig"
TABLE = Path(__file__).with_name("kubelet_fields.yaml")
TALOS_OWN = "set by Talos"
DURATION = re.compile(r"0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+")
"""Of Go (time.ParseDuration); a negative one makes no sense here."""

Check = Callable[[object], bool]


class Kind(NamedTuple):
    """What a field holds."""

    holds: Check
    example: str


def _switch(value: object) -> bool:
    return isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, float) or _whole(value)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _duration(value: object) -> bool:
    return isinstance(value, str) and DURATION.fullmatch(value) is not None


def _object(value: object) -> bool:
    return isinstance(value, Mapping)


def _list_of(each: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(each, value))


def _by_name(each: Check) -> Check:
    def holds(value: object) -> bool:
        return isinstance(value, Mapping) and all(
            each(one) for one in value.values() if one is not None
        )

    return holds


KINDS: Mapping[str, Kind] = {
    "a switch": Kind(_switch, "write true or false"),
    "a whole number": Kind(_whole, "write it without quotes"),
    "a number": Kind(_number, "write it without quotes"),
    "a text": Kind(_text, "write it in quotes"),
    "a duration": Kind(_duration, 'write it as in "30s" or "5m"'),
    "a list of texts": Kind(_list_of(_text), 'write it as in ["a", "b"]'),
    "a list of whole numbers": Kind(_list_of(_whole), "write it as in [1, 2]"),
    "a list of objects": Kind(_list_of(_object), "write it as in [{NAME: VALUE}]"),
    "switches by name": Kind(_by_name(_switch), "write it as in {NAME: true}"),
    "texts by name": Kind(_by_name(_text), 'write it as in {NAME: "1"}, each value in quotes'),
    "lists of texts by name": Kind(_by_name(_list_of(_text)), 'write it as in {NAME: ["a"]}'),
    "an object": Kind(_object, "write it as in {NAME: VALUE}"),
}


@cache
def fields() -> dict[str, str]:
    """Give what each field holds, one of `KINDS`, or `TALOS_OWN`."""
    table: dict[str, list[str]] = plain_yaml.read(TABLE.read_text())
    return {name: kind for kind, names in table.items() for name in names}


def faults(given: Mapping[str, Any]) -> Iterator[str]:
    """Find fields that a patch must not have, and those with another kind of value."""
    value = field(given, PLACE)
    for name, one in value.items() if isinstance(value, Mapping) else ():
        if name == DIRECTIVE:
            continue
        kind = fields().get(name)
        at = f"{PLACE}.{key_text(str(name))}"
        if kind is None:
            fix = did_you_mean(str(name), fields())
            yield f"{at}: no field of the kubelet's configuration; {fix}"
        elif kind == TALOS_OWN:
            yield f"{at}: Talos sets it itself, and takes it from nobody; remove it"
        elif one is not None and not KINDS[kind].holds(one):
            shown = value_text(one) or "(not shown)"
            yield f"{at} = {shown}: is to be {kind}; {KINDS[kind].example}"
