#!/usr/bin/env bash
# Prints the Pythons that the benches against PyTorch use, separated by commas: those of $BENCH_PYTHON if set (each
# needs torch and transformers), else two of .cache/, made here: Debian's PyTorch with OpenBLAS, if it is installed,
# and the current wheel of PyPI (some 5 GB). The benches quote the faster of them.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -n "${BENCH_PYTHON:-}" ]; then
  echo "$BENCH_PYTHON"
  exit
fi

found=()
debian=.cache/bench-venv
if /usr/bin/python3 -c 'import torch, venv, ensurepip' 2>/dev/null; then
  if ! "$debian/bin/python" -c 'import transformers' 2>/dev/null; then
    rm -rf "$debian"
    /usr/bin/python3 -m venv --system-site-packages "$debian"
    "$debian/bin/pip" install --quiet 'transformers==4.45.2' >&2
  fi
  found+=("$PWD/$debian/bin/python")
else
  echo "bench: without Debian's PyTorch (apt-get install --no-install-recommends python3-torch libopenblas0-pthread python3-venv)" >&2
fi

wheel=.cache/bench-wheel
if ! "$wheel/bin/python" -c 'import torch, transformers' 2>/dev/null; then
  rm -rf "$wheel"
  python3 -m venv "$wheel"
  "$wheel/bin/pip" install --quiet torch transformers >&2
fi
found+=("$PWD/$wheel/bin/python")
(
  IFS=,
  echo "${found[*]}"
)
