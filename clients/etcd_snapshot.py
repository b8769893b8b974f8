"""A snapshot of etcd, read without etcd: whether it is whole, its revision and its objects.

`talosctl etcd snapshot` and Talos' backup job write etcd's own format: the database, a bbolt file
(https://github.com/etcd-io/bbolt, page.go and meta.go), and after it the SHA-256 of it
(etcd/server, etcdserver/api/v3rpc/maintenance.go). Each revision of a key is a `mvccpb.KeyValue`
under its revision in the bucket `key` (etcd/server, storage/mvcc/revision.go). The value is what
Kubernetes stores: protobuf, JSON for custom resources, or ciphertext, as for Secrets.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import mmap
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HASH_BYTES, SECTOR = 32, 512
"""The hash is what is left of a whole number of sectors (etcdutl, snapshot/v3_snapshot.go)."""
MAGIC, VERSION = 0xED0CDAED, 2
PAGE = struct.Struct("<QHHI")
META = struct.Struct("<IIIIQQQQQQ")
BRANCH_ITEM, LEAF_ITEM = struct.Struct("<IIQ"), struct.Struct("<IIII")
BUCKET = struct.Struct("<QQ")
IS_BRANCH, IS_LEAF = 0x01, 0x02
MOST_DEPTH = 64
REVISION = struct.Struct(">Q")
TOMBSTONE_BYTES = 18
"""A key of 17 bytes is a revision; one more byte marks the deletion of what it names."""
PROTOBUF = b"k8s\0"
OBJECTS = b"/registry/"
ROOT_CA = b"/registry/configmaps/kube-system/kube-root-ca.crt"
"""In every cluster: the authority that all pods trust."""


class SnapshotError(Exception):
    """A file is no whole snapshot of etcd; the text says what is wrong with it."""


@dataclass(frozen=True)
class Content:
    """What a snapshot holds."""

    revision: int
    objects: Mapping[bytes, bytes]
    """By etcd's key, as in `/registry/namespaces/default`; the newest revision of each."""

    @property
    def kinds(self) -> dict[str, int]:
        """Count the objects by what Kubernetes' keys call their kinds, as in `configmaps`."""
        found = Counter(kind_of(key) for key in self.objects if key.startswith(OBJECTS))
        return dict(sorted(found.items()))

    @property
    def newest(self) -> dt.datetime | None:
        """Give when the newest object was created; None when none says it."""
        return max((at for one in self.objects.values() if (at := created(one))), default=None)

    def trusts(self, authority: bytes) -> bool:
        """Tell whether its pods trust this authority, in PEM: it is then of that cluster."""
        return authority.strip() in self.objects.get(ROOT_CA, b"")


def read(path: Path) -> Content:
    """Read a snapshot whose hash is right. Raises SnapshotError."""
    size = path.stat().st_size
    if size % SECTOR != HASH_BYTES:
        raise SnapshotError(
            f"it has {size} bytes: its end is missing, and with it the hash of its content"
        )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if hashlib.sha256(memoryview(data)[:-HASH_BYTES]).digest() != data[-HASH_BYTES:]:
            raise SnapshotError("its hash does not match its content")
        try:
            return _content(data)
        except (struct.error, IndexError, ValueError, RecursionError) as error:
            raise SnapshotError(f"it is not a database of etcd ({error})") from None


def _content(data: mmap.mmap) -> Content:
    size, root = _meta(data)
    keys = next(
        (value for flags, key, value in _items(data, size, root) if key == b"key" and flags),
        None,
    )
    if keys is None:
        raise ValueError("it has no bucket `key`")
    newest, objects = 0, dict[bytes, bytes]()
    for _, revision, value in _bucket(data, size, keys):
        newest = max(newest, REVISION.unpack_from(revision)[0])
        stored = dict(fields(value))
        name = _text(stored.get(1))
        if len(revision) == TOMBSTONE_BYTES:
            objects.pop(name, None)
        else:
            objects[name] = _text(stored.get(5))
    return Content(newest, objects)


def _meta(data: mmap.mmap) -> tuple[int, int]:
    """Give the size of a page, and the page of the root bucket, as the newer meta page says."""
    found = []
    first = META.unpack_from(data, PAGE.size)
    for at in (0, first[2]):
        magic, version, size, _, root, _, _, _, transaction, checksum = META.unpack_from(
            data, at + PAGE.size
        )
        raw = data[at + PAGE.size : at + PAGE.size + META.size - 8]
        if (magic, version) == (MAGIC, VERSION) and checksum == _fnv(raw):
            found.append((transaction, size, root))
    if not found:
        raise ValueError("neither of its meta pages is valid")
    _, size, root = max(found)
    return size, root


def _fnv(data: bytes) -> int:
    """Give the FNV-1a of 64 bits, with which bbolt checks its meta pages."""
    found = 0xCBF29CE484222325
    for one in data:
        found = ((found ^ one) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return found


def _bucket(data: mmap.mmap, size: int, header: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Give a bucket's items; a small one lies in its own header."""
    root, _ = BUCKET.unpack_from(header)
    if root:
        yield from _items(data, size, root)
    else:
        yield from _leaf(header[BUCKET.size :], 0)


def _items(
    data: mmap.mmap, size: int, page: int, depth: int = 0
) -> Iterator[tuple[int, bytes, bytes]]:
    """Give the items below a page, in order: flags, key, value."""
    if depth > MOST_DEPTH:
        raise ValueError("a page refers back to itself")
    at = page * size
    _, flags, count, _ = PAGE.unpack_from(data, at)
    if flags & IS_LEAF:
        yield from _leaf(data, at)
    elif flags & IS_BRANCH:
        for one in range(count):
            _, _, child = BRANCH_ITEM.unpack_from(data, at + PAGE.size + one * BRANCH_ITEM.size)
            yield from _items(data, size, child, depth + 1)
    else:
        raise ValueError(f"page {page} is neither branch nor leaf")


def _leaf(data: bytes | mmap.mmap, at: int) -> Iterator[tuple[int, bytes, bytes]]:
    _, _, count, _ = PAGE.unpack_from(data, at)
    for one in range(count):
        item = at + PAGE.size + one * LEAF_ITEM.size
        flags, position, key_size, value_size = LEAF_ITEM.unpack_from(data, item)
        begin = item + position
        key = bytes(data[begin : begin + key_size])
        yield flags, key, bytes(data[begin + key_size : begin + key_size + value_size])


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give a protobuf message's fields: number and value. Raises ValueError, IndexError."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                number, at = _varint(message, at)
                yield tag >> 3, number
            case 2:
                size, at = _varint(message, at)
                if at + size > len(message):
                    raise ValueError("a field ends after its message")
                yield tag >> 3, message[at : at + size]
                at += size
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
            case kind:
                raise ValueError(f"a field of kind {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        one = message[at]
        found |= (one & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if one < 0x80:  # noqa: PLR2004 the last byte has its highest bit clear
            return found, at


def _text(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""


def kind_of(key: bytes) -> str:
    """Name an object's kind by its key: `/registry/[GROUP/]KIND/[NAMESPACE/]NAME`."""
    first, *rest = key.removeprefix(OBJECTS).decode(errors="replace").split("/")
    if "." in first and rest:
        return f"{rest[0]}.{first}"
    return rest[0] if first == "services" and rest else first


def created(stored: bytes) -> dt.datetime | None:
    """Read when an object was created; None for one that is encrypted, or does not say it."""
    with suppress(ValueError, IndexError, KeyError, TypeError):
        if stored.startswith(b"{"):
            return dt.datetime.fromisoformat(json.loads(stored)["metadata"]["creationTimestamp"])
        if stored.startswith(PROTOBUF):
            # runtime.Unknown.raw, then metadata and its creationTimestamp's seconds.
            found = stored[len(PROTOBUF) :]
            for number in (2, 1, 8):
                found = _text(dict(fields(found))[number])
            seconds = dict(fields(found))[1]
            if isinstance(seconds, int):
                return dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    return None
