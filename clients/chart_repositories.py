"""Layer Kubernetes: whether each chart can be had, asked before anything is touched.

The provider loads a chart while it checks the release's inputs, in every preview and `up`; what
fails there ends the run with the provider's own words, and no hook of the program hears of it. So
the program looks into the repositories first, as Helm does (helm/pkg/repo, index.yaml).
"""

from __future__ import annotations

import datetime as dt
import gzip
import re
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import yaml

from clients.explanation import meaning_of_connection
from config import plain_yaml
from config.problems import Problem, listed, problem

if TYPE_CHECKING:
    from config.charts import ChartPlan

SECONDS = 30.0
OFFERED = 3
"""Versions that a message names."""


class ChartError(Exception):
    """Charts that cannot be had; the text names the settings, and what to do."""


def check(plans: Sequence[ChartPlan]) -> None:
    """Look whether every repository has its chart, in the version asked for. Raises ChartError."""
    remote = [one for one in plans if one.repository.startswith(("https://", "http://"))]
    if not remote:
        return
    with ThreadPoolExecutor(max_workers=len(remote)) as pool:
        problems = [found for found in pool.map(find_problem, remote) if found is not None]
    if problems:
        raise ChartError(listed(problems))


def find_problem(plan: ChartPlan) -> Problem | None:
    """Say what keeps a chart from being had; None when nothing does."""
    try:
        index = index_of(plan.repository)
    except (OSError, HTTPException, EOFError, UnicodeDecodeError) as error:
        return _unreachable(plan, str(error))
    offered = versions(index, plan.chart)
    if plan.version.removeprefix("v") in (one.removeprefix("v") for one in offered):
        return None
    if not offered:
        fault = f"{plan.repository} has no chart {plan.chart}"
        return Problem(_key(plan), fault, "see whether it has moved, and what this project pins")
    return problem(
        ("services", plan.service, "version"),
        plan.version,
        f"{plan.repository} has no such version of the chart {plan.chart}",
        f"set one that it has (the newest: {', '.join(offered[:OFFERED])}), or leave the key out "
        "for the version that this project is tested with",
    )


def versions(index: str, chart: str) -> list[str]:
    """Give a chart's versions in a repository's index, in its order: the newest first."""
    return [version for version, _ in _entries(index, chart)]


def package_of(index: str, chart: str, version: str) -> str | None:
    """Give the address of a chart's package, as a repository's index has it: it may be relative."""
    urls = _entry(index, chart, version).get("urls")
    return str(urls[0]) if urls else None


def created(index: str, chart: str, version: str) -> dt.datetime | None:
    """Say when a chart's version came out; `None` when the index does not tell."""
    try:
        when = dt.datetime.fromisoformat(str(_entry(index, chart, version).get("created")))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=dt.UTC)


def _entry(index: str, chart: str, version: str) -> dict[str, Any]:
    """Give what an index says of a chart's version; empty when it has none."""
    number = version.removeprefix("v")
    for offered, entry in _entries(index, chart):
        if offered.removeprefix("v") == number:
            found: dict[str, Any] = plain_yaml.read(entry)[0]
            return found
    return {}


def _entries(index: str, chart: str) -> Iterator[tuple[str, str]]:
    """Give a chart's versions, each with its entry, a list of one, as YAML.

    An index is megabytes long and written by Helm, so its lines are read; one that is laid out in
    another way is read as YAML, which takes seconds.
    """
    section = re.search(rf"(?m)^  {re.escape(chart)}:\n((?:  [ -].*\n|\n)*)", index)
    found = False
    for entry in re.split(r"(?m)^(?=  - )", section[1]) if section else ():
        if version := re.search(r"(?m)^(?:    |  - )version: *(\S+)", entry):
            found = True
            yield version[1].strip("\"'"), entry
    if found:
        return
    try:
        document: Any = plain_yaml.read(index)
        for one in (document.get("entries") or {}).get(chart) or []:
            yield str(one["version"]), yaml.safe_dump([one])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return


def index_of(repository: str) -> str:
    """Read a repository's index.yaml; raises `OSError` and others when it cannot be had."""
    url = f"{repository.rstrip('/')}/index.yaml"
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})  # noqa: S310 a pin
    with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
        body: bytes = response.read()
        if response.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
    return body.decode()


def _unreachable(plan: ChartPlan, words: str) -> Problem:
    fault, fix = meaning_of_connection(words) or (
        "it does not give its list of charts",
        "open it in a browser, and see whether it has moved",
    )
    where = f"its chart repository {plan.repository} cannot be used: {fault}"
    return Problem(_key(plan), where, f"{fix} ({words})")


def _key(plan: ChartPlan) -> str:
    return f"platform:services.{plan.service}"
