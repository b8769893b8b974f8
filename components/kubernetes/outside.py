"""Layer Kubernetes: how a pod gets outside: by the site's proxy, with the company's authorities.

What its containers are told of it is in `config.way_out`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from components.kubernetes.isolated_namespace import Rule, anybody, ports
from components.kubernetes.objects import KubernetesObject
from config.values import as_address
from config.way_out import ROOTS, ROOTS_FILE

if TYPE_CHECKING:
    from components.kubernetes.isolated_namespace import IsolatedNamespace
    from config.way_out import WayOut


def authorities(way: WayOut, namespace: IsolatedNamespace) -> list[KubernetesObject]:
    """Make the ConfigMap of the company's authorities in a namespace; none without them."""
    if way.trusted_roots is None:
        return []
    made = KubernetesObject(
        "v1",
        "ConfigMap",
        f"{namespace.name}/{ROOTS}",
        metadata={"name": ROOTS, "namespace": namespace.name},
        data={ROOTS_FILE: way.trusted_roots},
        opts=namespace.options(),
    )
    return [made]


def egress(way: WayOut, places: Collection[tuple[str, int]], *own: int) -> Iterator[Rule]:
    """Open the way to places outside, each a host and its port, and nothing more than that way.

    A policy knows no names: without a proxy a port is open to everybody. `own` are ports that no
    proxy serves, such as the API's. `config.way_out.ANYWHERE` is a host too.
    """
    proxy = way.proxy_url
    through = [host for host, _ in places if not way.is_direct(host)]
    near = {port for host, port in places if way.is_direct(host)}
    if own or near:
        yield anybody(*dict.fromkeys((*own, *sorted(near))))
    if through and proxy is not None and proxy.port is not None:
        if as_address(proxy.host) is None:
            yield anybody(proxy.port)
        else:
            yield {"to": [{"ipBlock": {"cidr": f"{proxy.host}/32"}}], "ports": ports(proxy.port)}
