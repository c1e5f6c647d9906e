#!/bin/sh
# Make .venv with a Python >= 3.12 and install streamgmm into it.   usage: sh setup.sh [EXTRAS]   (test, all, ...)
# For Linux. Not tried on macOS, where it should work as it is, nor on Windows, where the same two steps are
#   py -m venv .venv
#   .venv\Scripts\python -m pip install .
set -eu
cd "$(dirname "$0")"
good='import sys, venv; sys.exit(sys.version_info < (3, 12))'
if ! .venv/bin/python -c "$good" 2>/dev/null; then
    python=
    for candidate in python3 python3.12 python3.13 python3.14 python; do
        if "$candidate" -c "$good" 2>/dev/null; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
        echo "setup: no Python >= 3.12 found; install one (python.org, your package manager, pyenv) and run this again" >&2
        exit 1
    fi
    echo "setup: $("$python" --version) -> .venv"
    "$python" -m venv .venv
fi
echo "setup: installing streamgmm (a minute the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
