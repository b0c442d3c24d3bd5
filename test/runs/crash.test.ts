// kill -9 at any moment, then --resume: the run goes on as if nothing had happened. The long version
// of the first test is scripts/crash-campaign.ts.
// Alone: npx vitest run test/runs/crash.test.ts

import {
  appendFileSync,
  copyFileSync,
  existsSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openJournal, readJournal } from '../../src/run/journal.ts'
import { here, makeFolder, SMALL, startCli } from '../helpers/cli.ts'
import {
  differences,
  finish,
  killedRun,
  outcome,
  prepare,
  runArgs,
  seeded,
  startAndKill,
  twoAtATime,
  type Outcome,
} from '../helpers/crash.ts'
import { decoderConfig, writeHashed } from '../helpers/hashed.ts'

const home = makeFolder()
let reference: Outcome
let journalText: string

beforeAll(async () => {
  prepare(home)
  await finish(runArgs(home, 'reference'))
  reference = outcome(join(home, 'reference'))
  journalText = reference.get('journal.jsonl')!.toString()
})

afterAll(() => rmSync(home, { recursive: true, force: true }))

const copyOfReference = (name: string) => {
  const dir = join(home, name)
  cpSync(join(home, 'reference'), dir, { recursive: true })
  return { dir, journal: join(dir, 'journal.jsonl') }
}

describe('a killed run', () => {
  it('resumes to the same journal, metrics, checkpoints and model, wherever it was', async () => {
    await twoAtATime(6, async (index) => {
      const kills = await killedRun(home, { index, of: 6 }, seeded(index + 1))
      const wrong = differences(reference, outcome(join(home, `run-${index}`)))
      expect(wrong, JSON.stringify(kills)).toEqual([])
    })
  }, 240_000)

  it('leaves temporary files only until the next run in its folder', async () => {
    const { dir } = copyOfReference('leftovers')
    cpSync(join(dir, 'model'), join(dir, '.model.0123456789ab.tmp'), { recursive: true })
    cpSync(join(dir, 'model'), join(dir, '.checkpoint-8.0123456789ab.tmp'), { recursive: true })
    writeFileSync(join(dir, '.config.json.0123456789ab.tmp'), '{')
    writeFileSync(join(dir, '.zo2-overlay-1-2'), '')
    writeFileSync(join(dir, 'run.lock.1.2'), '')
    await finish([...runArgs(home, 'leftovers'), '--resume'])
    expect(differences(reference, outcome(dir))).toEqual([])
  })

  it('writes each evaluation once', () => {
    for (const run of ['reference', 'run-0', 'run-3']) {
      const lines = readFileSync(join(home, run, 'evals.jsonl'), 'utf8')
        .trim()
        .split('\n')
      const steps = lines.map((line) => (JSON.parse(line) as { step: number }).step)
      expect(steps, run).toEqual([...new Set(steps)].sort((a, b) => a - b))
      expect(steps.at(-1)).toBe(24)
    }
  })
})

describe.each([
  ['lozo-m', '5', '2'],
  ['kronzo', '4', '1'],
])('a killed run of %s', (method, window, foldWindows) => {
  const flags = ['--method', method, '--window', window, '--fold-windows', foldWindows]
  // In mid-window, after a fold, after a checkpoint: none of them is where a resumed run starts.
  it.each([0.3, 0.6, 0.85])('resumes to the same files, killed at %d of its life', async (at) => {
    const whole = join(home, `${method}-whole`)
    if (!existsSync(whole)) await finish(runArgs(home, `${method}-whole`, 0, flags))
    const args = runArgs(home, `${method}-${at}`, 1, flags)
    await startAndKill(args, at, 5)
    await finish([...args, '--resume'])
    expect(differences(outcome(whole), outcome(join(home, `${method}-${at}`)))).toEqual([])
  })

  it('is not resumed with other options', async () => {
    for (const [flag, value] of [
      ['--window', '7'],
      ['--directions', '2'],
      ['--freeze', '*fc1*'],
      ['--fold-windows', '3'],
      method === 'kronzo' ? ['--kron-strategy', 'power2'] : ['--rank', '4'],
    ]) {
      const args = [...runArgs(home, `${method}-whole`, 0, flags), '--resume', flag!, value!]
      const { code, stderr } = await here(args)
      expect(code).toBe(1)
      expect(stderr).toContain(`was run with ${flag}`)
    }
  })
})

describe('a killed run of a Llama', () => {
  it('resumes to the same files', async () => {
    const model = join(home, 'llama')
    await writeHashed(model, { ...decoderConfig('llama3'), vocab_size: 4096 })
    for (const name of ['tokenizer_config.json', 'vocab.json', 'merges.txt']) {
      copyFileSync(join(SMALL, name), join(model, name))
    }
    const args = (name: string) => runArgs(home, `llama-${name}`, 1, undefined, model)
    await finish(args('whole'))
    await startAndKill(args('killed'), 0.6, 5)
    await finish([...args('killed'), '--resume'])
    const whole = outcome(join(home, 'llama-whole'))
    expect(differences(whole, outcome(join(home, 'llama-killed')))).toEqual([])
  })
})

describe('a killed export', () => {
  it('leaves nothing under its name, and what it left elsewhere goes with the next one', async () => {
    const parent = join(home, 'exports')
    mkdirSync(parent)
    const args = ['export', join(home, 'reference'), join(parent, 'model'), '--quiet']
    const { child, finished } = startCli(args)
    while (readdirSync(parent).length === 0 && child.exitCode === null) {
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    child.kill('SIGKILL')
    expect((await finished).signal).toBe('SIGKILL')
    const [left] = readdirSync(parent)
    expect(left).toMatch(/^\.model\.[0-9a-f]{20}\.tmp$/)
    // The number of a process that runs, but of one that began at another time.
    const pid = process.pid.toString(16).padStart(8, '0')
    mkdirSync(join(parent, `${left!.slice(0, 11)}${pid}00000000.tmp`))
    const others = join(parent, `.model.${'0'.repeat(20)}.tmp`)
    mkdirSync(others) // made on another machine: nobody here knows whether it is still written
    await finish(args)
    expect(readdirSync(parent).sort()).toEqual([basename(others), 'model'])
  })
})

describe('a journal torn by a crash', () => {
  it('loses its last line wherever that is cut, and takes it again byte for byte', async () => {
    const path = join(home, 'torn.jsonl')
    const text = journalText
    const start = text.lastIndexOf('\n', text.length - 2) + 1
    const last = JSON.parse(text.slice(start)) as Parameters<
      Awaited<ReturnType<typeof openJournal>>['append']
    >[0]
    for (let cut = start; cut < text.length; cut++) {
      writeFileSync(path, text.slice(0, cut))
      expect(await readJournal(path)).toHaveLength(23)
      const journal = await openJournal(path)
      expect(journal.entries).toHaveLength(23)
      await journal.append(last)
      await journal.close()
      expect(readFileSync(path, 'utf8')).toBe(text)
    }
  })

  it('is completed by --resume, with the metrics', async () => {
    const { dir, journal } = copyOfReference('torn')
    writeFileSync(journal, journalText.slice(0, -20))
    appendFileSync(join(dir, 'metrics.jsonl'), '{"step":24,"lo')
    await finish([...runArgs(home, 'torn'), '--resume'])
    expect(differences(reference, outcome(dir))).toEqual([])
  })

  it('gives lost metrics of journalled steps back', async () => {
    const { dir } = copyOfReference('lost')
    const path = join(dir, 'metrics.jsonl')
    const lines = readFileSync(path, 'utf8').split('\n')
    writeFileSync(path, lines.filter((_, i) => i !== 5 && i < 20).join('\n') + '\n{"step":20,"l')
    await finish([...runArgs(home, 'lost'), '--resume'])
    expect(differences(reference, outcome(dir))).toEqual([])
  })

  it('is refused with the number of the line if another line is damaged', async () => {
    const { journal } = copyOfReference('damaged')
    copyFileSync(journal, `${journal}.bak`)
    const lines = journalText.split('\n')
    for (const damage of ['', '{"step":4', lines[5]!, lines[4]!.replace('"lr"', '"rl"'), '\0\0']) {
      writeFileSync(journal, lines.with(4, damage).join('\n'))
      const { code, stderr } = await here([...runArgs(home, 'damaged'), '--resume', '--quiet'])
      expect(code).toBe(1)
      expect(stderr).toMatch(/^zo2: .*journal\.jsonl: line 5 is damaged .*\n$/)
    }
    copyFileSync(`${journal}.bak`, journal)
    await finish([...runArgs(home, 'damaged'), '--resume'])
  })
})
