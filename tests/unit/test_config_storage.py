"""Endpoint, bucket and region of the backups: no request is signed that S3 would refuse."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from config import SettingsError, parse
from tests.unit.recorder import production


def told(**backup: Any) -> list[str]:
    raw = deepcopy(production())
    raw["services"]["backup"] |= backup
    try:
        parse(raw)
    except SettingsError as error:
        return [str(one).removeprefix("platform:services.backup.") for one in error.problems]
    return []


@pytest.mark.parametrize(
    "backup",
    [
        {"endpoint": "https://s3.eu-central-1.amazonaws.com", "region": "eu-central-1"},
        {"endpoint": "https://s3-us-west-2.amazonaws.com", "region": "us-west-2"},
        {"endpoint": "https://s3.amazonaws.com"},
        {"endpoint": "https://backup.example.com", "bucket": "backup"},
        {"endpoint": "https://s3.example.com/gateway/", "bucket": "etcd"},
        {"endpoint": "https://s3.example.com", "bucket": "etcd.prod"},
        {"endpoint": "http://s3.example.com", "bucket": "etcd.prod", "pathStyle": False},
        {"endpoint": "https://172.16.30.5:9000"},
        {"endpoint": "https://s3.example.com", "region": "RegionOne"},
    ],
)
def test_what_s3_answers_is_taken(backup: dict[str, Any]) -> None:
    assert told(**backup) == []


@pytest.mark.parametrize(
    ("backup", "key", "fix"),
    [
        (
            {"endpoint": "https://s3.eu-central-1.amazonaws.com"},
            'region = "us-east-1"',
            "write `region: eu-central-1`",
        ),
        (
            {"endpoint": "https://s3.dualstack.eu-west-1.amazonaws.com", "region": "eu-central-1"},
            'region = "eu-central-1"',
            "write `region: eu-west-1`",
        ),
        (
            {"endpoint": "https://s3.cn-north-1.amazonaws.com.cn"},
            'region = "us-east-1"',
            "write `region: cn-north-1`",
        ),
        (
            {"endpoint": "https://etcd.s3.example.com:9000", "bucket": "etcd"},
            "endpoint",
            "write https://s3.example.com:9000",
        ),
        (
            {"endpoint": "https://s3.example.com/gateway/etcd/", "bucket": "etcd"},
            "endpoint",
            "write https://s3.example.com/gateway",
        ),
        (
            {"endpoint": "https://172.16.30.5:9000", "pathStyle": False},
            "pathStyle = false",
            "give the host's name",
        ),
        (
            {"endpoint": "https://s3.example.com", "bucket": "etcd.prod", "pathStyle": False},
            "pathStyle = false",
            "use a bucket without dots",
        ),
    ],
)
def test_what_s3_would_refuse_is_told_with_the_fix(
    backup: dict[str, Any], key: str, fix: str
) -> None:
    (line,) = told(**backup)
    assert line.startswith(key)
    assert line.endswith(fix)
