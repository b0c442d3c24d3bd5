#!/usr/bin/env bash
# One whole LOZO step of true OPT-175B shape (96 layers, synthetic f16 weights, 1 x 16 tokens) on the cpu
# device under 2,800 MiB; prints what `zo2 bench` prints, with the machine. About five minutes on two cores.
#   bash scripts/record-175b.sh | tee scripts/logs/opt-175b-lozo.txt
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
echo "$(date -u +%F)  zo2 at $(git rev-parse --short HEAD)  $(nproc) cores, $(awk '/MemTotal/ { printf "%.1f GiB", $2 / 2^20 }' /proc/meminfo) of RAM, node $(node --version)"
node dist/src/cli/bin.js bench --synthetic opt-175b --method lozo --device cpu --memory 2800MiB \
  --batch-size 1 --max-length 16 --steps 1 2>&1
