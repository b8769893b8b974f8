"""Layer Drift: one thing that is not as its owner wants it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

PULUMI, ARGOCD = "Pulumi", "Argo CD"


class DriftError(Exception):
    """Something could not be looked at; the text says what, and the fix."""


class Field(BaseModel):
    """A field that differs; both values are short texts, and never a secret."""

    model_config = ConfigDict(frozen=True)

    where: str
    wanted: str
    found: str


class Finding(BaseModel):
    """An object, a machine or a resource that differs."""

    model_config = ConfigDict(frozen=True)

    place: str
    """Where it was seen: vCenter, a machine, the cluster."""
    who: str
    owner: str
    what: str
    """In a few words: changed, gone, not reachable."""
    fields: tuple[Field, ...] = ()
    fix: str
