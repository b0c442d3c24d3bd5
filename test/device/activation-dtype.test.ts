// --activation-dtype: what it saves, that a resumed run keeps it, that evaluations take it, and what an adapter
// without f16 says. What f16 activations compute: activation-f16.test.ts.
// Alone: npx vitest run test/device/activation-dtype.test.ts

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../src/config/options.ts'
import { openAdapter } from '../../src/device/webgpu/adapter.ts'
import { Commands } from '../../src/device/webgpu/commands.ts'
import { createHostPart } from '../../src/device/webgpu/host.ts'
import { Runtime } from '../../src/device/webgpu/runtime.ts'
import { planReport } from '../../src/plan/report.ts'
import { silent } from '../../src/util/console.ts'
import { here, hereJson, SHAKESPEARE, SMALL } from '../helpers/cli.ts'
import { tempFolder } from '../helpers/runs.ts'
import { ADAPTER } from '../helpers/webgpu.ts'
const MiB = 2 ** 20
const folder = tempFolder()

/** What the option's help promises of the loss. */
const LOSS_BOUND = 2e-4

it('an adapter without f16 refuses with what to do', async () => {
  const adapter = await openAdapter(ADAPTER)
  try {
    const runtime = new Runtime({ ...adapter, halves: false }, new Commands(adapter.gpu), 'direct')
    const host = createHostPart(runtime)
    expect(() => host.tensor('activations', 'h', 4, 4, 'F16')).toThrow(
      /^adapter ".*" has no f16 .*--activation-dtype float16 needs: use --activation-dtype float32/,
    )
    expect(runtime.ledger.total()).toBe(0)
  } finally {
    adapter.close()
  }
})

describe('--activation-dtype', () => {
  const plan = async (device: string, activationDtype: string) => {
    const shape = { batchSize: 1, maxLength: 2048, resident: 'none', slab: 8 * MiB, steps: 1 }
    const config = parseConfig({
      device,
      activationDtype,
      method: 'lozo',
      memory: 2 ** 36,
      ...shape,
    })
    return (await planReport('synthetic:opt-1.3b', config, silent)).json
  }

  it.each([
    ['cpu', 0.6],
    ['webgpu', 0.65],
  ])('on %s takes at most %d of the memory for a long sequence', async (device, share) => {
    const [f32, f16] = [await plan(device, 'float32'), await plan(device, 'float16')]
    expect(f16.device_peak_bytes).toBeLessThan(share * f32.device_peak_bytes)
    expect(f16.device_bytes.scratch).toBeLessThanOrEqual(f32.device_bytes.scratch)
  })

  it('is kept by a resumed run, and part of evaluations', async () => {
    const text = join(folder, 'train.txt')
    const all = await readFile(join(SHAKESPEARE, 'train.txt'), 'utf8')
    await writeFile(text, all.slice(0, 6000))
    const common = ['finetune', SMALL, '--train', text, '--device', 'cpu']
    const sizes = [
      '--batch-size',
      '2',
      '--max-length',
      '32',
      '--seed',
      '3',
      '--quiet',
      '--save-model',
      'no',
    ]
    const run = (dir: string, count: number, ...more: string[]) =>
      hereJson([
        ...common,
        ...sizes,
        '--steps',
        `${count}`,
        '--output-dir',
        join(folder, dir),
        ...more,
      ])
    const whole = await run('whole', 4, '--activation-dtype', 'float16')
    await run('parts', 2, '--activation_dtype', 'float16')
    const parts = ['--steps', '4', '--output-dir', join(folder, 'parts'), '--resume']
    const refused = await here([...common, ...sizes, ...parts])
    expect(refused.code).toBe(1)
    expect(refused.stderr).toMatch(
      /--activation-dtype "float16", found "float32"; resume with the same/,
    )
    const resumed = await run('parts', 4, '--activation-dtype', 'float16', '--resume')
    const journal = (dir: string) => readFile(join(folder, dir, 'journal.jsonl'), 'utf8')
    expect(await journal('parts')).toBe(await journal('whole'))
    expect(resumed['steps']).toBe(whole['steps'])
    const evaluate = (dtype: string) =>
      hereJson([
        'eval',
        SMALL,
        '--eval-file',
        text,
        '--device',
        'cpu',
        '--max-length',
        '64',
        '--eval-samples',
        '8',
        '--activation-dtype',
        dtype,
      ])
    const [f32, f16] = [await evaluate('float32'), await evaluate('float16')]
    const [a, b] = [f32['loss'] as number, f16['loss'] as number]
    expect(b).not.toBe(a)
    expect(Math.abs(a - b) / a).toBeLessThan(LOSS_BOUND)
  })
})
