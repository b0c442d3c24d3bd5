// One short run on each device through the real command line: the losses and gradients of three steps, the
// model that it writes, and the tokens that transformers takes for the likeliest. With test/unit this is
// `npm test`; all that is proved of devices and runs is in test/device and test/runs.
// Alone: npx vitest run test/smoke/smoke.test.ts

import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { TEST_ADAPTER } from '../helpers/adapter.ts'
import { hereJson, makeFolder, SHAKESPEARE, TINY } from '../helpers/cli.ts'

const home = makeFolder()
afterAll(() => rmSync(home, { recursive: true, force: true }))

const EVAL = [
  '--eval-file',
  join(SHAKESPEARE, 'val.txt'),
  '--eval-samples',
  '4',
  '--max-length',
  '16',
]
const TRAIN = ['--train', join(SHAKESPEARE, 'train.txt'), '--steps', '3', '--batch-size', '2']
const RATES = ['--lr', '1e-4', '--eps', '1e-3', '--seed', '0', '--memory', '64MiB']
/** Of this data, order and noise; devices differ by their roundings. */
const EXPECTED = [
  [4.927757, -20.8788],
  [5.627226, -1.1626],
  [4.952204, -0.2571],
]
const BEFORE = 5.154444
const AFTER = 5.13155

interface Expected {
  readonly last_logits: readonly { readonly text: string; readonly top_ids: readonly number[] }[]
}
const { last_logits: ANSWERS } = JSON.parse(
  readFileSync(join(TINY, 'expected.json'), 'utf8'),
) as Expected

describe.each([
  ['cpu', []],
  ['webgpu', ['--adapter', TEST_ADAPTER]],
])('zo2 on %s', (device, adapter) => {
  const on = ['--device', device, ...adapter, '--quiet']
  const out = join(home, device)

  it('fine-tunes, and the model that it writes has the loss that the run had', async () => {
    const run = await hereJson([
      'finetune',
      TINY,
      ...TRAIN,
      ...EVAL,
      ...RATES,
      ...on,
      '--output-dir',
      out,
    ])
    const lines = readFileSync(join(out, 'journal.jsonl'), 'utf8').trimEnd().split('\n')
    const journal = lines.map((line) => JSON.parse(line) as Record<string, number>)
    expect(journal).toHaveLength(EXPECTED.length)
    journal.forEach((entry, i) => {
      const [loss, gradient] = EXPECTED[i]!
      expect(Math.abs(entry['loss_plus']! - loss!)).toBeLessThan(1e-4)
      expect(Math.abs(entry['projected_grad']! - gradient!)).toBeLessThan(5e-2)
    })
    const [before, after] = (run['evaluations'] as { loss: number }[]).map(({ loss }) => loss)
    expect(Math.abs(before! - BEFORE)).toBeLessThan(1e-4)
    expect(Math.abs(after! - AFTER)).toBeLessThan(1e-4)
    expect(run['device_peak_bytes']).toBe(run['planned_peak_bytes'])
    const { loss } = await hereJson(['eval', join(out, 'model'), ...EVAL, ...on])
    expect(Math.abs((loss as number) - after!)).toBeLessThan(1e-5)
  })

  it('generates the tokens that transformers takes for the likeliest', async () => {
    const prompts = ANSWERS.map(({ text }) => text)
    const args = ['--prompt', ...prompts, '--max-new-tokens', '1', '--temperature', '0', ...on]
    const { tokens } = await hereJson(['generate', TINY, ...args])
    expect(tokens).toEqual(ANSWERS.map(({ top_ids: [likeliest] }) => [likeliest]))
  })
})
