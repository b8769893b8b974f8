"""Layer Talos: the machines' configuration, their health, and the cluster that they make."""
