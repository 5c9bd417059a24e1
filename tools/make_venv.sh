#!/bin/sh
# Make a virtual environment, or say exactly what is missing.
#
#   tools/make_venv.sh PYTHON DIRECTORY
set -eu
python=$1
directory=$2

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

[ -n "$python" ] || fail \
    "Tokenworks needs Python 3.11 or newer, and none was found on the PATH." \
    "Debian, Ubuntu:  apt-get install python3 python3-venv" \
    "Elsewhere:       make run PYTHON=/path/to/python3.12"

if [ -x "$directory/bin/python" ] &&
    "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0 # It is there and works; what is installed in it stays.
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
echo "making $directory with Python $version ($python)"
if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv "$directory"
elif "$python" -m virtualenv --version >/dev/null 2>&1; then
    "$python" -m virtualenv --quiet "$directory"
elif virtualenv --version >/dev/null 2>&1; then
    virtualenv --quiet --python "$python" "$directory"
else
    fail \
        "Python $version has no venv module here (Debian and Ubuntu ship it apart). Do one of:" \
        "  apt-get install python3-venv     as root, then the same make command again" \
        "  python3 -m pip install --user virtualenv     as a user, then the same again" \
        "  make run PYTHON=/path/to/another/python3     3.11 or newer, with venv"
fi
