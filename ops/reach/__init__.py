"""Reach: what can be tried from the operator's computer before `up` needs it.

`python -m ops check --reach FILE` runs it. Nothing is changed anywhere, and no secret is read.
"""
