"""Layer Render: values held against a chart's JSON schema, as Helm does before it renders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import validator_for

from ops.render.keys import Path, Tree, join, look_up

Schema = Mapping[str, Any]


def problems(schema: Schema, values: Mapping[str, Any], defaults: Tree) -> Iterator[str]:
    """Say where values do not fit the schema.

    Helm validates the values over the defaults: what is required and has a default is never missed.
    """
    # Helm's charts mostly write draft 7, also where their `$schema` is misspelt.
    validator = validator_for(schema, default=Draft7Validator)(schema)
    for error in sorted(validator.iter_errors(dict(values)), key=lambda one: one.json_path):
        path = tuple(str(part) for part in error.absolute_path)
        if not _has_default(error, path, defaults):
            yield f"{join(path) or 'the values'}: {error.message}"


def _has_default(error: ValidationError, path: Path, defaults: Tree) -> bool:
    """Say whether something is missed that the defaults bring."""
    if error.validator != "required":
        return False
    schema: Any = error.schema
    instance: Any = error.instance
    missed = [name for name in schema["required"] if name not in instance]
    return all(look_up(defaults, (*path, name)) is not None for name in missed)


def knows(schema: Schema, path: Path) -> bool:
    """Say whether a schema names a path, or says that anything may stand there."""
    return _knows(schema, schema, path)


def _knows(root: Schema, node: object, path: Path) -> bool:
    if not isinstance(node, Mapping):
        return False
    node = _resolve(root, node)
    if not path:
        return True
    branches = [one for kind in ("anyOf", "oneOf", "allOf") for one in node.get(kind, ())]
    if any(_knows(root, one, path) for one in branches):
        return True
    properties = node.get("properties", {})
    if path[0] in properties:
        return _knows(root, properties[path[0]], path[1:]) or _open(root, properties[path[0]])
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
