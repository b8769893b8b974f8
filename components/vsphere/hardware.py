"""Layer vSphere: what the other layers know of a virtual machine's hardware."""

from __future__ import annotations

LINK = "eth0"
"""The only network interface; Talos' VMware image boots with net.ifnames=0."""
LINUX_START_MIB = 3072
"""vCenter gives a Linux machine that was started with at most so much nothing past it live."""
