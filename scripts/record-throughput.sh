#!/usr/bin/env bash
# Records the time of a step of true shape and what bounds it, as a Markdown table and as JSON lines
# (out/record-throughput.jsonl): tokens per second (counted once per step, as ZO2 does), waits for
# weights, traffic, and what `zo2 plan` predicts. Weights are synthetic: no disk, no download.
#   bash scripts/record-throughput.sh opt-1.3b
#   bash scripts/record-throughput.sh --layers 2 --steps 5 opt-13b opt-175b
set -euo pipefail
out=out/record-throughput.jsonl steps=3 slab=64MiB
source "$(dirname "${BASH_SOURCE[0]}")/record.sh"

for size in "${sizes[@]}"; do record "$size" "$layers"; done
node scripts/record-table.mjs throughput "$out"
