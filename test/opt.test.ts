// OPT against Hugging Face `transformers`: every layout of test/fixtures on every device, through the
// public API. Expected numbers come from scripts/make-fixtures.py; see test/fixtures/README.md.
// Alone: npx vitest run test/opt.test.ts

import { existsSync, readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { fromPretrained, loadTokenizer, type ModelOptions, type ZoModel } from '../src/index.ts'

const FIXTURES = fileURLToPath(new URL('./fixtures/', import.meta.url))
const LAYOUTS = readdirSync(join(FIXTURES, 'layouts')).filter((name) =>
  existsSync(join(FIXTURES, 'layouts', name, 'expected.json')),
)
const LOGIT_TOLERANCE = 1e-4
const LOSS_TOLERANCE = 1e-5

interface Expected {
  readonly name: string
  readonly input_ids: number[][]
  readonly attention_mask: number[][]
  readonly labels: number[][]
  readonly logits: (number[] | null)[][]
  readonly loss: number | null
}

/** The logits after the last token of a text. */
interface LastLogits {
  readonly text: string
  readonly top_ids: number[]
  readonly top_logits: number[]
}

const devices: { name: string; options: ModelOptions }[] = [
  { name: 'cpu', options: { device: 'cpu' } },
  { name: 'webgpu', options: { device: 'webgpu', adapter: 'llvmpipe' } },
]

async function openOn(dir: string, options: ModelOptions): Promise<ZoModel> {
  try {
    return await fromPretrained(dir, options)
  } catch (cause) {
    if (options.adapter === undefined) throw cause
    throw new Error('no software Vulkan adapter? run: bash scripts/setup-vulkan.sh', { cause })
  }
}

async function expectedOf<T>(dir: string, key: string): Promise<T> {
  const text = await readFile(join(dir, 'expected.json'), 'utf8')
  return (JSON.parse(text) as Record<string, T>)[key]!
}

/** Largest |found - expected| over real positions; NaN if anything anywhere is not finite. */
function worst(logits: Float32Array, expected: Expected): number {
  if (!logits.every(Number.isFinite)) return NaN
  const real = expected.logits.flat()
  const vocab = real.find((row) => row !== null)?.length ?? 0
  if (vocab > 0 && logits.length !== real.length * vocab) return NaN
  let most = 0
  real.forEach((row, i) => {
    row?.forEach((v, j) => (most = Math.max(most, Math.abs(v - logits[i * vocab + j]!))))
  })
  return most
}

describe.each(devices)('OPT on $name', ({ options }) => {
  it.each(LAYOUTS)('gives the logits and losses of transformers for %s', async (layout) => {
    const dir = join(FIXTURES, 'layouts', layout)
    const batches = await expectedOf<Expected[]>(dir, 'batches')
    expect(batches.length).toBeGreaterThan(3)
    const model = await openOn(dir, options)
    try {
      for (const expected of batches) {
        const { input_ids: inputIds, attention_mask: attentionMask, labels } = expected
        const batch = { inputIds, attentionMask, labels }
        const { loss, logits } = await model.forward(batch, { logits: true })
        expect(worst(logits!, expected), `${expected.name}: logits`).toBeLessThan(LOGIT_TOLERANCE)
        if (expected.loss === null) expect(loss, expected.name).toBeNaN()
        else {
          const difference = Math.abs(loss - expected.loss)
          expect(difference, `${expected.name}: loss`).toBeLessThan(LOSS_TOLERANCE)
        }
      }
    } finally {
      await model.close()
    }
    expect(model.device.ledger.total()).toBe(0)
  })

  it('gives the next-token logits of transformers for the trained tiny OPT in f16', async () => {
    const dir = join(FIXTURES, 'tiny-opt')
    const prompts = await expectedOf<LastLogits[]>(dir, 'last_logits')
    expect(prompts.length).toBeGreaterThan(0)
    const tokenizer = await loadTokenizer(dir)
    const model = await openOn(dir, options)
    try {
      for (const { text, top_ids, top_logits } of prompts) {
        const ids = tokenizer.encode(text)
        const { logits } = await model.forward({ inputIds: [ids] }, { logits: true })
        const last = logits!.subarray(-logits!.length / ids.length)
        top_ids.forEach((id, i) => {
          expect(Math.abs(last[id]! - top_logits[i]!)).toBeLessThan(LOGIT_TOLERANCE)
        })
        const order = [...last.keys()].sort((a, b) => last[b]! - last[a]!)
        expect(order.slice(0, top_ids.length)).toEqual(top_ids)
      }
    } finally {
      await model.close()
    }
  })
})
