#!/usr/bin/env bash
# Runs one bench by its letter; what each measures and needs is in README.md beside this file.
#   bash scripts/bench/run.sh a|b|c|d|e [flags of that bench]
set -euo pipefail
cd "$(dirname "$0")/../.."

letter=${1:-}
shift || true

need_built() {
  if [ ! -f dist/src/bin.js ]; then
    echo 'bench: dist/src/bin.js is missing; build it: npm ci && npm run build' >&2
    exit 1
  fi
}

case $letter in
b)
  [ -d scripts/bench/node_modules ] || (cd scripts/bench && npm ci --ignore-scripts >&2)
  exec npx tsx scripts/bench/webgpu.ts "$@"
  ;;
*)
  sed -n '2,3s/^# *//p' "$0" >&2
  exit 2
  ;;
esac
