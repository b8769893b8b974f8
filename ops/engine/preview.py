"""Reads what `pulumi preview --json` (or `refresh --preview-only --json`) writes.

The document's shape is the engine's (pulumi/pkg, display/json.go, PreviewDigest); the engine itself
has replaced every secret by `[secret]`. A resource that is replaced has several steps there, and is
one change here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from clients.engine_words import without_harmful_advice
from ops.engine.operations import OPERATIONS, Operation
from ops.engine.urn import name_of, type_of, types_of

SECRET = "[secret]"  # noqa: S105 the engine's word for one
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""The engine's mark of a value that is known only after the deployment (sdk, plugin/rpc.go)."""

NOISE = ("an unhandled error occurred: Program exited", "preview failed", "error: preview failed")
"""Lines that the engine adds to every failure."""


class PreviewError(Exception):
    """The document is not a preview."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="ignore")


class State(_Model):
    """A resource, before or after."""

    type: str = ""
    id: str = ""
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    protect: bool = False
    parent: str = ""
    dependencies: list[str] = []


class PropertyDifference(_Model):
    """How one property changes, as the provider says."""

    kind: str


class Step(_Model):
    """One step of the engine."""

    op: str
    urn: str
    old_state: State | None = None
    new_state: State | None = None
    replace_reasons: list[str] | None = None
    diff_reasons: list[str] | None = None
    detailed_diff: dict[str, PropertyDifference] | None = None

    @property
    def type(self) -> str:
        """The type of its resource, without those of its parents."""
        return type_of(self.urn)

    @property
    def name(self) -> str:
        """The name of its resource."""
        return name_of(self.urn)

    @property
    def is_protected(self) -> bool:
        """Whether the resource is protected as it is there now."""
        return self.old_state is not None and self.old_state.protect


class Diagnostic(_Model):
    """A message of the preview."""

    message: str = ""
    severity: str = "info"
    urn: str = ""


class Document(_Model):
    """The file."""

    config: dict[str, Any] = {}
    steps: list[Step] = Field(default=[])
    diagnostics: list[Diagnostic] = []


class Change(BaseModel):
    """What happens to one resource."""

    model_config = ConfigDict(frozen=True)

    urn: str
    operation: Operation
    old: State | None
    new: State | None
    paths: tuple[str, ...]
    """The properties that change, as the provider names them; may be empty."""
    replacing: tuple[str, ...] = ()
    """Of these the ones that make it a replacement."""

    @property
    def type(self) -> str:
        """The resource's type, such as `kubernetes:core/v1:Secret`."""
        return (self.new or self.old or State(type="?")).type

    @property
    def name(self) -> str:
        """The resource's name in the program."""
        return name_of(self.urn)

    @property
    def ancestry(self) -> tuple[str, ...]:
        """The types of the components around it, the outermost first."""
        return types_of(self.urn)[:-1]

    @property
    def protected(self) -> bool:
        """Whether the engine refuses to delete it."""
        return self.old is not None and self.old.protect

    def before(self, key: str) -> Any:  # noqa: ANN401 any property
        """Give an input as it was."""
        return self.old.inputs.get(key) if self.old else None

    def after(self, key: str) -> Any:  # noqa: ANN401 any property
        """Give an input as it will be."""
        return self.new.inputs.get(key) if self.new else None


class Preview(BaseModel):
    """A preview: what changes, what stays (where the engine was asked for it), what it says."""

    model_config = ConfigDict(frozen=True)

    settings: Mapping[str, Any]
    """The stack's settings by section; secrets are `[secret]`."""
    changes: tuple[Change, ...]
    unchanged: tuple[Change, ...]
    errors: tuple[str, ...]
    """Why the engine refuses; then nothing can be deployed."""
    warnings: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    """All of the engine's steps, as they came."""

    @classmethod
    def read(cls, file: Path) -> Preview:
        """Read a file. Raises `PreviewError` that names it."""
        try:
            return cls.of(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise PreviewError(f"{file}: {error.strerror}") from None
        except PreviewError as error:
            raise PreviewError(f"{file}: {error}") from None

    @classmethod
    def of(cls, text: str) -> Preview:
        """Read a document. Raises `PreviewError`."""
        try:
            document = Document.model_validate_json(text)
        except ValidationError as error:
            places = {".".join(str(part) for part in one["loc"]) for one in error.errors()}
            where = ", ".join(sorted(places)) or "no JSON"
            raise PreviewError(
                f"not what `pulumi preview --json` writes ({where}); make it again: "
                "`pulumi preview --json --show-sames > preview.json`"
            ) from None
        folded = _fold(document.steps)
        return cls(
            settings=_settings(document.config),
            changes=tuple(one for one in folded if one.operation != "same"),
            unchanged=tuple(one for one in folded if one.operation == "same"),
            errors=_messages(document.diagnostics, "error"),
            warnings=_messages(document.diagnostics, "warning"),
            steps=tuple(document.steps),
        )

    @property
    def stack_outputs(self) -> Mapping[str, Any]:
        """The stack's outputs, as they were before."""
        for one in (*self.unchanged, *self.changes):
            if one.type == "pulumi:pulumi:Stack":
                # A preview that changes nothing carries them in the old state alone.
                states = [state.outputs for state in (one.new, one.old) if state]
                return next((outputs for outputs in states if outputs), {})
        return {}


def _fold(steps: Sequence[Step]) -> list[Change]:
    """Make one change out of all steps of a resource. Raises `PreviewError`."""
    by_urn: dict[str, list[Step]] = {}
    for step in steps:
        by_urn.setdefault(step.urn, []).append(step)
    return [_change(urn, found) for urn, found in by_urn.items()]


def _change(urn: str, steps: Sequence[Step]) -> Change:
    operations = []
    for step in steps:
        if step.op not in OPERATIONS:
            raise PreviewError(
                f"{urn}: unknown operation {step.op}; add it to ops/engine/preview.py"
            )
        operations.append(OPERATIONS[step.op])
    operation = next(
        one for one in ("replace", "create", "delete", "update", "same") if one in operations
    )
    if {"create", "delete"} <= set(operations):
        operation = "replace"
    # A deletion has the resource under `oldState`; a creation under `newState`.
    old = next((one.old_state for one in steps if one.old_state), None)
    new = next((one.new_state for one in reversed(steps) if one.new_state), None)
    detailed: dict[str, PropertyDifference] = {}
    for step in steps:
        detailed |= step.detailed_diff or {}
    paths = set(detailed)
    for step in steps:
        paths |= set(step.diff_reasons or ()) if not detailed else set()
    replacing = {path for path, one in detailed.items() if one.kind.endswith("replace")}
    for step in steps:
        replacing |= set(step.replace_reasons or ())
    return Change(
        urn=urn,
        operation=operation,
        old=None if operation == "create" else old,
        new=None if operation == "delete" else new,
        paths=tuple(sorted(paths)),
        replacing=tuple(sorted(replacing)),
    )


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, text in config.items():
        section = key.partition(":")[2]
        try:
            found[section] = json.loads(text) if isinstance(text, str) else text
        except ValueError:
            found[section] = text
    return found


def _messages(diagnostics: Sequence[Diagnostic], severity: str) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            text
            for one in diagnostics
            if one.severity.startswith(severity) and (text := _useful(one.message, severity))
        )
    )


def _useful(message: str, severity: str) -> str:
    """Leave out what the engine adds to every failure, and advice that would do harm."""
    lines = [one.rstrip() for one in message.removeprefix(f"{severity}: ").splitlines()]
    kept = "\n".join(one for one in lines if one.strip() and not one.startswith(NOISE)).strip()
    return without_harmful_advice(kept)
