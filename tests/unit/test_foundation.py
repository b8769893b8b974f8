"""Upstream's definitions are installed whole, but for what only people read."""

from __future__ import annotations

from typing import Any

from components.kubernetes.foundation import bare

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A route.",
    "required": ["description"],
    "properties": {
        "description": {"type": "string", "description": "A field of this name.", "maxLength": 9},
        "rules": {
            "type": "array",
            "items": {
                "description": "A rule.",
                "anyOf": [{"description": "One way.", "required": ["a"]}, {"required": ["b"]}],
                "x-kubernetes-validations": [{"rule": "self.a", "message": "a is needed"}],
                "default": {"description": "what is set when nothing is"},
                "enum": [{"description": "a value"}],
            },
        },
        "labels": {"additionalProperties": {"description": "A label.", "type": "string"}},
        "any": {"additionalProperties": True, "not": {"description": "Not this.", "type": "null"}},
    },
}
BARE: dict[str, Any] = {
    "type": "object",
    "required": ["description"],
    "properties": {
        "description": {"type": "string", "maxLength": 9},
        "rules": {
            "type": "array",
            "items": {
                "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
                "x-kubernetes-validations": [{"rule": "self.a", "message": "a is needed"}],
                "default": {"description": "what is set when nothing is"},
                "enum": [{"description": "a value"}],
            },
        },
        "labels": {"additionalProperties": {"type": "string"}},
        "any": {"additionalProperties": True, "not": {"type": "null"}},
    },
}


def definition(schema: dict[str, Any]) -> dict[str, Any]:
    """Make a definition of this schema."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "routes.example.com",
            "labels": {"app": "routes"},
            "annotations": {"bundle": "1.4.1"},
        },
        "spec": {
            "group": "example.com",
            "names": {"kind": "Route", "plural": "routes"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "additionalPrinterColumns": [{"name": "Age", "description": "How old"}],
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


def test_only_the_descriptions_of_fields_are_left_out() -> None:
    upstream = definition(SCHEMA)
    assert bare(upstream) == definition(BARE)
    assert upstream == definition(SCHEMA)  # what is given stays as it is


def test_what_upstreams_tool_left_empty_is_not_installed() -> None:
    upstream = definition(BARE)
    upstream["metadata"]["creationTimestamp"] = None
    upstream["status"] = {"conditions": []}
    assert bare(upstream) == definition(BARE)
