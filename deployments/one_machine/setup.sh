#!/bin/sh
# A virtual environment from the lock file; quick when it is there already. Needs python3 >= 3.11 alone.
set -eu
cd "$(dirname "$0")/../.."
stamp=.venv/.locked
want=$(cat uv.lock pyproject.toml | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "Zero Fleet needs Python 3.11 or newer as python3; install it, or name it: make PYTHON=python3.12 …" >&2
    exit 1
}
started=$(date +%s)
echo "making .venv from uv.lock …"
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    # Debian keeps it in a package of its own.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv; } >/dev/null
    else
        echo "python3 has no venv module; type: sudo apt-get install -y python3-venv" >&2
        exit 1
    fi
fi
# One that was cut off, or that another tool made without pip, is made anew.
.venv/bin/python -m pip --version >/dev/null 2>&1 || { rm -rf .venv; "$python" -m venv .venv; }
.venv/bin/python -m pip install -q --disable-pip-version-check 'uv>=0.5'
# Compiled now: else every flow run compiles Prefect anew, 2.4 s instead of 1.2 s.
# The system's certificates, as pip and curl use them (a company's proxy has its own).
UV_SYSTEM_CERTS=true VIRTUAL_ENV="$PWD/.venv" UV_PROJECT_ENVIRONMENT="$PWD/.venv" .venv/bin/python -m uv sync -q --frozen --inexact --compile-bytecode
echo "$want" > "$stamp"
echo "made .venv in $(($(date +%s) - started)) s"
