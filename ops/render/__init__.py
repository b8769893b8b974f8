"""Layer Render: what the charts make of our values, and whether it is to the platform's standard.

For people and tests; nothing here runs in `pulumi up`. What each chart accepts is kept in
`ops/render/charts/`, renewed from the real packages by `python -m ops render renew`.
"""
