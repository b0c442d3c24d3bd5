// zo2 push against a hub of our own: a run's model with its card, an exported folder, every refusal and
// a network that fails in the middle. Alone: npx vitest run test/runs/push.test.ts

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { modelCard } from '../../src/export/card.ts'
import { here, hereJson, makeFolder, TINY } from '../helpers/cli.ts'
import { prepare } from '../helpers/crash.ts'
import { startPushHub, type PushHub } from '../helpers/push-hub.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
const TOKEN = 'secret-token'
let hub: PushHub
const env = (more: Record<string, string> = {}) => ({
  env: { HF_ENDPOINT: hub.endpoint, HF_TOKEN: TOKEN, HF_HOME: home, ...more },
})

beforeAll(async () => {
  hub = await startPushHub(TOKEN)
  prepare(home)
  await hereJson([
    ...['finetune', TINY, '--train', at('train.txt'), '--eval-file', at('train.txt')],
    ...[
      '--steps',
      '3',
      '--batch-size',
      '2',
      '--max-length',
      '16',
      '--lr',
      '1e-4',
      '--eval-steps',
      '2',
    ],
    ...['--output-dir', at('run'), '--device', 'cpu', '--threads', '1', '--quiet'],
  ])
})
afterAll(() => hub.close())

describe('zo2 export --step', () => {
  it('writes the weights of that step, of the best evaluation, or refuses', async () => {
    const made = async (step: string) =>
      hereJson(['export', at('run'), at(`step-${step}`), '--step', step])
    expect(await made('1')).toMatchObject({ step: 1, updates: 1 })
    const evals = readFileSync(at('run/evals.jsonl'), 'utf8').trim().split('\n')
    const scores = evals.map((line) => JSON.parse(line) as { step: number; loss: number })
    const best = scores.reduce((a, b) => (b.loss < a.loss ? b : a))
    expect(await made('best')).toMatchObject({ step: best.step })
    expect(await made('last')).toMatchObject({ step: 3, updates: 3 })
    const weights = (name: string) => readFileSync(at(`${name}/model.safetensors`))
    expect(weights('step-last').equals(weights('run/model'))).toBe(true)
    expect(weights('step-1').equals(weights('run/model'))).toBe(false)
    const { code, stderr } = await here(['export', at('run'), at('none'), '--step', '4'])
    expect([code, stderr]).toEqual([
      2,
      'zo2: --step: expected last, best or a number up to 3, found "4"\n',
    ])
  })
})

describe('zo2 push', () => {
  it('makes the repository and publishes a run in one commit, with a card of its records', async () => {
    const made = await hereJson(['push', at('run'), 'me/first', '--private', '--quiet'], env())
    expect(made).toMatchObject({ repo: 'me/first', commit: 'c'.repeat(40) })
    const repo = hub.repos.get('me/first')!
    expect(repo).toMatchObject({ private: true, title: 'zo2: first' })
    const names = readdirSync(at('run/model'))
    expect([...repo.files.keys()].sort()).toEqual([...names, 'README.md'].sort())
    for (const name of names) {
      expect(repo.files.get(name)!.equals(readFileSync(join(at('run/model'), name))), name).toBe(
        true,
      )
    }
    const card = repo.files.get('README.md')!.toString()
    const [, front, ...rest] = card.split(/^---$/m)
    expect(parse(front!)).toEqual({
      library_name: 'transformers',
      pipeline_tag: 'text-generation',
      tags: ['zo2', 'zeroth-order', 'mezo-sgd'],
    })
    const text = rest.join('---')
    const evals = readFileSync(at('run/evals.jsonl'), 'utf8').trim().split('\n')
    const losses = evals.map((line) => (JSON.parse(line) as { loss: number }).loss)
    expect(text).toContain(`| best evaluation loss | ${Math.min(...losses).toFixed(4)} after `)
    expect(text).toContain('| updates | 3 of 3 |')
    expect(text).not.toContain(home)
    const options = parse(/```yaml\n([^`]*)```/.exec(text)![1]!) as Record<string, unknown>
    expect(options).toMatchObject({ steps: 3, lr: 1e-4, train: 'train.txt' })
  })

  it('publishes a folder that export wrote, its card included, and shows what it would publish', async () => {
    await hereJson(['export', at('run'), at('exported')])
    const card = await modelCard(at('run'), { updates: 3 })
    expect(readFileSync(at('exported/README.md'), 'utf8')).toBe(card)
    const before = hub.requests.length
    const dry = await hereJson(['push', at('exported'), 'me/second', '--dry-run'], env())
    expect(hub.requests.length).toBe(before)
    await hereJson(['push', at('exported'), 'me/second', '--message', 'try 2', '--quiet'], env())
    const { files, title } = hub.repos.get('me/second')!
    expect(title).toBe('try 2')
    expect([...files.keys()]).toEqual((dry['files'] as { name: string }[]).map((f) => f.name))
    expect(files.get('README.md')!.toString()).toBe(card)
  })

  it.each([
    ['preupload', [500, 'drop']],
    ['/storage/', ['drop']],
    ['/commit/', [503]],
  ] as const)('goes on after %s failed with %j', async (path, faults) => {
    hub.faults.set(path, [...faults])
    hub.stored.clear()
    const repo = `me/again-${path.replaceAll('/', '')}`
    await hereJson(['push', at('run'), repo, '--quiet'], env())
    expect(hub.faults.get(path)).toEqual([])
    expect(hub.repos.get(repo)!.files.size).toBe(readdirSync(at('run/model')).length + 1)
  })

  it('publishes nothing when the hub stays away, and says so', async () => {
    hub.faults.set('/commit/', Array<number>(9).fill(500))
    const { code, stderr } = await here(['push', at('run'), 'me/never', '--quiet'], env())
    hub.faults.clear()
    expect(code).toBe(1)
    expect(stderr).toMatch(
      /^zo2: me\/never could not be published \(.*500.*\): nothing of it is visible/,
    )
    expect(hub.repos.get('me/never')!.files.size).toBe(0)
  }, 40_000)

  it.each([
    [
      'no token',
      ['push', at('run'), 'me/x'],
      { HF_TOKEN: '' },
      /needs an access token that may write/,
      1,
    ],
    ['a wrong token', ['push', at('run'), 'me/x'], { HF_TOKEN: 'other' }, /may not write there/, 1],
    ['no repository name', ['push', at('run'), 'first'], {}, /no repository; write OWNER\/NAME/, 2],
    ['a folder without a model', ['push', home, 'me/x'], {}, /is no model folder/, 1],
    [
      'a wrong endpoint',
      ['push', at('run'), 'me/x'],
      { HF_ENDPOINT: 'ftp://x' },
      /HF_ENDPOINT should be/,
      1,
    ],
  ] as const)('refuses %s', async (_, args, more, message, expected) => {
    const { code, stderr } = await here([...args, '--quiet'], env(more))
    expect(stderr).toMatch(message)
    expect(stderr).not.toContain(TOKEN)
    expect(code).toBe(expected)
  })
})
