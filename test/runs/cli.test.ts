// Every command as a user types it: help, JSON, spellings of options, exit codes, within this process but for
// what only a process of its own shows.
// Alone: npx vitest run test/runs/cli.test.ts

import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { OPTIONS } from '../../src/config/options.ts'
import { flagName, type OptionSpec } from '../../src/config/spec.ts'
import {
  cli,
  cliJson,
  here,
  hereJson,
  LAYOUTS,
  makeFolder,
  SENTIMENT,
  TINY,
} from '../helpers/cli.ts'
import { prepare } from '../helpers/crash.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
const CPU = ['--device', 'cpu', '--threads', '1', '--quiet']
const COMMANDS = [
  'prepare',
  'pretrain',
  'sample',
  'finetune',
  'eval',
  'generate',
  'chat',
  'plan',
  'inspect',
  'export',
  'convert',
  'env',
]

const tune = (name: string, ...more: string[]) => [
  ...['finetune', TINY, '--train', at('train.txt'), '--batch-size', '2', '--max-length', '16'],
  ...['--lr', '1e-4', '--replay-window', '2', '--output-dir', at(name), ...CPU, ...more],
]

beforeAll(async () => {
  prepare(home)
  await hereJson(tune('run', '--steps', '5'))
})
afterAll(() => rmSync(home, { recursive: true, force: true }))

describe('help', () => {
  it('names every command', async () => {
    const { code, stdout, stderr } = await here(['--help'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const command of COMMANDS) expect(stdout).toContain(`  ${command} `)
  })

  const helpOf = async (command: string) => {
    const { code, stdout, stderr } = await here([command, '--help'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    return stdout
  }

  it.each(COMMANDS)('of %s is at most 100 columns wide and tells of --json', async (command) => {
    const text = await helpOf(command)
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThanOrEqual(100)
    expect(text).toContain('--json')
  })

  it('of the commands shows every option of the table, its default and its other names', async () => {
    const texts: string[] = []
    for (const command of COMMANDS) texts.push((await helpOf(command)).replace(/\s+/g, ' '))
    const typed = (Object.entries(OPTIONS) as [string, OptionSpec][]).filter(([, { commands }]) =>
      commands.some((command) => (COMMANDS as readonly string[]).includes(command)),
    )
    expect(typed.length).toBeGreaterThan(80)
    for (const [name, spec] of typed) {
      const value = spec.value === undefined ? '' : ` <${spec.value}>`
      const text = texts.find((t) => t.includes(`--${flagName(name)}${value} ${spec.help}`))
      expect(text, name).toBeDefined()
      for (const alias of spec.aliases ?? []) expect(text).toContain(`--${alias}`)
    }
  })

  it('is what zo2 alone prints, on stderr, as wrong usage', async () => {
    const { code, stdout, stderr } = await here([])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain('Usage: zo2')
  })

  it('has a version', async () => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }
    expect((await cli(['--version'])).stdout).toBe(`${version}\n`)
  })
})

describe('finetune', () => {
  it('takes the spellings of Hugging Face and MeZO', async () => {
    const args = [
      ...['finetune', TINY, '--train_file', at('train.txt'), '--max_length=16'],
      ...['--per_device_train_batch_size', '2', '--max_steps', '5', '--learning_rate=1e-4'],
      ...['--zo_eps', '1e-3', '--replay_window', '2', '--output_dir', at('twins'), ...CPU],
      ...['--lr_scheduler_type', 'constant', '--gradient_accumulation_steps', '1'],
    ]
    const { code, stderr } = await here(args)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const journal = (name: string) => readFileSync(join(at(name), 'journal.jsonl'), 'utf8')
    expect(journal('twins')).toBe(journal('run'))
  })

  it('prints one JSON object on stdout and all else on stderr', async () => {
    const args = tune('json', '--steps', '2', '--eval-file', at('train.txt'), '--eval-samples', '2')
    const { code, stdout, stderr } = await cli([...args.filter((a) => a !== '--quiet'), '--json'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^\{.*\}\n$/)
    expect(JSON.parse(stdout)).toMatchObject({
      steps: 2,
      stopped: false,
      output_dir: at('json'),
      model_dir: join(at('json'), 'model'),
      evaluations: [{ step: 0 }, { step: 2 }],
    })
    expect(stderr).toContain('step 2/2  loss ')
    expect(stderr).not.toMatch(/undefined|NaN|\[object|\n\n/)
  })

  it('writes model/ in the asked dtype, or none', async () => {
    const summary = await hereJson(tune('none', '--steps', '1', '--save-model', 'no'))
    expect(summary).toMatchObject({ model_dir: null, stopped: false })
    expect(existsSync(join(at('none'), 'model'))).toBe(false)
    await hereJson(tune('half', '--steps', '1', '--dtype', 'float16'))
    const { tensors } = await hereJson(['inspect', join(at('half'), 'model')])
    expect(new Set((tensors as { dtype: string }[]).map((t) => t.dtype))).toEqual(new Set(['F16']))
  })
})

describe('the other commands', () => {
  it('eval gives loss and perplexity of text, and accuracy of label words', async () => {
    const model = join(at('run'), 'model')
    const size = ['--max-length', '32', '--eval-samples', '6', ...CPU]
    const text = await hereJson(['eval', model, '--eval-file', at('train.txt'), ...size])
    expect(text['perplexity']).toBeCloseTo(Math.exp(text['loss'] as number), 6)
    expect(text).toMatchObject({ examples: 6, tokens: 6 * 31 })
    const words = ['--template', '{text} It was', '--label-words', 'terrible,great']
    const dev = join(SENTIMENT, 'dev.jsonl')
    const { accuracy } = await hereJson(['eval', TINY, '--eval-file', dev, ...words, ...size])
    expect([0, 1, 2, 3, 4, 5, 6].map((n) => n / 6)).toContain(accuracy)
  })

  it('generate repeats itself: greedy, and sampled with a seed', async () => {
    const prompts = ['--prompt', 'To be, or', 'The king', '--max-new-tokens', '6']
    const run = async (...more: string[]) =>
      (await hereJson(['generate', TINY, ...prompts, ...CPU, ...more]))['texts'] as string[]
    const greedy = await run()
    expect(greedy).toHaveLength(2)
    expect(await run()).toEqual(greedy)
    const sampled = ['--temperature', '1.5', '--top-k', '50', '--top-p', '0.95', '--seed', '7']
    const seven = await run(...sampled)
    expect(await run(...sampled)).toEqual(seven)
    expect(await run(...sampled, '--seed', '8')).not.toEqual(seven)
    const { stdout } = await here(['generate', TINY, ...prompts, ...CPU])
    expect(stdout).toBe(`To be, or${greedy[0]}\nThe king${greedy[1]}\n`)
  })

  it('plan gives the bytes of a run', async () => {
    const shape = ['--batch-size', '2', '--max-length', '16', '--device', 'cpu']
    const plan = await hereJson(['plan', TINY, ...shape, '--resident', 'none'])
    const bytes = plan['device_bytes'] as Record<string, number>
    const names = ['activations', 'resident', 'scratch', 'slots', 'staging']
    expect(Object.keys(bytes).sort()).toEqual(names)
    const sum = Object.values(bytes).reduce((a, b) => a + b)
    expect(plan['device_peak_bytes']).toBe(sum)
    for (const key of ['host', 'disk', 'read', 'upload', 'download']) {
      expect(plan[`${key}_bytes`], key).toBeGreaterThanOrEqual(0)
    }
    expect(plan['read_bytes']).toBeGreaterThan(1e6)
  })

  it('leaves nothing in the home and temporary folders: the library tells nobody of its use', async () => {
    const bare = at('bare')
    mkdirSync(bare)
    const folders = { HOME: bare, TMPDIR: bare, XDG_CACHE_HOME: bare }
    await cliJson(['eval', TINY, '--eval-file', at('train.txt'), ...CPU], { env: folders })
    expect(readdirSync(bare)).toEqual([])
  })

  it('inspect lists the tensors', async () => {
    const found = await hereJson(['inspect', join(LAYOUTS, 'sharded-bin')])
    expect(found).toMatchObject({ model_type: 'opt', files: { length: 2 } })
    const { stdout } = await here(['inspect', join(LAYOUTS, 'pre-norm-tied')])
    expect(stdout).toMatch(/^ {2}model\.decoder\.embed_tokens\.weight +F32 +\[\d+, \d+\] +/m)
  })

  it('ends without a word when nobody reads its output any more', async () => {
    const shell = 'set -o pipefail; "$0" "$@" --json | true'
    const { code, stderr } = await cli(['inspect', TINY], { shell })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  })

  const weights = (dir: string) => readFileSync(join(dir, 'model.safetensors'))

  it('export needs no adapter, whatever the run had', async () => {
    const moved = at('moved')
    cpSync(at('run'), moved, { recursive: true })
    const path = join(moved, 'config.json')
    const record = JSON.parse(readFileSync(path, 'utf8')) as { config: object }
    const config = { ...record.config, device: 'webgpu', adapter: 'of another machine' }
    writeFileSync(path, JSON.stringify({ ...record, config }))
    await hereJson(['export', moved, at('from-moved')])
    expect(weights(at('from-moved')).equals(weights(join(at('run'), 'model')))).toBe(true)
  })

  it('export makes the bits of model/, and the model of a run that was stopped', async () => {
    const made = await hereJson(['export', at('run'), at('exported')])
    expect(made).toEqual({ model_dir: at('exported'), step: 5, updates: 5 })
    expect(weights(at('exported')).equals(weights(join(at('run'), 'model')))).toBe(true)
    // What a run of five steps leaves when it is stopped after three.
    cpSync(at('run'), at('stopped'), { recursive: true })
    rmSync(join(at('stopped'), 'model'), { recursive: true })
    const journal = readFileSync(join(at('run'), 'journal.jsonl'), 'utf8').split('\n')
    writeFileSync(join(at('stopped'), 'journal.jsonl'), journal.slice(0, 3).join('\n') + '\n')
    await hereJson(tune('three', '--steps', '3'))
    expect((await hereJson(['export', at('stopped'), at('early')]))['updates']).toBe(3)
    expect(weights(at('early')).equals(weights(join(at('three'), 'model')))).toBe(true)
  })

  it('convert keeps the weights, or their dtype changes as asked', async () => {
    const source = join(LAYOUTS, 'f16')
    await hereJson(['convert', source, at('same')])
    await hereJson(['convert', source, at('wide'), '--to', 'float32'])
    const dtypes = async (dir: string) =>
      ((await hereJson(['inspect', dir]))['tensors'] as { dtype: string }[]).map((t) => t.dtype)
    expect(new Set(await dtypes(at('same')))).toEqual(new Set(['F16']))
    expect(new Set(await dtypes(at('wide')))).toEqual(new Set(['F32']))
  })

  it('env names versions, processor and adapters', async () => {
    const found = await hereJson(['env'])
    expect(found).toMatchObject({ node: process.version, webgpu_adapters: expect.any(Array) })
    const { code, stdout } = await here(['env'])
    expect(code).toBe(0)
    expect(stdout).toContain('cpu device')
  })
})

describe('errors', () => {
  it.each<[args: string[], code: number, stderr: RegExp]>([
    [['nosuch'], 2, /^zo2: unknown command 'nosuch'\n$/],
    [['finetun'], 2, /^zo2: unknown command 'finetun' \(Did you mean finetune\?\)\n$/],
    [['finetune'], 2, /^zo2: expected either a model or --synthetic SIZE\n$/],
    [['plan', 'a', 'b'], 2, /^zo2: too many arguments for 'plan', expected 1 argument .*\n$/i],
    [['eval', TINY, '--quiet'], 2, /^zo2: --eval-file \(or --task\) is required\n$/],
    [['generate', TINY], 2, /^zo2: required option '--prompt <text...>' not specified\n$/],
    [['inspect', at('nosuch')], 1, /^zo2: .*nosuch.*\n$/],
  ])(
    'of %j are one sentence, exit code %i: 2 for wrong usage, 1 for a failed run',
    async (...c) => {
      const [args, code, stderr] = c
      const ended = await here(args)
      expect(ended).toMatchObject({ code, stdout: '' })
      expect(ended.stderr).toMatch(stderr)
    },
  )

  it('reach the shell of a process as they reach the caller of the program', async () => {
    for (const args of [['nosuch'], ['inspect', at('nosuch')]]) {
      expect(await cli(args)).toEqual({ ...(await here(args)), signal: null })
    }
  })

  it('show their stack only with --debug', async () => {
    expect((await here(['inspect', at('nosuch')])).stderr).not.toMatch(/^ +at /m)
    expect((await here(['inspect', at('nosuch'), '--debug'])).stderr).toMatch(/^ +at /m)
  })
})
