"""The systems that the platform is made on, called plainly: no module here imports Pulumi.

All of them block. Whoever must not wait runs them in a thread (components/hooks.py).
"""
