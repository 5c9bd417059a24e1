#!/bin/sh
# Print the first Python 3.11 or newer of this machine; nothing when there is none.
#
# A name on the PATH proves nothing (pyenv's shims exist without their version): each
# candidate has to answer.
for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
    path=$(command -v "$name" 2>/dev/null) || continue
    if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$path"
        exit 0
    fi
done
exit 0
