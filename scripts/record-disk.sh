#!/usr/bin/env bash
# Records how fast the weights of a model larger than the memory stream from the disk, as fractions of
# a raw sequential read of the same files (past the page cache, as many reads at a time): a stream
# without compute, and steps of training; and the process's memory after every step. A Markdown table,
# and JSON lines (out/record-disk.jsonl). Rounds take turns: medians of ratios hold on a busy machine.
# A folder can be made with: zo2 convert --synthetic opt-13b DIR
#   bash scripts/record-disk.sh DIR [rounds] [steps] [flags of zo2 bench]
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 DIR [rounds] [steps] [flags of zo2 bench]" >&2 && exit 2; }
model=$(realpath "$1") && shift
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
mkdir -p out
npx tsx scripts/record-disk.ts "$model" "$@"
