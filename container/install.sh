#!/bin/sh
# Installs midiff and what it needs to run into the environment /opt/midiff: install.sh CHECKOUT TORCH_INDEX
# Needs python3 with its module venv. The Dockerfile and midiff.def call it while they build an image.
set -eu
cd "$1"

python3 -m venv /opt/midiff
install() { /opt/midiff/bin/python -m pip --disable-pip-version-check install -c constraints.txt "$@"; }

# The build of PyTorch decides between CPU and GPU, so that its index serves it alone.
install --no-deps --index-url "$2" torch
install ".[cluster,dicom]"

# What no run reads: C++ headers, tests of packages, and pip itself. It is a fifth of the environment.
find /opt/midiff/lib -depth -type d \( -path '*/torch/include' -o -name test -o -name tests \) -exec rm -r {} +
/opt/midiff/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes pip setuptools
