// Trains a prefix for a few steps on random tokens, writes it as an adapter and the logits that zo2
// computes with it, for scripts/check-adapter.py to compare with peft:
//   npx tsx scripts/prefix-logits.ts MODEL ADAPTER_DIR OUT.json [cpu|webgpu]

import { writeFileSync } from 'node:fs'
import { fromPretrained, zoInit } from '../src/index.ts'

const [dir, adapter, out, device = 'cpu'] = process.argv.slice(2)
if (!dir || !adapter || !out)
  throw new Error('usage: npx tsx scripts/prefix-logits.ts MODEL ADAPTER_DIR OUT.json [cpu|webgpu]')

const inputIds = [0, 1].map((b) => Array.from({ length: 16 }, (_, t) => 5 + 16 * b + t))
const attentionMask = inputIds.map((row) => row.map(() => 1))
const model = await fromPretrained(
  dir,
  device === 'webgpu' ? { adapter: 'llvmpipe' } : { device: 'cpu' },
)
try {
  const zo = await zoInit(model, { prefixTokens: 5, lr: 0.1 })
  for (let step = 0; step < 5; step++) await zo.step({ inputIds, attentionMask, labels: inputIds })
  await zo.save(adapter)
  const { logits } = await model.forward({ inputIds, attentionMask }, { logits: true })
  writeFileSync(out, JSON.stringify({ logits: [...logits!] }))
} finally {
  await model.close()
}
