// Runs with --prefix-tokens as commands: an adapter that export gives at any step, a plan as measured, and
// refusals. What a prefix computes: test/device/prefix.test.ts.
// Alone: npx vitest run test/runs/prefix-runs.test.ts

import { cpSync, existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PREFIX_FILE } from '../../src/engine/prefix.ts'
import { here, hereJson, makeFolder, TINY } from '../helpers/cli.ts'

describe('a run with --prefix-tokens', () => {
  const home = makeFolder()
  const at = (name: string) => join(home, name)
  const train = join(home, 'train.txt')
  const tune = (dir: string, ...more: string[]) => [
    ...['finetune', TINY, '--train', train, '--output-dir', at(dir), '--device', 'cpu'],
    ...['--prefix-tokens', '4', '--lr', '0.1', '--batch-size', '2', '--max-length', '16'],
    ...['--seed', '2', '--steps', '6', ...more],
  ]
  const adapter = (dir: string) => readFileSync(join(at(dir), 'adapter_model.safetensors'))
  beforeAll(async () => {
    writeFileSync(train, readFileSync(join(TINY, 'config.json'), 'utf8').repeat(3))
    await hereJson(tune('whole', '--save-steps', '3'))
  }, 60_000)
  afterAll(() => rmSync(home, { recursive: true }))

  it('writes an adapter, resumes to the same, and export gives it at any step', async () => {
    expect(existsSync(at('whole/model'))).toBe(false)
    cpSync(at('whole'), at('cut'), { recursive: true })
    const lines = readFileSync(at('whole/journal.jsonl'), 'utf8').split('\n')
    writeFileSync(at('cut/journal.jsonl'), `${lines.slice(0, 4).join('\n')}\n`)
    rmSync(at('cut/adapter'), { recursive: true })
    await hereJson(tune('cut', '--save-steps', '3', '--resume'))
    expect(adapter('cut/adapter').equals(adapter('whole/adapter'))).toBe(true)
    const made = await hereJson(['export', at('whole'), at('third'), '--step', '3'])
    expect(made['step']).toBe(3)
    expect(adapter('third').equals(adapter('whole/checkpoint-3'))).toBe(true)
    expect(readFileSync(join(at('third'), 'README.md'), 'utf8')).toContain('peft')
    const pushed = await hereJson(['push', at('whole'), 'someone/prefix', '--dry-run'])
    const names = (pushed['files'] as { name: string }[]).map(({ name }) => name)
    expect(names).toContain('adapter_model.safetensors')
  }, 60_000)

  it('is planned before it runs', async () => {
    const size = ['--prefix-tokens', '4', '--batch-size', '2', '--max-length', '16']
    const args = [TINY, ...size, '--device', 'cpu', '--steps', '2']
    const plan = await hereJson(['plan', ...args])
    const bench = await hereJson(['bench', ...args])
    const [planned, measured] = [
      Number(plan['device_peak_bytes']),
      Number(bench['device_peak_bytes']),
    ]
    expect(Math.abs(planned / measured - 1)).toBeLessThan(0.05)
  }, 60_000)

  it.each([
    [['--prefix-tokens', '4', '--method', 'lozo'], 'is for mezo-sgd; found --method lozo'],
    [
      ['--prefix-tokens', '4', '--lora-rank', '2'],
      '--lora-rank and --prefix-tokens exclude each other',
    ],
    [
      ['--prefix-tokens', '4', '--freeze', '*fc1*'],
      '--prefix-tokens and --freeze exclude each other',
    ],
    [
      ['--prefix-tokens', '4', '--weight-decay', '0.1'],
      '--prefix-tokens and --weight-decay exclude each other',
    ],
    [['--prefix-tokens', '0'], '--prefix-tokens'],
    [['--prefix-tokens', '4096'], 'positions, and text needs some of them'],
  ])('refuses %s', async (flags, sentence) => {
    const { code, stderr } = await here([
      'finetune',
      TINY,
      '--train',
      train,
      '--output-dir',
      at('no'),
      ...flags,
    ])
    expect(code).toBe(2)
    expect(stderr).toContain(sentence)
  })

  it('says what is wrong with a prefix that is damaged or gone', async () => {
    for (const [name, damage, sentence] of [
      ['short', (path: string) => truncateSync(path, 500), 'damaged'],
      ['gone', (path: string) => rmSync(path), 'prefix.safetensors: cannot be opened'],
      [
        'other',
        (path: string) => cpSync(join(TINY, 'model.safetensors'), path),
        'expected a prefix',
      ],
    ] as const) {
      cpSync(at('whole'), at(name), { recursive: true })
      damage(join(at(name), PREFIX_FILE))
      const { code, stderr } = await here(['export', at(name), at(`${name}-out`)])
      expect(code).toBe(1)
      expect(stderr).toContain(sentence)
    }
  }, 60_000)
})
