#!/usr/bin/env bash
# Runs everything that guards main: installs what is missing (npm packages, a Vulkan adapter), then
# types, lint, formatting and all tests on every device. Ends with one line: N passed, N failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
bash scripts/setup-vulkan.sh
npm run --silent check
npm run --silent lint

run() { npx --no-install vitest run --reporter=default --reporter=./scripts/closing-line.ts "$@"; }

# A worker process that died or hung in native code, with no test failed, gets a second chance.
dead=$(mktemp)
trap 'rm -f "$dead"' EXIT
DEAD_MODULES=$dead run "$@" && exit
[ -s "$dead" ] || exit 1
mapfile -t again <"$dead"
echo "a worker process died in ${again[*]:1}: running these files once more" >&2
PASSED_BEFORE=${again[0]} run "${again[@]:1}"
