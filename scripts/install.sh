#!/usr/bin/env bash
# Installs the npm packages and builds dist/ and native/ when that is due. Sourced by the other scripts;
# needs Node >= 20.19 and an npm registry, nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v node >/dev/null || ! node -e '
  const [major, minor] = process.versions.node.split(".").map(Number)
  process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)'; then
  echo "zo2 needs Node 20.19 or newer; found: $(node --version 2>/dev/null || echo none). Install it from your distribution or nodejs.org." >&2
  exit 1
fi

if [ ! -f node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "installing npm packages ..." >&2
  npm ci --no-audit --no-fund --loglevel=error >&2
  touch node_modules/.package-lock.json
fi

node scripts/build.mjs --if-stale
