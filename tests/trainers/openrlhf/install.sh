#!/bin/sh
# OpenRLHF's own client, into the environment of the Python named (default: the main one); 200 kB.
#
#     sh tests/trainers/openrlhf/install.sh [python]
#
# Its wheel holds Python only but is tagged for one version of it, so pip is told to take it for any. --no-deps: the rest of
# OpenRLHF names flash-attn, deepspeed and ray, which its reward client does not use.
set -eu
cd "$(dirname "$0")/../../.."
python=${1:-.venv/bin/python}
list=tests/trainers/openrlhf/requirements.txt
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
wanted=$(sed -n 's/^openrlhf==//p' "$list")
test -d "$site/openrlhf-$wanted.dist-info" && exit 0
"$python" -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --upgrade --only-binary=:all: \
  --implementation cp --python-version 3.11 --platform manylinux1_x86_64 --target "$site" -r "$list"
# The wheel also holds the tests of OpenRLHF, as a package named tests: it would hide this project's own.
rm -rf "$site/tests"
