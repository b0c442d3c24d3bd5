#!/usr/bin/env bash
# Fine-tunes a tiny OPT (test/fixtures/tiny-opt, pre-trained on other prose) on Shakespeare with
# MeZO-SGD, forward passes only, and shows what that changed. Two cores: under three minutes.
# SEED, STEPS and DEVICE may be set; OUT is the output folder.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"

out=${OUT:-out/quickstart}
device=${DEVICE:-auto}
rm -rf "$out" && mkdir -p "$(dirname "$out")"
zo2="node dist/src/cli/bin.js"

$zo2 finetune test/fixtures/tiny-opt --method mezo-sgd --device "$device" \
  --train examples/tinyshakespeare/train.txt --eval-file examples/tinyshakespeare/val.txt \
  --steps "${STEPS:-400}" --batch-size 16 --max-length 64 --lr 2e-4 --eps 1e-3 --seed "${SEED:-0}" \
  --memory 256MiB --logging-steps 50 --output-dir "$out" --json >"$out.json"

node - "$out" <<'JS'
const { readFileSync } = require('node:fs')
const lines = readFileSync(`${process.argv[2]}/evals.jsonl`, 'utf8').trim().split('\n').map(JSON.parse)
console.log()
for (const [label, e] of [['before', lines.at(0)], ['after', lines.at(-1)]]) {
  console.log(`${label.padEnd(6)}  validation loss ${e.loss.toFixed(4)}  perplexity ${e.perplexity.toFixed(1).padStart(7)}`)
}
JS

for when in before after; do
  model=test/fixtures/tiny-opt
  [ "$when" = after ] && model=$out/model
  echo
  echo "--- $when ---"
  $zo2 generate "$model" --device "$device" --memory 256MiB --quiet --prompt $'KING RICHARD:\n' \
    --max-new-tokens 60 --temperature 0.8 --top-k 40 --seed 1
done
