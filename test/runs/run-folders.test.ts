// A run's folder is never taken over or emptied by what is not its continuation: a run folder that lacks
// one of its files is refused by name, a damaged checkpoint costs time alone, and what is a run is told
// from what is a model. Files that are read-only where they come from can be trained on by anybody.
// Alone: npx vitest run test/runs/run-folders.test.ts

import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cli, type Ended, here, makeFolder, TINY } from '../helpers/cli.ts'

const home = makeFolder()
const at = (...names: string[]) => join(home, ...names)
afterAll(() => rmSync(home, { recursive: true, force: true }))

const own = ['--device', 'cpu', '--threads', '1', '--batch-size', '2', '--max-length', '16']
const train = () => ['--train', at('train.txt')]
const args = (dir: string, ...more: string[]) => [
  'finetune',
  TINY,
  ...own,
  ...train(),
  '--lr',
  '1e-4',
  '--steps',
  '4',
  '--save-steps',
  '2',
  '--output-dir',
  at(dir),
  ...more,
]

beforeAll(async () => {
  writeFileSync(at('train.txt'), 'To be, or not to be, that is the question: '.repeat(40))
  expect((await here(args('reference'))).code).toBe(0)
})

/** A copy of the reference run. */
function copy(name: string): string {
  cpSync(at('reference'), at(name), { recursive: true })
  return name
}

const contents = (dir: string) =>
  Object.fromEntries(
    readdirSync(dir, { recursive: true, encoding: 'utf8' })
      .filter((name) => statSync(join(dir, name)).isFile())
      .map((name) => [name, readFileSync(join(dir, name)).toString('base64')]),
  )

function expectSentence(ended: Ended, ...says: string[]): void {
  expect(ended).toMatchObject({ code: 1, stdout: '' })
  const line = ended.stderr.trimEnd().split('\n').at(-1)!
  expect(line).toMatch(/^zo2: (?!internal error)/)
  for (const part of says) expect(line).toContain(part)
}

describe('a run folder without one of its files', () => {
  it.each([
    ['config.json', ['journal.jsonl', 'config.json']],
    ['journal.jsonl', ['checkpoint-', 'journal.jsonl']],
  ])('%s is refused by name, and nothing in it changes', async (lost, says) => {
    const dir = copy(`without-${lost}`)
    rmSync(at(dir, lost))
    const before = contents(at(dir))
    expectSentence(await here(args(dir, '--seed', '7')), dir, ...says)
    expectSentence(await here(args(dir, '--resume')), dir, ...says)
    expect(contents(at(dir))).toEqual(before)
  })

  it('or with an empty journal beside checkpoints is refused too', async () => {
    const dir = copy('emptied')
    writeFileSync(at(dir, 'journal.jsonl'), '')
    const before = contents(at(dir))
    expectSentence(await here(args(dir, '--resume')), 'checkpoint-', 'journal.jsonl')
    expect(contents(at(dir))).toEqual(before)
  })

  it('is not made of a run of no steps, which may begin anew', async () => {
    expect((await here(args('none', '--steps', '0'))).code).toBe(0)
    expect(existsSync(at('none', 'model', 'config.json'))).toBe(true)
    expect((await here(args('none'))).code).toBe(0)
    expect(readFileSync(at('none', 'journal.jsonl'))).toEqual(
      readFileSync(at('reference', 'journal.jsonl')),
    )
  })
})

describe('a damaged checkpoint', () => {
  it.each([
    [
      'cut short',
      (dir: string) => {
        const file = at(dir, 'checkpoint-4', 'model.safetensors')
        writeFileSync(file, readFileSync(file).subarray(0, 100_000))
      },
    ],
    ['without config.json', (dir: string) => rmSync(at(dir, 'checkpoint-4', 'config.json'))],
  ])('%s is passed over, with a word', async (what, damage) => {
    const [whole, dir] = [copy(`whole ${what}`), copy(`damaged ${what}`)]
    damage(dir)
    expect((await here(args(whole, '--resume', '--steps', '6'))).code).toBe(0)
    const { code, stderr } = await here(args(dir, '--resume', '--steps', '6'))
    expect({ code, said: /checkpoint-4 is damaged and passed over/.test(stderr) }).toEqual({
      code: 0,
      said: true,
    })
    for (const name of ['journal.jsonl', 'model/model.safetensors']) {
      expect(readFileSync(at(dir, name)).equals(readFileSync(at(whole, name))), name).toBe(true)
    }
  })
})

describe('a run folder', () => {
  const evaluate = (model: string) =>
    here(['eval', model, '--eval-file', at('train.txt'), ...own.slice(0, 4), '--max-length', '16'])

  it('as MODEL means its model/, with a word', async () => {
    const [ofRun, ofModel] = [
      await evaluate(at('reference')),
      await evaluate(at('reference', 'model')),
    ]
    expect(ofRun.code).toBe(0)
    expect(ofRun.stdout).toBe(ofModel.stdout)
    expect(ofRun.stderr).toContain(`${at('reference')} is the folder of a run: its model/ is taken`)
  })

  it('as MODEL without a model/ says how to write one', async () => {
    const dir = copy('unwritten')
    rmSync(at(dir, 'model'), { recursive: true })
    expectSentence(await evaluate(at(dir)), at(dir), `zo2 export ${at(dir)} OUT`)
  })

  it('keeps its records when a report is asked for in their place', async () => {
    const before = contents(at('reference'))
    const metrics = at('reference', 'metrics.jsonl')
    expectSentence(await here(['report', at('reference'), '-o', metrics]), metrics, '--output')
    expect(contents(at('reference'))).toEqual(before)
    for (let i = 0; i < 2; i++) {
      expect((await here(['report', at('reference'), '-o', at('page.html')])).code).toBe(0)
    }
  })

  it('of a model that was named by a relative path can be exported from anywhere', async () => {
    mkdirSync(at('elsewhere'))
    const [, , ...rest] = args('relative')
    const made = await here(['finetune', relative(home, TINY), ...rest], { cwd: home })
    expect(made.code).toBe(0)
    const exported = await here(['export', at('relative'), at('exported')], {
      cwd: at('elsewhere'),
    })
    expect(exported).toMatchObject({ code: 0 })
  })
})

describe.skipIf(process.getuid?.() !== 0)('files that belong to another user, read-only', () => {
  it('can be trained on, exported and converted by anybody', async () => {
    const model = at('read-only')
    cpSync(TINY, model, { recursive: true })
    for (const name of readdirSync(model)) chmodSync(join(model, name), 0o444)
    const mine = at('mine')
    mkdirSync(mine)
    chownSync(mine, 65534, 65534)
    chmodSync(home, 0o755)
    const run = join(mine, 'run')
    const [, , ...rest] = args('unused')
    const inRun = [...rest, '--output-dir', run]
    for (const command of [
      ['finetune', model, ...inRun],
      ['export', run, join(mine, 'exported')],
      ['convert', model, join(mine, 'converted'), '--to', 'float16'],
    ]) {
      const { code, stderr } = await cli(command, { uid: 65534 })
      expect({ command: command[0], code, stderr: code === 0 ? '' : stderr }).toEqual({
        command: command[0],
        code: 0,
        stderr: '',
      })
    }
    for (const name of readdirSync(join(mine, 'exported'))) {
      expect(statSync(join(mine, 'exported', name)).mode & 0o200, name).toBe(0o200)
    }
    renameSync(run, join(mine, 'moved')) // nothing of it is held or locked
  })
})
