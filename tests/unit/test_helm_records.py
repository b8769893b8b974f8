"""Helm's records after killed runs: which are removed, and which are left alone."""

import base64
import gzip
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from clients.helm_records import (
    PATIENCE_SECONDS,
    RecordError,
    forget_pending,
    forget_unknown,
    records,
)
from config.charts import ChartPlan
from tests.unit.hand_clock import Time

PLAN = ChartPlan("traefik", "https://charts.example.com", "1.2.3", "ingress", {})


def secret(revision: int, status: str, chart: str = "traefik") -> dict[str, Any]:
    release = {"chart": {"metadata": {"name": chart}}, "config": {"password": "not for a log"}}
    packed = base64.b64encode(gzip.compress(json.dumps(release).encode()))
    return {
        "metadata": {
            "name": f"sh.helm.release.v1.traefik.v{revision}",
            "labels": {"version": str(revision), "status": status},
        },
        "data": {"release": base64.b64encode(packed).decode()},
    }


class Api:
    """The API's Secrets; `later` replaces them at the second question."""

    def __init__(self, *secrets: dict[str, Any], later: list[dict[str, Any]] | None = None) -> None:
        self.secrets = list(secrets)
        self.later = later
        self.deleted: list[str] = []
        self.asked: list[str] = []

    def get(self, path: str) -> dict[str, Any]:
        self.asked.append(path)
        answer = {"items": list(self.secrets)}
        if self.later is not None:
            self.secrets = self.later
        return answer

    def delete(self, path: str) -> None:
        self.deleted.append(path)


def test_only_the_releases_own_records_are_asked_for_oldest_first() -> None:
    api = Api(secret(10, "deployed"), secret(9, "superseded"))
    found = records(api, PLAN)  # type: ignore[arg-type]  # what of the API it uses
    assert [one.revision for one in found] == [9, 10]
    url = urlsplit(api.asked[0])
    assert url.path == "/api/v1/namespaces/ingress/secrets"
    assert parse_qs(url.query) == {"labelSelector": ["owner=helm,name=traefik"]}


def test_a_pending_revision_is_removed_and_the_deployed_one_is_kept() -> None:
    api, time = Api(secret(1, "deployed"), secret(2, "pending-upgrade")), Time()
    messages = forget_pending(api, PLAN, time.clock())  # type: ignore[arg-type]
    assert api.deleted == ["/api/v1/namespaces/ingress/secrets/sh.helm.release.v1.traefik.v2"]
    assert messages == [
        (
            "ingress/traefik: Helm's record of revision 2 is removed: "
            "a killed run left it pending-upgrade"
        )
    ]
    assert time.now >= PATIENCE_SECONDS


def test_an_operation_that_ends_by_itself_is_left_alone() -> None:
    later = [secret(1, "superseded"), secret(2, "deployed")]
    api, time = Api(secret(1, "deployed"), secret(2, "pending-upgrade"), later=later), Time()
    assert forget_pending(api, PLAN, time.clock()) == []  # type: ignore[arg-type]
    assert api.deleted == []
    assert time.now < PATIENCE_SECONDS


def test_a_release_that_the_state_does_not_know_is_forgotten_whole() -> None:
    api = Api(secret(1, "superseded"), secret(2, "deployed"))
    messages = forget_unknown(api, PLAN, Time().clock())  # type: ignore[arg-type]
    assert [path.rpartition(".")[2] for path in api.deleted] == ["v1", "v2"]
    assert len(messages) == 2


def test_somebody_elses_release_of_that_name_is_refused_and_its_values_stay_secret() -> None:
    api = Api(secret(1, "deployed", chart="nginx"))
    with pytest.raises(RecordError) as caught:
        forget_unknown(api, PLAN, Time().clock())  # type: ignore[arg-type]
    assert str(caught.value) == (
        "ingress/traefik: a Helm release of that name is there, of the chart nginx; remove it: "
        "`helm uninstall --namespace ingress traefik`"
    )
    assert api.deleted == []


def test_nothing_is_done_where_there_is_no_release() -> None:
    api = Api()
    assert forget_unknown(api, PLAN, Time().clock()) == []  # type: ignore[arg-type]
    assert forget_pending(api, PLAN, Time().clock()) == []  # type: ignore[arg-type]
    assert api.deleted == []
