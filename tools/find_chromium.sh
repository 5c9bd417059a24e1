#!/bin/sh
# Print the path of a Chromium that works; with --install, get one when there is none.
#
# In this order: TEST_CHROMIUM, a browser on the PATH, one that Playwright has
# already downloaded; then Debian's package when root and apt exist; then Playwright's own.
set -eu
cd "$(dirname "$0")/.."

works() {
    [ -n "$1" ] && "$1" --version >/dev/null 2>&1
}

find_chromium() {
    for name in "${TEST_CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
        [ -n "$name" ] || continue
        path=$(command -v "$name" 2>/dev/null) || continue
        # Ubuntu's chromium-browser without snap is a script that only prints an advice.
        if works "$path"; then
            echo "$path"
            return 0
        fi
    done
    path=$(.venv/bin/python - 2>/dev/null <<'PYTHON'
from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
PYTHON
    ) || return 1
    works "$path" && echo "$path"
}

install_chromium() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing Debian's chromium and a font (tests of the console)" >&2
        export DEBIAN_FRONTEND=noninteractive
        if apt-get -qq update >&2 && apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >&2 \
            && find_chromium >/dev/null; then
            return 0
        fi
    fi
    echo "installing Playwright's chromium (tests of the console)" >&2
    .venv/bin/python -m playwright install chromium >&2
}

if find_chromium; then
    exit 0
fi
if [ "${1:-}" = --install ]; then
    install_chromium
    find_chromium && exit 0
fi
echo "No Chromium found. As root on Debian: apt-get install chromium fonts-dejavu-core" >&2
echo "As a user: .venv/bin/playwright install chromium (its libraries may need root:" >&2
echo ".venv/bin/playwright install-deps chromium)" >&2
exit 1
