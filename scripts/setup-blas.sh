#!/usr/bin/env bash
# Installs OpenBLAS on Debian and its relatives, for the tests of --blas; quick and silent where it is installed.
# Elsewhere, or without root, these tests are skipped by name.
set -euo pipefail

ldconfig -p 2>/dev/null | grep 'libopenblas\.so\.0' >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo 'setup-blas: apt-get install libopenblas0-pthread' >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends libopenblas0-pthread >/dev/null && exit 0
fi
echo 'setup-blas: no OpenBLAS, its tests are skipped' >&2
