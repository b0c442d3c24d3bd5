#!/usr/bin/env bash
# Prints the Python that the benches against PyTorch use: $BENCH_PYTHON if set (it needs torch and
# transformers), else that of .cache/bench-venv, made here from Debian's PyTorch and OpenBLAS.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -n "${BENCH_PYTHON:-}" ]; then
  echo "$BENCH_PYTHON"
  exit
fi

python=/usr/bin/python3
if ! "$python" -c 'import torch, venv, ensurepip' 2>/dev/null; then
  packages='python3-torch libopenblas0-pthread python3-venv'
  echo 'bench: PyTorch for the system Python is missing; on Debian or Ubuntu:' >&2
  echo "  apt-get install --no-install-recommends $packages" >&2
  echo 'or set BENCH_PYTHON to a Python that has torch and transformers' >&2
  exit 1
fi

venv=.cache/bench-venv
if ! "$venv/bin/python" -c 'import transformers' 2>/dev/null; then
  rm -rf "$venv"
  "$python" -m venv --system-site-packages "$venv"
  "$venv/bin/pip" install --quiet 'transformers==4.45.2' >&2
fi
echo "$PWD/$venv/bin/python"
