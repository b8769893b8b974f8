"""GitOps: what Argo CD reads from this repository, as far as it follows from the settings.

Argo CD knows no stack file. So what it needs of the settings is committed beside it, in the
cluster's folder: `python -m ops gitops write FILE` writes it, and `generated.check` refuses to go
on while it differs.
"""
