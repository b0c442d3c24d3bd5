// Prints the lines that record.sh gathered as one Markdown table: node record-table.mjs KIND FILE.

import { readFileSync } from 'node:fs'

const [kind, file] = process.argv.slice(2)
const read = (path) =>
  readFileSync(path, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
const plans = read(file.replace('.jsonl', '-plan.jsonl'))
const runs = read(file).map((run, i) => ({ ...run, plan: plans[i] }))

/** GB of ZO2's README (2025-02-22, torch.cuda.max_memory_allocated): f16, 1 x 2048 tokens, all layers. */
const ZO2 = {
  '1.3b': 1.63,
  '2.7b': 1.81,
  '6.7b': 2.41,
  '13b': 3.13,
  '30b': 4.7,
  '66b': 6.58,
  '175b': 10.78,
}

const size = (bytes) =>
  bytes === 0
    ? '0'
    : bytes >= 1e9
      ? `${(bytes / 1e9).toFixed(2)} GB`
      : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`
const seconds = (ms) => `${(ms / 1000).toFixed(ms < 1e4 ? 2 : 0)} s`

function beside(run) {
  const theirs = ZO2[run.model.replace(/^synthetic:opt-|\/.*$/g, '')]
  if (!theirs || run.batch * run.tokens !== 2048) return '-'
  return `${theirs.toFixed(2)} GB, ${Math.round(run.device_peak_bytes / theirs / 1e7)} %`
}

const COMMON = {
  model: (r) => r.model.replace(/^synthetic:|\/.*$/g, ''),
  layers: (r) => r.layers,
  method: (r) => r.method,
  device: (r) => r.device_kind,
}
const TRAFFIC = {
  read: (r) => size(r.read_bytes),
  up: (r) => size(r.upload_bytes),
  down: (r) => size(r.download_bytes),
  step: (r) => seconds(r.step_ms),
}
const byCategory = Object.fromEntries(
  Object.keys(runs[0].device_bytes).map((name) => [
    name === 'method' ? 'method state' : name,
    (r) => size(r.device_bytes[name]),
  ]),
)
const COLUMNS = {
  depth: {
    ...COMMON,
    'device peak': (r) => size(r.device_peak_bytes),
    'without biases and norms': (r) => r.device_peak_bytes - r.device_bytes.resident,
  },
  memory: {
    ...COMMON,
    'device peak': (r) => size(r.device_peak_bytes),
    planned: (r) => size(r.planned_peak_bytes),
    'ZO2, ours of it': beside,
    ...byCategory,
    'process peak': (r) => size(r.rss_peak_bytes),
    ...TRAFFIC,
  },
  throughput: {
    ...COMMON,
    'tokens/s': (r) => r.tokens_per_second,
    'waits for weights': (r) => seconds(r.wait_ms),
    ...TRAFFIC,
    predicted: (r) => `${seconds(r.plan.step_ms)}, ${r.plan.bound}`,
  },
}

const columns = COLUMNS[kind]
const row = (cells) => `| ${cells.join(' | ')} |`
console.log(row(Object.keys(columns)))
console.log(row(Object.keys(columns).map(() => '---')))
for (const run of runs) console.log(row(Object.values(columns).map((cell) => cell(run))))
const names = [...new Set(runs.map((r) => r.device))].join('; ')
console.log(`\n${runs[0].batch} x ${runs[0].tokens} tokens, f16 synthetic weights. ${names}.`)
if (kind === 'memory' && runs.some((r) => beside(r) !== '-')) {
  console.log(
    "ZO2's figure is of the whole model: a device peak that does not depend on depth compares.",
  )
}
