"""No advice to take resources out of the state is passed on; all else of a message is."""

from __future__ import annotations

import json

import pytest

from clients.engine_words import INSTEAD, without_harmful_advice
from clients.pulumi_cli import EngineError, PreviewError
from ops.engine.preview import Preview

UNREACHABLE = (
    "failed to read resource state due to unreachable cluster. If the cluster was deleted, you can "
    "remove this resource from Pulumi state by rerunning the operation with the "
    'PULUMI_K8S_DELETE_UNREACHABLE environment variable set to "true"'
)
PROTECTED = (
    'resource "urn" cannot be deleted\nbecause it is protected. To unprotect the resource, either '
    "remove the `protect` flag from the resource in your Pulumi program and run `pulumi up`, or "
    "use the command:\n`pulumi state unprotect 'urn:x'`"
)
PENDING = (
    "with 1 pending operations from previous deployment.\n  * urn:x, interrupted while creating\n"
    "Once you have confirmed the status of the interrupted operations, you can repair your stack "
    "using `pulumi refresh` which will refresh the state from the provider you are using and clear "
    "the pending operations if there are any.\n\n"
    "Note that `pulumi refresh` will need to be run interactively to clear pending CREATE "
    "operations."
)
HELM = (
    "Kubernetes cluster unreachable: dial tcp. If the cluster has been deleted, you can edit the "
    "pulumi state to remove this resource"
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (UNREACHABLE, "failed to read resource state due to unreachable cluster."),
        (PROTECTED, "because it is protected."),
        (PENDING, "interrupted while creating"),
        (HELM, "Kubernetes cluster unreachable: dial tcp."),
    ],
)
def test_advice_that_changes_the_state_is_left_out_and_the_cause_stays(
    text: str, kept: str
) -> None:
    found = without_harmful_advice(text)
    assert kept in found
    assert found.count(INSTEAD) == 1
    for word in ("UNREACHABLE", "unprotect", "pulumi refresh", "edit the pulumi state", "remove "):
        assert word not in found.replace(INSTEAD, "")


@pytest.mark.parametrize(
    "text",
    [
        "update failed\n\nnode02 lacks etcd: run `pulumi up` again.\nThe machine is off.",
        "remove the machine from the settings, then `pulumi up`",
        "the state lost it: import it with `pulumi import vsphere:index/x node01 /dc/vm/node01`",
    ],
)
def test_other_messages_stay_as_they_are(text: str) -> None:
    assert without_harmful_advice(text) == text


def test_what_a_preview_says_is_passed_on_without_it() -> None:
    diagnostics = [
        {"severity": "error", "message": UNREACHABLE, "urn": "urn:x"},
        {"severity": "warning", "message": PENDING, "urn": ""},
    ]
    document = json.dumps({"config": {}, "steps": [], "diagnostics": diagnostics})
    preview = Preview.of(document)
    said = "\n".join((*preview.errors, *preview.warnings, str(PreviewError(document, PROTECTED))))
    assert "unreachable cluster" in said
    assert INSTEAD in said
    assert "PULUMI_K8S" not in said
    assert "unprotect" not in said


def test_what_a_command_of_the_engine_says_is_passed_on_without_it() -> None:
    assert "PULUMI_K8S" not in str(EngineError(f"pulumi up: exit code 255\n{UNREACHABLE}"))
