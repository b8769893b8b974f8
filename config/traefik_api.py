"""Configuration: the file of Traefik's definitions, pinned.

As it is in Traefik's repository at the release's tag, of which the chart carries copies that Helm
installs once and never changes.
"""

from __future__ import annotations

URL = "https://raw.githubusercontent.com/traefik/traefik/v{version}/docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"

SHA256: dict[str, str] = {
    "3.6.15": "073398bceed2397387938f13a54d6fa45fb23a931a63558bc10c5a7bfc4b78c9",
}
"""By version."""
