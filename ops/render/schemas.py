"""Layer Render: JSON Schemas of charts' values, made of the defaults and held against values.

A chart's defaults say which keys there are and of which type. A mapping without keys, a list and a
null say no more: anything may stand below them. Kubernetes' own objects, which charts hand through
whole whatever of them they set, and its numbers that may be percentages are in
`ops/render/charts/kubernetes.json`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as File
from typing import Any, NamedTuple

from jsonschema import Draft7Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.jsonschema import DRAFT7

Schema = Mapping[str, Any]
Path = tuple[str, ...]

FOLDER = File(__file__).parent / "charts"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
_FILE = "kubernetes.json"
_KUBERNETES: Schema = json.loads((FOLDER / _FILE).read_text("utf-8"))
_REGISTRY = Registry().with_resource(_FILE, DRAFT7.create_resource(_KUBERNETES))
HANDED_THROUGH: Mapping[str, Schema] = _KUBERNETES["properties"]
"""The keys of Kubernetes' own objects, with what refers to their definition."""


def of(defaults: Mapping[str, Any]) -> Schema:
    """Make the schema of a chart's default values: these keys and no others, of these types."""
    if not defaults:
        return {"type": "object"}
    return closed({str(key): _of_key(str(key), value) for key, value in defaults.items()})


def closed(properties: Mapping[str, Schema]) -> Schema:
    """Make the schema of a mapping that has these keys and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _of_key(key: str, value: object) -> Schema:
    if isinstance(value, Mapping):
        found = of(value)
    else:
        found = {} if value is None else {"type": TYPES.get(type(value), "string")}
    if key not in HANDED_THROUGH:
        return found
    reference = {"$ref": f"{_FILE}{HANDED_THROUGH[key]['$ref']}"}
    own = _definition(reference)
    # Cilium's security context has keys of its own in it.
    more = merged(found, own) if "properties" in found else own
    return more if merged(own, more) != own else reference


def _definition(schema: Schema) -> Schema:
    """Give what a schema refers to, or the schema itself."""
    if reference := schema.get("$ref"):
        return dict(_KUBERNETES["definitions"][reference.rpartition("/")[2]])
    return schema


def merged(schema: Schema, more: Schema) -> Schema:
    """Put further keys into a schema; what is in both stays as it is in the first."""
    if "properties" not in schema or "properties" not in more:
        return schema
    properties = {**more["properties"], **schema["properties"]}
    for key in schema["properties"].keys() & more["properties"].keys():
        properties[key] = merged(schema["properties"][key], more["properties"][key])
    return {**schema, "properties": properties}


def write(schema: Schema) -> str:
    """Write a schema for a readable difference: sorted, a key a line."""
    text = json.dumps(schema, indent=1, sort_keys=True)
    return re.sub(r"\{\n\s+([^\n{}\[\]]+)\n\s+\}", r"{\1}", text) + "\n"


class Fault(NamedTuple):
    """A value that does not fit."""

    path: Path
    rule: str
    """The schema's keyword: `additionalProperties`, `type`."""
    value: Any
    schema: Schema
    """What stands in the schema for this value."""
    message: str


def faults(schema: Schema, values: Mapping[str, Any]) -> list[Fault]:
    """Say where values do not fit a schema, in the order of their paths."""
    # Helm's charts mostly write draft 7, also where their `$schema` is misspelt.
    validator = validator_for(schema, default=Draft7Validator)(schema, registry=_REGISTRY)
    return [
        Fault(
            tuple(map(str, one.absolute_path)),
            str(one.validator),
            one.instance,
            one.schema if isinstance(one.schema, Mapping) else {},
            one.message,
        )
        for one in sorted(validator.iter_errors(dict(values)), key=lambda one: one.json_path)
    ]


def paths(values: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Give every path that values set, with what they set."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from paths(value, (*above, key))
        else:
            yield (*above, key), value


def alone(path: Path, value: object) -> dict[str, Any]:
    """Make values that set a path and nothing else."""
    for key in reversed(path):
        value = {key: value}
    return dict(value) if isinstance(value, Mapping) else {}


def join(path: Path) -> str:
    r"""Write a path: `configs.cm.exec\.enabled`."""
    return ".".join(key.replace(".", "\\.") for key in path)


def known(schema: Schema, above: Path = ()) -> Iterator[Path]:
    """Give every path that a schema of defaults names."""
    for key, below in _definition(schema).get("properties", {}).items():
        yield (*above, key)
        yield from known(below, (*above, key))


def nearest(every: Sequence[Path], path: Path) -> str | None:
    """Give that of the known paths which an unknown one was most likely meant to be."""
    beside = [one for one in every if one[:-1] == path[:-1]]
    for candidates, cutoff in ((beside, 0.6), (every, 0.8)):
        if found := difflib.get_close_matches(join(path), map(join, candidates), 1, cutoff):
            return found[0]
    # The right name in the wrong place: replicas for deployment.replicas.
    same = [join(one) for one in every if one[-1] == path[-1]]
    return min(same, key=len) if same else None


def names(schema: Schema, path: Path) -> bool:
    """Say whether a chart's own schema names a path, or says that anything may stand there."""
    return _names(schema, schema, path)


def _names(root: Schema, node: object, path: Path) -> bool:
    if not isinstance(node, Mapping):
        return False
    node = _resolve(root, node)
    if not path:
        return True
    branches = [one for kind in ("anyOf", "oneOf", "allOf") for one in node.get(kind, ())]
    if any(_names(root, one, path) for one in branches):
        return True
    properties = node.get("properties", {})
    if path[0] in properties:
        return _names(root, properties[path[0]], path[1:]) or _open(root, properties[path[0]])
    # Names that are the user's to give (Traefik's further entry points) would hide misspelt ones.
    return False


def _open(root: Schema, node: object) -> bool:
    """Say whether it is a mapping of which the schema says nothing: labels, or a pod's affinity."""
    if not isinstance(node, Mapping):
        return False
    node = _resolve(root, node)
    kinds = node.get("type", ())
    is_mapping = kinds == "object" or "object" in kinds
    says = {"properties", "anyOf", "oneOf", "allOf"} & node.keys()
    return is_mapping and not says and node.get("additionalProperties", True) in (True, {})


def _resolve(root: Schema, node: Schema) -> Schema:
    while isinstance(reference := node.get("$ref"), str) and reference.startswith("#/"):
        found: Any = root
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node
