// Runs with --noise as commands: it is recorded, resumed runs and exports draw the same, and a run does not
// go on with another. What noise is: test/unit/noise.test.ts.
// Alone: npx vitest run test/runs/noise-runs.test.ts

import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { here, hereJson, makeFolder, TINY } from '../helpers/cli.ts'

describe.each([
  ['mezo-sgd', '--replay-window', '2'],
  ['lozo-m', '--window', '2'],
])('a run of %s with --noise rademacher', (...method) => {
  const home = makeFolder()
  const at = (name: string) => join(home, name)
  const train = at('train.txt')
  const tune = (dir: string, ...more: string[]) => [
    ...['finetune', TINY, '--train', train, '--output-dir', at(dir), '--device', 'cpu'],
    ...['--method', ...method, '--lr', '1e-3', '--batch-size', '2', '--max-length', '16'],
    ...['--steps', '6', ...more],
  ]
  const weights = (dir: string) => readFileSync(join(at(dir), 'model.safetensors'))
  const signs = ['--noise', 'rademacher']
  beforeAll(async () => {
    writeFileSync(train, readFileSync(join(TINY, 'config.json'), 'utf8').repeat(3))
    await hereJson(tune('whole', ...signs))
  }, 60_000)
  afterAll(() => rmSync(home, { recursive: true }))

  it('is another run than one with gaussian noise, and says so in its record', async () => {
    await hereJson(tune('gaussian'))
    expect(weights('gaussian/model').equals(weights('whole/model'))).toBe(false)
    for (const [dir, noise] of [
      ['whole', 'rademacher'],
      ['gaussian', 'gaussian'],
    ]) {
      const record = readFileSync(join(at(dir!), 'config.json'), 'utf8')
      expect(JSON.parse(record)).toMatchObject({ config: { noise } })
    }
  }, 60_000)

  it('resumes to the same weights, which export gives too, but not with other noise', async () => {
    cpSync(at('whole'), at('cut'), { recursive: true })
    const lines = readFileSync(at('whole/journal.jsonl'), 'utf8').split('\n')
    writeFileSync(at('cut/journal.jsonl'), `${lines.slice(0, 3).join('\n')}\n`)
    rmSync(at('cut/model'), { recursive: true })
    const { code, stderr } = await here(tune('cut', '--resume'))
    expect(code).toBe(1)
    expect(stderr).toContain('was run with --noise "rademacher", found "gaussian"')
    await hereJson(tune('cut', ...signs, '--resume'))
    expect(readFileSync(at('cut/journal.jsonl'), 'utf8')).toBe(lines.join('\n'))
    expect(weights('cut/model').equals(weights('whole/model'))).toBe(true)
    await hereJson(['export', at('whole'), at('exported')])
    expect(weights('exported').equals(weights('whole/model'))).toBe(true)
  }, 60_000)
})

it('zo2 bench takes --noise, and no third kind', async () => {
  const args = ['bench', TINY, '--device', 'cpu', '--steps', '1', '--max-length', '8', '--noise']
  expect(await hereJson([...args, 'rademacher'])).toHaveProperty('device_peak_bytes')
  const { code, stderr } = await here([...args, 'uniform'])
  expect(code).toBe(2)
  expect(stderr).toContain('--noise: expected gaussian or rademacher, found "uniform"')
}, 60_000)
