"""Configuration: the files of Gateway API's definitions, pinned.

The standard channel of https://gateway-api.sigs.k8s.io, as it is in the project's repository at the
release's tag.
"""

from __future__ import annotations

URL = "https://raw.githubusercontent.com/kubernetes-sigs/gateway-api/v{version}/config/crd/standard/gateway.networking.k8s.io_{kind}.yaml"

SHA256: dict[str, dict[str, str]] = {
    "1.4.1": {
        "backendtlspolicies": "f94f34b0c19cab6c25b53a6e672d9a684116a4e52193531fe2abcea20b51574f",
        "gatewayclasses": "7d958ad3965ea4a4996616846d9ecaf1fededbf9351b9752b8b85973936ae8c8",
        "gateways": "a02ea425fc901f197b668c9ddd56375e1f6896994914c6e6b9b4fdb85cf3ba6e",
        "grpcroutes": "b72068b42cb32051ca609e5a8dfefb16904d164abe2e71d9f3c776fae41c4dab",
        "httproutes": "98c6777c22309d319292e9c288ee632006c9ffdd4272383d6f9dffa3fbccaf14",
        "referencegrants": "d74fc2f8e90094f4c4d6dc13a2d720011a40e30e5640b3e2a2051fac820f6584",
    },
}
"""By version, then by the definition's plural name."""
