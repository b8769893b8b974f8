"""Layer Omni: machines that join Sidero Omni, and the cluster that it makes of them."""
