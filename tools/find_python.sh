#!/bin/sh
# Print the path of a Python 3.10 that can make virtual environments, or say in one line on stderr why there is none.
#
#     sh tools/find_python.sh [PYTHON]

# A name that exists may be another version, or a shim of pyenv that only fails: what counts is that it runs.
try() {
    "$1" -c 'import ensurepip, sys, venv; sys.version_info[:2] == (3, 10) or sys.exit(1); print(sys.executable)' \
        2>/dev/null
}

fail() {
    echo "$1: nnabla has wheels for no newer Python; get one by 'uv python install 3.10' or 'pyenv install 3.10'," \
        "or name one by 'make PYTHON=/path/to/python3.10'" >&2
    exit 1
}

if [ -n "$1" ]; then
    try "$1" && exit
    fail "PYTHON=$1 is not a Python 3.10 with venv and ensurepip"
fi

try python3.10 && exit

root=$(pyenv root 2>/dev/null) || root=${PYENV_ROOT:-$HOME/.pyenv}
for python in "$root"/versions/3.10.*/bin/python3.10; do
    try "$python" && exit
done

if command -v uv >/dev/null; then
    try "$(uv python find --system 3.10 2>/dev/null)" && exit
    uv python install --quiet 3.10 2>/dev/null && try "$(uv python find --system 3.10 2>/dev/null)" && exit
fi

fail "no Python 3.10 with venv and ensurepip found"
