"""The storage of the backups, as S3 speaks: what is there, one of them, how it is kept.

Amazon's own library, as in the backup job. Credentials are those of the environment
(`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, ...), else the stack's. A private authority is one of
`site.trustedRoots`, one that the system trusts, or that `AWS_CA_BUNDLE` names.
"""

from __future__ import annotations

import atexit
import datetime as dt
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import get_cert_path

if TYPE_CHECKING:
    from config.settings import Backup as BackupSettings

SECONDS = 10
"""For a connection, and for each answer on it."""
OF_ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
NO_RULES = {"NoSuchLifecycleConfiguration", "NoSuchBucketPolicy", "NotImplemented"}
"""What a storage says without lifecycle rules: the bucket has none, or the storage knows none."""
NO_LOCK = {"ObjectLockConfigurationNotFoundError", "ObjectLockConfigurationNotFound"}
STATES = "state"
"""The folder, beside a cluster's snapshots, of the copies of its stack's state."""


class StorageError(Exception):
    """The storage does not answer, or refuses; the text names it and the fix."""

    page = "docs/procedures/restore-backup.md"


@dataclass(frozen=True)
class Stored:
    """An encrypted file in the bucket."""

    key: str
    taken: dt.datetime
    size: int


@dataclass(frozen=True)
class Kept:
    """How long the bucket keeps what is in it, as it says itself."""

    versioned: bool
    locked_days: int
    """For so long nobody can delete or replace an object; 0 without a rule."""
    expires_days: int
    """After so many days an object is deleted; 0: never."""


@dataclass(frozen=True)
class Storage:
    """The bucket of `services.backup`; the keys may be missing where the environment has some."""

    backup: BackupSettings
    cluster: str
    access_key: str = field(repr=False, default="")
    secret_key: str = field(repr=False, default="")
    trusted_roots: str | None = None
    """Authorities that are trusted beside the system's, in PEM."""

    def snapshots(self) -> list[Stored]:
        """List the cluster's snapshots, oldest first. Raises StorageError."""
        return self._named(f"{self.cluster}/{self.cluster}-", ".snap.age")

    def states(self) -> list[Stored]:
        """List the copies of the stack's state, oldest first. Raises StorageError."""
        return self._named(f"{self.cluster}/{STATES}/{self.cluster}-", ".state.age")

    def name_of_state(self, now: dt.datetime) -> str:
        """Give the key of a copy of the state."""
        time = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"{self.cluster}/{STATES}/{self.cluster}-{time}.state.age"

    def _named(self, prefix: str, suffix: str) -> list[Stored]:
        pattern = re.compile(
            rf"{re.escape(prefix)}(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ){re.escape(suffix)}"
        )
        found = [
            Stored(one["Key"], dt.datetime.fromisoformat(match[1]), one["Size"])
            for one in self._objects(prefix)
            if (match := pattern.fullmatch(one["Key"]))
        ]
        return sorted(found, key=lambda one: one.taken)

    def _objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        where: dict[str, Any] = {"Bucket": self.backup.bucket, "Prefix": prefix}
        while True:
            page = self._call("list_objects_v2", **where)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def download(self, key: str, target: Path) -> None:
        """Write an object into a file that is there already. Raises StorageError."""
        body = self._call("get_object", Bucket=self.backup.bucket, Key=key)["Body"]
        try:
            with target.open("wb") as file:
                for chunk in body.iter_chunks(1 << 20):
                    file.write(chunk)
        except BotoCoreError as error:
            raise StorageError(f"{self._name}: {key} broke off: {error}") from None

    def upload(self, key: str, content: bytes) -> None:
        """Store an object. Raises StorageError."""
        self._call("put_object", Bucket=self.backup.bucket, Key=key, Body=content)

    def kept(self) -> Kept:
        """Ask how the bucket keeps its objects. Raises StorageError."""
        bucket = {"Bucket": self.backup.bucket}
        versioning = self._call("get_bucket_versioning", **bucket)
        rules = self._unless(NO_RULES, "get_bucket_lifecycle_configuration", **bucket)
        lock = self._unless(NO_LOCK, "get_object_lock_configuration", **bucket)
        days = [
            int(rule.get("Expiration", {}).get("Days", 0))
            for rule in rules.get("Rules", ())
            if rule.get("Status") == "Enabled" and self._reaches(rule)
        ]
        retention = (
            lock.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
        )
        return Kept(
            versioned=versioning.get("Status") == "Enabled",
            locked_days=int(retention.get("Days", 0)) + 365 * int(retention.get("Years", 0)),
            expires_days=min((one for one in days if one), default=0),
        )

    def _reaches(self, rule: dict[str, Any]) -> bool:
        """Tell whether a lifecycle rule is about this cluster's objects."""
        some = rule.get("Filter", {})
        prefix = some.get("Prefix", some.get("And", {}).get("Prefix", rule.get("Prefix", "")))
        return f"{self.cluster}/".startswith(prefix) or prefix.startswith(f"{self.cluster}/")

    @property
    def _name(self) -> str:
        return f"platform:services.backup, {self.backup.endpoint}, bucket {self.backup.bucket}"

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 made by the library at run time
        access, secret = self._keys()
        return botocore.session.get_session().create_client(
            "s3",
            region_name=self.backup.region,
            endpoint_url=self.backup.endpoint,
            verify=self._authorities(),
            config=Config(
                s3={"addressing_style": "path" if self.backup.path_style else "virtual"},
                connect_timeout=SECONDS,
                read_timeout=SECONDS,
                retries={"mode": "standard", "total_max_attempts": 3},
            ),
            aws_access_key_id=access,
            aws_secret_access_key=secret,
        )

    def _authorities(self) -> str | None:
        """Give the file with the authorities to trust; None: those of the library."""
        system = os.environ.get("AWS_CA_BUNDLE") or ssl.get_default_verify_paths().cafile
        if self.trusted_roots is None:
            return system
        folder = TemporaryDirectory(prefix="authorities-")
        atexit.register(folder.cleanup)  # the library reads the file with each new connection
        file = Path(folder.name, "roots.pem")
        public = Path(system or str(get_cert_path(verify=True))).read_text(encoding="utf-8")
        file.write_text(f"{public}\n{self.trusted_roots}", encoding="utf-8")
        return str(file)

    def _keys(self) -> tuple[str, str] | tuple[None, None]:
        """Give the stack's keys; none where the library finds some in the environment."""
        if any(os.environ.get(one) for one in OF_ENVIRONMENT):
            return None, None
        if not (self.access_key and self.secret_key):
            raise StorageError(
                "platform:backupAccessKey, platform:backupSecretKey: not set; set them, or give a "
                "key of your own in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return self.access_key, self.secret_key

    def _unless(self, missing: set[str], name: str, **what: Any) -> dict[str, Any]:  # noqa: ANN401
        """Call; nothing where the bucket has none of it."""
        try:
            return self._call(name, **what)
        except StorageError as error:
            if isinstance(error.__cause__, ClientError) and (
                error.__cause__.response.get("Error", {}).get("Code") in missing
            ):
                return {}
            raise

    def _call(self, name: str, **what: Any) -> dict[str, Any]:  # noqa: ANN401 the library's
        try:
            found: dict[str, Any] = getattr(self._client, name)(**what)
        except (BotoCoreError, ClientError) as error:
            raise StorageError(f"{self._name}: {error}") from error
        return found
