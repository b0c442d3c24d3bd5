#!/usr/bin/env bash
# Installs the npm packages and builds dist/ when that is due. Sourced by the other scripts; needs
# Node >= 20.19 and an npm registry, nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v node >/dev/null || ! node -e '
  const [major, minor] = process.versions.node.split(".").map(Number)
  process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)'; then
  echo "zo2 needs Node 20.19 or newer; found: $(node --version 2>/dev/null || echo none). Install it from your distribution or nodejs.org." >&2
  exit 1
fi

# onnxruntime-node's own install script would fetch CUDA libraries; the CPU kernels are in the package.
export ONNXRUNTIME_NODE_INSTALL=skip

if [ ! -f node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "installing npm packages ..." >&2
  npm ci --no-audit --no-fund --loglevel=error >&2
  touch node_modules/.package-lock.json
fi

# Build when a source is newer than the last build.
if [ ! -f dist/src/cli/bin.js ] ||
  [ -n "$(find src scheduler models package.json tsconfig.json tsconfig.build.json -newer dist/src/cli/bin.js -print -quit)" ]; then
  echo "building ..." >&2
  npm run --silent build >&2
fi
