#!/usr/bin/env bash
# Records device bytes by category (the peak within a step), process memory and traffic of a step of
# true shape, as a Markdown table beside ZO2's figures and as JSON lines (out/record-memory.jsonl).
# Weights are synthetic: no disk, no download. First shows on one layer, two and four of the smallest size
# given that the peak does not depend on depth, but for the biases and norms, which stay resident.
#   bash scripts/record-memory.sh opt-1.3b
#   bash scripts/record-memory.sh --layers 2 all
set -euo pipefail
out=out/record-memory.jsonl steps=1 slab=8MiB
source "$(dirname "${BASH_SOURCE[0]}")/record.sh"

for depth in 1 2 4; do record "${sizes[0]}" "$depth"; done
node scripts/record-table.mjs depth "$out"
rm "$out" "${out%.jsonl}-plan.jsonl"
for size in "${sizes[@]}"; do record "$size" "$layers"; done
node scripts/record-table.mjs memory "$out"
