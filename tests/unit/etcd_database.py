"""Writes a snapshot of etcd as etcd does, for tests: a bbolt database and the hash after it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence

from clients.etcd_snapshot import BRANCH_ITEM, BUCKET, LEAF_ITEM, MAGIC, META, PAGE, _fnv

SIZE = 4096
CA = b"-----BEGIN CERTIFICATE-----\nof-the-cluster\n-----END CERTIFICATE-----\n"
ROOT_CA = "/registry/configmaps/kube-system/kube-root-ca.crt"
PER_LEAF = 8


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def stored(kind: str, created: int, text: bytes = b"") -> bytes:
    """An object as the API server stores it in protobuf."""
    metadata = field(1, b"some") + field(8, field(1, created))
    what = field(1, field(1, b"v1") + field(2, kind.encode()))
    return b"k8s\0" + what + field(2, field(1, metadata) + field(2, text))


def _leaf(items: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    head, data = b"", b""
    for at, (flags, key, value) in enumerate(items):
        position = (len(items) - at) * LEAF_ITEM.size + len(data)
        head += LEAF_ITEM.pack(flags, position, len(key), len(value))
        data += key + value
    return head + data


def _page(number: int, flags: int, count: int, content: bytes) -> bytes:
    whole = PAGE.pack(number, flags, count, (len(content) + PAGE.size - 1) // SIZE) + content
    return whole + bytes(-len(whole) % SIZE)


def snapshot(revisions: Sequence[Mapping[str, bytes | None]]) -> bytes:
    """A snapshot whose revisions each put objects by their keys; None deletes one."""
    items = []
    for main, changes in enumerate(revisions, 2):
        for sub, (key, value) in enumerate(changes.items()):
            name = struct.pack(">Q", main) + b"_" + struct.pack(">Q", sub)
            message = field(1, key.encode()) + (field(5, value) if value is not None else b"")
            items.append((0, name + (b"t" if value is None else b""), message))
    pages, children = b"", []
    groups = [items[at : at + PER_LEAF] for at in range(0, len(items), PER_LEAF)]
    number = 4
    for group in groups:
        made = _page(number, 0x02, len(group), _leaf(group))
        children.append((group[0][1], number))
        pages += made
        number += len(made) // SIZE
    branch = b"".join(
        BRANCH_ITEM.pack((len(children) - at) * 16 + sum(len(k) for k, _ in children[:at]), 17, n)
        for at, (_, n) in enumerate(children)
    ) + b"".join(key for key, _ in children)
    root = _leaf(
        [(1, b"key", BUCKET.pack(3, 0)), (1, b"meta", BUCKET.pack(0, 0) + PAGE.pack(0, 2, 0, 0))]
    )
    metas = b""
    for transaction in (7, 8):
        raw = META.pack(MAGIC, 2, SIZE, 0, 2, 0, 2, number, transaction, 0)[:-8]
        metas += _page(transaction - 7, 0x04, 0, raw + struct.pack("<Q", _fnv(raw)))
    database = metas + _page(2, 0x02, 2, root) + _page(3, 0x01, len(children), branch) + pages
    return database + hashlib.sha256(database).digest()


def of_a_cluster(created: int, authority: bytes = CA) -> bytes:
    """A snapshot with some objects of a cluster."""
    return snapshot(
        [
            {"/registry/namespaces/default": stored("Namespace", created - 100)},
            {ROOT_CA: stored("ConfigMap", created - 90, b"ca.crt" + authority.strip())},
            *({f"/registry/pods/default/p{one}": stored("Pod", created - 50)} for one in range(20)),
            {"/registry/pods/default/p3": None},
            {"/registry/services/specs/default/kubernetes": stored("Service", created)},
            {"/registry/secrets/default/one": b"k8s:enc:secretbox:v1:key1:xxxx"},
            {"/registry/metallb.io/ipaddresspools/metallb/default": (
                b'{"metadata":{"creationTimestamp":"2026-01-01T00:00:00Z"}}'
            )},
        ]
    )  # fmt: skip
