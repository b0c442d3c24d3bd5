// --trace: a file that trace viewers take, with everything a pass does, and a run that is the same
// with and without it.
// Alone: npx vitest run test/runs/records-trace.test.ts

import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openTrace } from '../../src/records/trace.ts'
import { here, hereJson, makeFolder, TINY } from '../helpers/cli.ts'
import { prepare } from '../helpers/crash.ts'
import { eventsOf, expectLanesApart, spansOf } from '../helpers/trace-file.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
const STEPS = 5
const tune = (name: string, ...more: string[]) => [
  ...['finetune', TINY, '--train', at('train.txt'), '--batch-size', '2', '--max-length', '16'],
  ...['--steps', String(STEPS), '--lr', '1e-4', '--device', 'cpu', '--threads', '1', '--quiet'],
  ...['--memory', '64MiB', '--slab', '1MiB', '--resident', 'none', '--save-model', 'no'],
  ...['--output-dir', at(name), ...more],
]

beforeAll(async () => {
  prepare(home)
  await hereJson(tune('plain'))
  await hereJson(tune('traced', '--trace', at('trace.json')))
})
afterAll(() => rmSync(home, { recursive: true, force: true }))

describe('--trace', () => {
  it('changes nothing of the run', () => {
    const journal = (name: string) => readFileSync(join(at(name), 'journal.jsonl'), 'utf8')
    expect(journal('traced')).toBe(journal('plain'))
    expect(existsSync(at('trace.json'))).toBe(true)
  })

  it('has every step, each operation, and as many bytes read as metrics.jsonl', () => {
    const events = eventsOf(at('trace.json'))
    const on = spansOf(events)
    const steps = events.filter((e) => e.ph === 'i').map((e) => e.name)
    expect(steps).toEqual(Array.from({ length: STEPS }, (_, i) => `step ${i}`))
    const operations = (name: string) => on('device').filter((e) => e.name === name).length
    expect(operations('attention')).toBe(3 * STEPS) // layers of the fixture
    expect(operations('crossEntropy')).toBeGreaterThanOrEqual(STEPS)
    expect(on('device').find((e) => e.name === 'linear')!.args!.weights).toMatch(/\.weight$/)
    const metrics = readFileSync(join(at('traced'), 'metrics.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
    const readBytes = metrics.map((line) => (JSON.parse(line) as { read_bytes: number }).read_bytes)
    const slabs = on('reads').filter((e) => e.args!.bytes !== undefined)
    expect(slabs.reduce((sum, e) => sum + e.args!.bytes!, 0)).toBe(
      readBytes.reduce((a, b) => a + b),
    )
    expect(on('uploads').length).toBe(slabs.length)
    expect(on('folds').length).toBeGreaterThan(0)
    expect(on('waits').length).toBeGreaterThan(0)
  })

  it('has no two spans of a lane at once', () => {
    const events = eventsOf(at('trace.json'))
    expectLanesApart(events)
    expect(new Set(events.map((e) => e.pid))).toEqual(new Set([1]))
  })

  it('shows that weights in memory are folded before a pass of the cpu device, not beside it', () => {
    const on = spansOf(eventsOf(at('trace.json')))
    const beside = on('folds').filter((fold) =>
      on('device').some((op) => op.ts < fold.ts + fold.dur && fold.ts < op.ts + op.dur),
    )
    expect(beside).toEqual([])
  })

  it('traces evaluation and generation too', async () => {
    const args = [
      'generate',
      TINY,
      '--prompt',
      'a',
      '--max-new-tokens',
      '2',
      '--device',
      'cpu',
      '--threads',
      '1',
    ]
    await hereJson([...args, '--trace', at('generate.json')])
    const events = eventsOf(at('generate.json'))
    expect(events.filter((e) => e.name === 'logits').length).toBeGreaterThanOrEqual(2)
  })

  it('that cannot be written is a sentence: before the run, or after it', async () => {
    const none = await here(tune('none', '--trace', join(home, 'no', 'trace.json')))
    expect(none.code).toBe(1)
    expect(none.stderr).toMatch(/^zo2: --trace .*trace\.json: cannot be written/)
    const full = await here(tune('full', '--trace', '/dev/full'))
    expect(full.code).toBe(1)
    expect(full.stderr).toBe(
      'zo2: --trace /dev/full: not written whole (ENOSPC); free some disk space\n',
    )
    const lines = readFileSync(join(at('full'), 'journal.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
    expect(lines.length).toBe(STEPS)
  })
})

describe('a trace file', () => {
  it('gives spans at the same time lanes of their own', async () => {
    const trace = await openTrace(at('lanes.json'))
    const now = performance.now()
    trace.span('reads', 'a', now - 10)
    trace.span('reads', 'b', now - 10)
    await new Promise((resolve) => setTimeout(resolve, 5))
    trace.span('reads', 'c', performance.now())
    trace.span('device', '"\\\n', now - 1)
    await trace.close()
    const events = eventsOf(at('lanes.json'))
    const lane = (name: string) => events.find((e) => e.ph === 'X' && e.name === name)!.tid
    expect(lane('a')).not.toBe(lane('b'))
    expect(lane('c')).toBe(lane('a'))
    const names = events.filter((e) => e.name === 'thread_name').map((e) => e.args!.name)
    expect(names).toEqual(['reads', 'reads 2', 'device'])
    expect(lane('"\\\n')).toBeLessThan(lane('a'))
  })
})
