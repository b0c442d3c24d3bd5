#!/usr/bin/env bash
# Runs one bench by its letter; what each measures and needs is in README.md beside this file.
#   bash scripts/bench/run.sh a|b|c|d|e|f|g [flags of that bench]
set -euo pipefail
cd "$(dirname "$0")/../.."

letter=${1:-}
shift || true

case $letter in
a | d)
  python=$(bash scripts/bench/pytorch-venv.sh)
  [ "$letter" = a ] || set -- --methods eval --labels all "$@"
  exec npx tsx scripts/bench/against-pytorch.ts --python "$python" "$@"
  ;;
b)
  [ -d scripts/bench/node_modules ] || (cd scripts/bench && npm ci --ignore-scripts >&2)
  exec npx tsx scripts/bench/webgpu.ts "$@"
  ;;
c) exec npx tsx scripts/bench/streaming.ts "$@" ;;
e) exec npx tsx scripts/bench/growth.ts "$@" ;;
f) exec npx tsx scripts/bench/rate.ts "$@" ;;
g)
  python=$(bash scripts/bench/pytorch-venv.sh)
  exec npx tsx scripts/bench/tasks.ts --python "$python" "$@"
  ;;
*)
  sed -n '2,3s/^# *//p' "$0" >&2
  exit 2
  ;;
esac
