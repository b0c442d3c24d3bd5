// Writes the logits that zo2 computes for a few prompts, for scripts/check-export.py to compare with
// transformers:  npx tsx scripts/logits.ts MODEL OUT.json [cpu|webgpu]

import { writeFileSync } from 'node:fs'
import { collate, fromPretrained, loadTokenizer } from '../src/index.ts'

const [dir, out, device = 'cpu'] = process.argv.slice(2)
if (!dir || !out) throw new Error('usage: npx tsx scripts/logits.ts MODEL OUT.json [cpu|webgpu]')

const PROMPTS = ['In the beginning', 'The king said to his servants that they should go', 'A']
const tokenizer = await loadTokenizer(dir)
const sequences = PROMPTS.map((prompt) => {
  const inputIds = tokenizer.encode(prompt)
  return { inputIds, labels: inputIds.map(() => -100) }
})
const model = await fromPretrained(
  dir,
  device === 'webgpu' ? { adapter: 'llvmpipe' } : { device: 'cpu' },
)
try {
  const batches = []
  for (const padTo of ['right', 'left'] as const) {
    const { inputIds, attentionMask } = collate(sequences, { padId: tokenizer.padId, padTo })
    const { logits } = await model.forward({ inputIds, attentionMask }, { logits: true })
    const [T, V] = [inputIds[0]!.length, logits!.length / inputIds.length / inputIds[0]!.length]
    batches.push({
      input_ids: inputIds,
      attention_mask: attentionMask,
      logits: attentionMask.map((row, b) =>
        row.map((m, t) => {
          const at = (b * T + t) * V
          return m ? [...logits!.subarray(at, at + V)] : null
        }),
      ),
    })
  }
  writeFileSync(out, JSON.stringify({ batches }))
} finally {
  await model.close()
}
