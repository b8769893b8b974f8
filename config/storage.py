"""Configuration: whether the endpoint, the bucket and the region of the backups fit each other.

Amazon's library makes https://HOST/BUCKET of them, or https://BUCKET.HOST without `pathStyle`, and
signs the request for the region.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from config.problems import Path, problem
from config.values import as_address, split_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from config.problems import Problem
    from config.settings import Backup
    from config.values import Url

BACKUP: Path = ("services", "backup")
# AWS General Reference, "Amazon S3 endpoints"; each answers for buckets of its own region alone.
_AMAZON = re.compile(
    r"(?:[a-z0-9.-]+\.)?s3(?:-fips)?[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-[0-9])"
    r"\.amazonaws\.com(?:\.cn)?"
)


def problems(backup: Backup) -> Iterator[Problem]:
    """Find what does not fit."""
    url = split_url(backup.endpoint)
    if url is None:
        return
    yield from _bucket_twice(backup, url)
    yield from _host_of_the_bucket(backup, url)
    found = _AMAZON.fullmatch(url.host)
    if found is not None and found[1] != backup.region:
        fault = f"not the region of {url.host}: Amazon refuses what is signed for another one"
        yield problem((*BACKUP, "region"), backup.region, fault, f"write `region: {found[1]}`")


def _bucket_twice(backup: Backup, url: Url) -> Iterator[Problem]:
    in_host = url.host.startswith((f"{backup.bucket}.s3.", f"{backup.bucket}.s3-"))
    in_path = url.path.rstrip("/").endswith(f"/{backup.bucket}")
    if in_host or in_path:
        host = url.host.removeprefix(f"{backup.bucket}.") if in_host else url.host
        path = url.path.rstrip("/").removesuffix(f"/{backup.bucket}") if in_path else url.path
        port = "" if url.port is None else f":{url.port}"
        fault = "holds the bucket, which is added to it: snapshots would go to another place"
        fix = f"write {url.scheme}://{host}{port}{path.rstrip('/')}"
        yield problem((*BACKUP, "endpoint"), backup.endpoint, fault, fix)


def _host_of_the_bucket(backup: Backup, url: Url) -> Iterator[Problem]:
    if backup.path_style:
        return
    path = (*BACKUP, "pathStyle")
    if as_address(url.host) is not None:
        fault = f"with an address as endpoint ({url.host}), below which there are no names"
        yield problem(path, backup.path_style, fault, "remove it, or give the host's name")
    elif "." in backup.bucket and url.scheme == "https":
        fault = f"with dots in the bucket: no certificate for *.{url.host} is one for "
        fault += f"{backup.bucket}.{url.host}"
        yield problem(path, backup.path_style, fault, "remove it, or use a bucket without dots")
