// What bad things do to a run that has begun: losses that are not finite, a full disk, a folder that
// cannot be used, a resume that does not fit. The run ends with one sentence and can go on.
// Alone: npx vitest run test/runs/bad-runs.test.ts

import {
  copyFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  rmSync,
} from 'node:fs'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cli, type Ended, here, makeFolder, seen, startCli, SMALL } from '../helpers/cli.ts'
import { differences, finish, outcome, prepare, runArgs, twoAtATime } from '../helpers/crash.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
const WEIGHTS = 'model.safetensors'

beforeAll(async () => {
  prepare(home)
  await finish(runArgs(home, 'reference'))
})
afterAll(() => rmSync(home, { recursive: true, force: true }))

/** Checks that it failed with one sentence that contains `says` in this order. */
function expectSentence(ended: Ended, ...says: string[]): void {
  expect(ended).toMatchObject({ code: 1, stdout: '' })
  const line = ended.stderr.split('\n').at(-2) ?? ''
  expect(line).toMatch(/^zo2: (?!internal error)/)
  let from = 0
  for (const part of says) {
    const found = line.indexOf(part, from)
    expect(found, `"${part}" in ${line}`).toBeGreaterThanOrEqual(0)
    from = found + part.length
  }
}

const journalOf = (name: string) =>
  readFileSync(join(at(name), 'journal.jsonl'), 'utf8')
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, unknown>)

describe('a loss that is not finite', () => {
  it('skips the step with a warning, and stops the run after so many in a row', async () => {
    const model = at('nan')
    mkdirSync(model)
    for (const name of ['config.json', 'vocab.json', 'merges.txt', 'tokenizer_config.json']) {
      copyFileSync(join(SMALL, name), join(model, name))
    }
    const bytes = readFileSync(join(SMALL, WEIGHTS))
    bytes.fill(0xff, bytes.length - 256) // NaN in every float format
    writeFileSync(join(model, WEIGHTS), bytes)
    const args = ['finetune', model, ...runArgs(home, 'skips').slice(2)]
    const ended = await here([...args, '--max-skipped', '3'])
    expectSentence(ended, '3 losses in a row were not finite', at('skips'), '--max-skipped')
    expect(ended.stderr).toContain('warning: the loss of step 3 is not finite; the step is skipped')
    expect(journalOf('skips')).toHaveLength(3)
    const skipped = { projected_grad: 0, loss_plus: null, loss_minus: null, skipped: true }
    for (const entry of journalOf('skips')) expect(entry).toMatchObject(skipped)
    const again = await here([...args, '--max-skipped', '5', '--resume', '--quiet'])
    expectSentence(again, '5 losses in a row')
    expect(journalOf('skips')).toHaveLength(5)
  })

  it('after a diverging step leaves weights that the journal gives back', async () => {
    const args = [...runArgs(home, 'diverged'), '--lr', '1e38', '--max-skipped', '2']
    const ended = await here(args)
    expectSentence(ended, '2 losses in a row')
    const entries = journalOf('diverged')
    expect(entries.slice(-2).every((entry) => entry['skipped'] === true)).toBe(true)
    expect(entries[0]!['skipped']).toBeUndefined()
    const exported = await here(['export', at('diverged'), at('diverged-model'), '--quiet'])
    expect(exported).toMatchObject({ code: 0, stderr: '' })
  })
})

describe('a resume', () => {
  const resume = (...more: string[]) =>
    here([...runArgs(home, 'reference'), '--resume', '--quiet', ...more])

  it('is refused with other options that decide the weights, and so is a second start', async () => {
    expectSentence(await resume('--lr', '2e-4'), '--lr 0.0001, found 0.0002')
    expectSentence(await resume('--seed', '1'), '--seed 0, found 1')
    expectSentence(await resume('--template', '{text}'), '--template', '--label-words')
    const args = runArgs(home, 'reference').slice(2)
    const half = at('half')
    expect((await here(['convert', SMALL, half, '--to', 'bfloat16', '--quiet'])).code).toBe(0)
    expectSentence(
      await here(['finetune', half, ...args, '--resume']),
      'run on other weights',
      half,
    )
    expectSentence(await here(runArgs(home, 'reference')), 'holds a run already', '--resume')
  })

  it('is refused on other weights of the same shape, and on training data that changed', async () => {
    const other = at('other-weights')
    cpSync(SMALL, other, { recursive: true })
    const bytes = readFileSync(join(other, WEIGHTS))
    bytes[bytes.length - 1]! ^= 1 // the last weight of the last tensor
    writeFileSync(join(other, WEIGHTS), bytes)
    const args = runArgs(home, 'reference').slice(2)
    expectSentence(await here(['finetune', other, ...args, '--resume']), 'run on other weights')
    const data = readFileSync(at('train.txt'))
    try {
      writeFileSync(at('train.txt'), Buffer.concat([data, Buffer.from(' and more')]))
      expectSentence(await resume(), 'other training data', 'train.txt')
    } finally {
      writeFileSync(at('train.txt'), data)
    }
  })

  it('needs a run in the folder', async () => {
    mkdirSync(at('other'))
    writeFileSync(join(at('other'), 'notes.txt'), 'mine')
    const args = [...runArgs(home, 'other'), '--resume']
    expectSentence(await here(args), 'other holds no run to resume')
    writeFileSync(join(at('other'), 'config.json'), '{"model_type":"opt"}')
    expectSentence(await here(args), 'other/config.json', 'not the record of a run')
    writeFileSync(join(at('other'), 'config.json'), '{"zo2":')
    expectSentence(await here(args), 'other/config.json', 'not valid JSON')
  })
})

describe('an output folder', () => {
  it('that is a file, lies in one, or cannot be written is refused', async () => {
    const into = (dir: string) => here([...runArgs(home, 'x').slice(0, -1), dir, '--quiet'])
    expectSentence(await into(at('train.txt')), 'train.txt', 'expected a folder')
    expectSentence(await into(join(at('train.txt'), 'run')), 'train.txt/run', 'expected a folder')
    // Nobody can make files there, root included.
    expectSentence(await into('/proc/self'), '/proc/self', 'cannot be written')
  })

  it('of a run that failed before its first step may be used again', async () => {
    expectSentence(await here([...runArgs(home, 'again'), '--memory', '1KB']), 'too small')
    await finish(runArgs(home, 'again'))
  })
})

describe('a full disk', () => {
  // Files can grow to a limit and no further: what a full disk does, without being root.
  const full = (name: string, kibibytes: number, ...more: string[]) =>
    cli([...runArgs(home, name), ...more], { shell: `ulimit -f ${kibibytes}; exec "$0" "$@"` })

  const resumes = async (name: string, variant = 0) => {
    await finish([...runArgs(home, name, variant), '--resume'])
    expect(differences(outcome(at('reference')), outcome(at(name)))).toEqual([])
  }

  it('ends the run at its journal with half a line, which the resumed run writes anew', async () => {
    const running = startCli(runArgs(home, 'no-journal'))
    await seen(running, 'step 10/24')
    // Stopped between two steps: the next thing to be written is then a line of the journal.
    const lines = (name: string) => readFileSync(join(at('no-journal'), name), 'utf8').split('\n')
    for (;;) {
      running.child.kill('SIGSTOP')
      if (lines('journal.jsonl').length === lines('metrics.jsonl').length) break
      running.child.kill('SIGCONT')
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    const bytes = statSync(join(at('no-journal'), 'journal.jsonl')).size + 60
    execFileSync('prlimit', ['--pid', String(running.child.pid), `--fsize=${bytes}`])
    running.child.kill('SIGCONT')
    const ended = await running.finished
    expectSentence(ended, 'no-journal/', 'EFBIG', 'free some disk space', '--resume')
    expect(ended.stderr).toContain('no-journal/journal.jsonl: step ')
    expect(statSync(join(at('no-journal'), 'journal.jsonl')).size).toBe(bytes)
    await resumes('no-journal')
  })

  it('ends the run at its metrics, an evaluation, the overlay, a checkpoint or the model', async () => {
    const cases: [name: string, kibibytes: number, more: string[], says: string][] = [
      ['no-metrics', 2, ['--save-steps', '0'], 'no-metrics/metrics.jsonl'],
      ['no-overlay', 200, ['--ram', '1B'], 'no-overlay: the folded weights'],
      ['no-checkpoint', 200, [], 'checkpoint-8'],
      ['no-model', 200, ['--save-steps', '0'], 'no-model/model/model.safetensors'],
    ]
    await twoAtATime(cases.length, async (i) => {
      const [name, kibibytes, more, says] = cases[i]!
      expectSentence(await full(name, kibibytes, ...more), says, 'EFBIG')
    })
    expect(journalOf('no-checkpoint')).toHaveLength(8)
    expect(journalOf('no-model')).toHaveLength(24)
    await resumes('no-metrics')
    await resumes('no-overlay', 1)
    await resumes('no-checkpoint')
  })

  it('ends an export, and leaves nothing of it', async () => {
    const args = ['export', at('reference'), at('no-room/model'), '--quiet']
    const ended = await cli(args, { shell: 'ulimit -f 200; exec "$0" "$@"' })
    expectSentence(ended, 'model', 'EFBIG')
    expect(readdirSync(at('no-room'))).toEqual([])
    expect((await here(args)).code).toBe(0)
  })
})
