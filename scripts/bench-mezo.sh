#!/usr/bin/env bash
# Compares a MeZO step of `zo2 finetune` with plain PyTorch's on this machine, in one run:
# OPT-125m shape (random f16 weights, real vocabulary), 16 x 64 tokens, CPU, all cores.
# Sets up what it needs under .cache/; the work and the table are in bench-mezo-compare.py.
#   bash scripts/bench-mezo.sh [--rounds 3] [--steps 6] [--size 125m]
set -euo pipefail
cd "$(dirname "$0")/.."

python=/usr/bin/python3
if ! "$python" -c 'import torch, venv, ensurepip' 2>/dev/null; then
  packages='python3-torch libopenblas0-pthread python3-venv'
  echo 'bench-mezo: PyTorch for the system Python is missing; on Debian or Ubuntu:' >&2
  echo "  apt-get install --no-install-recommends $packages" >&2
  exit 1
fi
if [ ! -f dist/src/bin.js ]; then
  echo 'bench-mezo: dist/src/bin.js is missing; build it: npm ci && npm run build' >&2
  exit 1
fi

venv=.cache/bench-venv
if ! "$venv/bin/python" -c 'import transformers' 2>/dev/null; then
  rm -rf "$venv"
  "$python" -m venv --system-site-packages "$venv"
  "$venv/bin/pip" install --quiet 'transformers==4.45.2'
fi

exec "$venv/bin/python" scripts/bench-mezo-compare.py "$@"
