#!/usr/bin/env bash
# Records memory, traffic and time of a step of true shape, one row per size and method, as a Markdown
# table and as JSON lines (out/record-memory.jsonl). Weights are synthetic: no disk, no download.
#   bash scripts/record-memory.sh opt-125m opt-1.3b        or: all
# METHODS, MEMORY, BATCH, TOKENS, STEPS and DEVICE may be set, ADAPTER for a WebGPU adapter; LAYERS
# measures that many layers at full width (the device's ring and buffers do not depend on depth).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"

sizes=("$@")
[ "${1:-}" = all ] && sizes=(opt-125m opt-350m opt-1.3b opt-2.7b opt-6.7b opt-13b opt-30b opt-66b opt-175b)
[ ${#sizes[@]} -gt 0 ] || { echo "usage: $0 opt-125m ... | all" >&2; exit 2; }
mkdir -p out
out=out/record-memory.jsonl
: >"$out"
for size in "${sizes[@]}"; do
  for method in ${METHODS:-mezo-sgd lozo}; do
    node dist/src/bin.js bench --synthetic "$size" ${LAYERS:+--layers "$LAYERS"} --method "$method" \
      --batch-size "${BATCH:-1}" --max-length "${TOKENS:-2048}" --memory "${MEMORY:-4GiB}" \
      --resident "${RESIDENT:-none}" --steps "${STEPS:-1}" --device "${DEVICE:-cpu}" \
      ${ADAPTER:+--adapter "$ADAPTER"} --json >>"$out"
  done
done
node - "$out" <<'JS'
const { readFileSync } = require('node:fs')
const rows = readFileSync(process.argv[2], 'utf8').trim().split('\n').map(JSON.parse)
const size = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(0)} MB`)
const kinds = Object.keys(rows[0].device_bytes)
const head = ['model', 'layers', 'method', 'tokens', 'device peak', ...kinds, 'process peak', 'up', 'down', 'step']
console.log(`| ${head.join(' | ')} |\n|${head.map(() => '---').join('|')}|`)
for (const r of rows) {
  const cells = [
    r.model.replace('synthetic:', ''), r.layers, r.method, `${r.batch} x ${r.tokens}`, size(r.device_peak_bytes),
    ...kinds.map((kind) => size(r.device_bytes[kind])), size(r.rss_peak_bytes), size(r.upload_bytes),
    size(r.download_bytes), `${(r.step_ms / 1000).toFixed(1)} s`,
  ]
  console.log(`| ${cells.join(' | ')} |`)
}
console.log(`\n${rows[0].device}`)
JS
