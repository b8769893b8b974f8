"""A machine's configuration can be shown, and its secrets cannot."""

from __future__ import annotations

import json

from components.talos.redaction import fields

SECRETS = {
    "cluster": {"id": "cluster-identity-0", "secret": "cluster-secret-0"},
    "certs": {"etcd": {"cert": "etcd-certificate", "key": "etcd-key-0"}},
    "tokens": ["machine-token-0"],
    "short": "id",
}
CONFIGURATION = """
version: v1alpha1
debug: false
machine:
  token: machine-token-0
  nodeLabels: {example.com/id: id}
  registries:
    config: {registry.example.com: {auth: {username: robot, password: hand-written}}}
  kubelet: {extraArgs: {anonymous-auth: "false", service-account-key-file: /etc/key}}
  files: [{path: /etc/x, content: "prefix etcd-key-0 suffix", permissions: 420}]
---
apiVersion: v1alpha1
kind: HostnameConfig
hostname: node01
---
apiVersion: v1alpha1
kind: LinkConfig
name: eth0
addresses: [{address: 172.16.20.51/24}]
"""


def test_documents_are_found_by_kind_and_name() -> None:
    found = fields(CONFIGURATION, SECRETS)
    assert list(found) == ["v1alpha1", "HostnameConfig", "LinkConfig/eth0"]
    assert found["LinkConfig/eth0"]["addresses"] == [{"address": "172.16.20.51/24"}]


def test_what_is_no_secret_is_shown_as_it_is() -> None:
    machine = fields(CONFIGURATION, SECRETS)["v1alpha1"]["machine"]
    assert machine["nodeLabels"] == {"example.com/id": "id"}
    assert machine["kubelet"]["extraArgs"]["anonymous-auth"] == "false"
    assert machine["kubelet"]["extraArgs"]["service-account-key-file"] == "/etc/key"
    assert machine["files"][0]["permissions"] == 420


def test_a_taints_key_is_a_name_and_no_secret() -> None:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    text = json.dumps({"machine": {"taints": [taint], "ca": {"crt": "a", "key": "private"}}})
    machine = fields(text, {})["v1alpha1"]["machine"]
    assert machine["taints"] == [taint]
    assert "private" not in str(machine["ca"])


def test_no_machine_secret_is_shown_wherever_it_stands() -> None:
    text = json.dumps(fields(CONFIGURATION, SECRETS))
    for secret in ("machine-token-0", "etcd-key-0", "etcd-certificate", "cluster-secret-0"):
        assert secret not in text


def test_a_secret_that_somebody_wrote_into_a_patch_is_not_shown_either() -> None:
    text = json.dumps(fields(CONFIGURATION, SECRETS))
    assert "hand-written" not in text
    assert "robot" not in text


def test_a_changed_secret_has_another_mark_and_an_equal_one_the_same() -> None:
    before = fields(CONFIGURATION, SECRETS)["v1alpha1"]["machine"]
    again = fields(CONFIGURATION, SECRETS)["v1alpha1"]["machine"]
    changed = fields(CONFIGURATION.replace("hand-written", "another"), SECRETS)
    assert before == again
    auth = changed["v1alpha1"]["machine"]["registries"]["config"]["registry.example.com"]["auth"]
    assert auth["password"].startswith("(secret ")
    assert (
        auth["password"]
        != before["registries"]["config"]["registry.example.com"]["auth"]["password"]
    )


def test_marks_cannot_be_reproduced_without_the_machine_secrets() -> None:
    other = {**SECRETS, "cluster": {"id": "cluster-identity-0", "secret": "another-secret"}}
    ours = fields(CONFIGURATION, SECRETS)["v1alpha1"]["machine"]["registries"]
    theirs = fields(CONFIGURATION, other)["v1alpha1"]["machine"]["registries"]
    assert ours != theirs
