"""Layer Drift: a field that differs, in words that say what it means."""

from __future__ import annotations

from ops.drift.finding import Field
from ops.drift.undeclared import NOT_SET
from ops.review.difference import NOTHING, Leaf

POLICY = "NetworkPolicy"
PEERS = {"from": "everybody", "to": "everywhere", "ports": "every port"}
"""What a rule of a NetworkPolicy lets through when it does not name these."""


def told(kind: str, leaf: Leaf) -> Field:
    """Give a leaf of an object of this kind as a field; of a Secret only that it changed.

    What is missing is called so; in a NetworkPolicy what is missing opens.
    """
    wanted, found = leaf.texts(hidden=kind == "Secret")
    if kind == "Secret":
        return Field(where=leaf.where, wanted=wanted, found=found)
    return Field(
        where=leaf.where,
        wanted=_words(kind, leaf, leaf.old, wanted),
        found=_words(kind, leaf, leaf.new, found),
    )


def _words(kind: str, leaf: Leaf, value: object, text: str) -> str:
    text = NOT_SET if value is NOTHING else text
    if kind != POLICY or leaf.path[:2] not in (("spec", "ingress"), ("spec", "egress")):
        return text
    if value in (NOTHING, [], None) and leaf.path[-1] in PEERS:
        return f"{text}: {PEERS[leaf.path[-1]]}"
    if value == {}:
        return f"{text}: everything"
    return text
