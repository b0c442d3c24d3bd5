// What zo2 makes of prompts given as ids, for scripts/check-gguf.py to compare with transformers:
//   npx tsx scripts/gguf-logits.ts MODEL PROMPTS.json TOKENS OUT.json

import { readFileSync, writeFileSync } from 'node:fs'
import { parseConfig } from '../src/config/options.ts'
import { loadModel } from '../src/engine/load.ts'
import { withEngine } from '../src/engine/open.ts'
import { generate } from '../src/generate/generate.ts'
import { fromPretrained } from '../src/index.ts'

const [source, prompts, tokens, out] = process.argv.slice(2)
if (!source || !prompts || !tokens || !out) {
  throw new Error('usage: npx tsx scripts/gguf-logits.ts MODEL PROMPTS.json TOKENS OUT.json')
}
const ids = JSON.parse(readFileSync(prompts, 'utf8')) as number[][]
const model = await fromPretrained(source, { device: 'cpu' })
const logits: number[][] = []
for (const inputIds of ids) {
  const labels = inputIds.map(() => -100)
  const { logits: all } = await model.forward(
    { inputIds: [inputIds], labels: [labels] },
    { logits: true },
  )
  logits.push([...all!.subarray(all!.length - all!.length / inputIds.length)])
}
await model.close()

const report = { line: () => {}, live: () => {} } as unknown as Parameters<typeof loadModel>[2]
const config = parseConfig({ '--device': 'cpu' }, 'generate')
const loaded = await loadModel(source, config, report)
const texts = await withEngine(loaded, config, { trains: false, report }, (engine) =>
  generate(engine, ids, {
    maxNewTokens: Number(tokens),
    temperature: 0,
    topK: 0,
    topP: 1,
    numBeams: 1,
    lengthPenalty: 1,
    numReturnSequences: 1,
    seed: 0,
    eosIds: [],
  }),
)
writeFileSync(out, JSON.stringify({ logits, texts }))
