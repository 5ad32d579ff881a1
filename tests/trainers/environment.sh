#!/bin/sh
# Make the environment of one trainer, .venv-NAME: what its requirements.txt lists, on top of the main environment.
#
#     sh tests/trainers/environment.sh NAME [python of the main environment] [folder of the list]
#
# It sees the main environment's packages after its own, by one line in a .pth file: torch, transformers, the service and
# pytest are there already, and no second copy of them is downloaded. Versions that a trainer must have otherwise stand in
# its list and come first. --no-deps, because trainers also name what no CPU has (flash-attn, deepspeed, vllm for CUDA).
set -eu
cd "$(dirname "$0")/../.."
name=$1
main=${2:-.venv/bin/python}
list=${3:-tests/trainers/$name}/requirements.txt
place=.venv-$name

cmp -s "$list" "$place/installed.txt" && exit 0
rm -rf "$place"
"$main" -m venv --without-pip "$place"
site=$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$main" -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' >"$site/main_environment.pth"
"$place/bin/python" -m pip --disable-pip-version-check install --quiet --no-compile --no-deps -r "$list"
cp "$list" "$place/installed.txt"
