"""Layer vSphere: the machines, and what they share in vCenter."""
