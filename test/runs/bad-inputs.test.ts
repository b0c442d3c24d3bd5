// What bad models, data, flags and machines get: one sentence on stderr that names the thing, and an exit
// code; one row each. What bad things do to a run that has begun is in bad-runs.test.ts.
// Alone: npx vitest run test/runs/bad-inputs.test.ts

import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cli, type Ended, here, LAYOUTS, makeFolder, SENTIMENT, TINY } from '../helpers/cli.ts'
import { prepare } from '../helpers/crash.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
const DEV = join(SENTIMENT, 'dev.jsonl')
const WORDS = ['--template', '{text} It was']

beforeAll(() => prepare(home))
afterAll(() => rmSync(home, { recursive: true, force: true }))

/** What goes wrong, the command line, and what its sentence must contain, in this order. */
type Case = [what: string, args: () => readonly string[], ...says: string[]]

/** The command must fail with one sentence and without a result. */
const refusedWith =
  (
    code: 1 | 2,
    run: (...call: Parameters<typeof here>) => Promise<Ended> = here,
    env: Readonly<Record<string, string>> = {},
  ) =>
  async (what: string, args: () => readonly string[], ...says: string[]): Promise<void> => {
    const [command, ...rest] = args()
    const ended = await run([command!, '--quiet', ...rest], { env })
    expect({ code: ended.code, stdout: ended.stdout }).toEqual({ code, stdout: '' })
    // Dawn writes warnings and their places of its own to the process's stderr.
    const stderr = ended.stderr.replace(/^Warning: .*\n(?: +at .*\n)*\n?/gm, '')
    // One line, one sentence: no stack, no second line.
    expect(stderr).toMatch(/^zo2: [^\n]+\n$/)
    expect(stderr).not.toContain('internal error')
    let from = 0
    for (const part of says) {
      const found = stderr.indexOf(part, from)
      expect(found, `${what}: "${part}" in ${stderr}`).toBeGreaterThanOrEqual(0)
      from = found + part.length
    }
  }

let outs = 0
/** Each call has an output folder of its own. */
const tune = (model: string, ...more: string[]) => [
  ...['finetune', model, '--train', at('train.txt'), '--steps', '1', '--batch-size', '2'],
  ...['--device', 'cpu', '--threads', '1', '--max-length', '16'],
  ...['--output-dir', at(`out-${++outs}`), ...more],
]

type Edit = (bytes: Buffer) => Uint8Array | string | null

/** A copy of the folder's files without `.bin`; `edits` change files, null leaves one out. */
function model(name: string, edits: Readonly<Record<string, Edit>>, source = TINY): string {
  mkdirSync(at(name))
  for (const file of readdirSync(source)) {
    if (file.endsWith('.bin') && !edits[file]) continue
    const edit = edits[file]
    if (!edit) {
      copyFileSync(join(source, file), join(at(name), file))
      continue
    }
    const made = edit(readFileSync(join(source, file)))
    if (made !== null) writeFileSync(join(at(name), file), made)
  }
  return at(name)
}

const config =
  (change: object): Edit =>
  (bytes) =>
    JSON.stringify({ ...(JSON.parse(bytes.toString()) as object), ...change })

/** Changes the JSON header of a safetensors file, with its length. */
const header =
  (change: (text: string) => string): Edit =>
  (bytes) => {
    const length = Number(bytes.readBigUInt64LE())
    const text = Buffer.from(change(bytes.subarray(8, 8 + length).toString()))
    const size = Buffer.alloc(8)
    size.writeBigUInt64LE(BigInt(text.length))
    return Buffer.concat([size, text, bytes.subarray(8 + length)])
  }

const data = (name: string, text: string) => {
  writeFileSync(at(name), text)
  return at(name)
}

describe('a bad model is one sentence', () => {
  const offline = { HF_HUB_OFFLINE: '1', HF_HOME: at('empty-hub') }
  const id = 'facebook/opt-125m'
  it.each<Case>([['offline', () => ['inspect', id], 'HF_HUB_OFFLINE', id]])(
    '%s',
    refusedWith(1, here, offline),
  )

  const none = () => null
  it.each<Case>([
    ['no folder', () => ['inspect', at('none')], 'none', 'neither', 'folder'],
    [
      'empty folder',
      () => ['inspect', model('bare', { 'config.json': none, 'model.safetensors': none })],
      'bare',
    ],
    [
      'unknown model_type',
      () => tune(model('mamba', { 'config.json': config({ model_type: 'mamba' }) })),
      'config.json',
      '"mamba"',
      'supported: gemma, gemma2',
    ],
    [
      'config.json that is no JSON',
      () => tune(model('nojson', { 'config.json': () => '{"a":' })),
      'nojson/config.json',
      'not valid JSON',
    ],
    [
      'shapes other than config.json says',
      () => tune(model('wide', { 'config.json': config({ ffn_dim: 99 }) })),
      'wide',
      'has shape [',
      'config.json means [',
    ],
    [
      'more layers in config.json than in the file',
      () => tune(model('deep', { 'config.json': config({ num_hidden_layers: 99 }) })),
      'deep',
      'no tensor',
      'config.json does not fit',
    ],
    [
      'no tokenizer',
      () => tune(model('mute', { 'vocab.json': none, 'merges.txt': none })),
      'no tokenizer in',
      'mute',
    ],
    ['a tokenizer that knows more tokens than it', () => tune(smallModel()), 'vocab'],
  ])('%s', refusedWith(1))

  /** A model of 97 tokens with the tokenizer of another. */
  function smallModel(): string {
    const small = model('small', {}, join(LAYOUTS, 'pre-norm-tied'))
    for (const file of ['vocab.json', 'merges.txt', 'tokenizer_config.json']) {
      copyFileSync(join(TINY, file), join(small, file))
    }
    return small
  }
})

describe('broken weights are one sentence', () => {
  const weights = (name: string, edit: Edit) => () =>
    tune(model(name, { 'model.safetensors': edit }))
  const longer = (text: string) =>
    text.replace(/"data_offsets":\[0,(\d+)\]/, '"data_offsets":[0,1$1]')
  const missing = header((text) => text.replace(/fc1\.weight"/, 'fc9.weight"'))
  const bin = (name: string, edit: Edit) => () => {
    const edits = { 'model.safetensors': () => null, 'pytorch_model.bin': edit }
    return ['inspect', model(name, edits, join(LAYOUTS, 'pre-norm-tied'))]
  }
  it.each<Case>([
    ['cut', weights('cut', (b) => b.subarray(0, b.length - 5)), 'cut/model.safetensors'],
    ['empty', weights('void', () => ''), 'void/model.safetensors'],
    ['noise', weights('noise', () => Buffer.alloc(5000, 0xab)), 'noise/model.safetensors'],
    ['lie', weights('lie', header(longer)), 'lie/model.safetensors'],
    ['lfs', weights('lfs', () => 'version https://git-lfs.github.com/spec/v1\n'), 'lfs/', 'LFS'],
    ['missing tensor', weights('gap', missing), 'gap', 'no tensor', 'fc1.weight'],
    ['cut .bin', bin('cutbin', (b) => b.subarray(0, b.length / 2)), 'cutbin/pytorch_model.bin'],
    ['noisy .bin', bin('noisebin', () => Buffer.alloc(5000, 0xab)), 'noisebin/pytorch_model.bin'],
    [
      'old .bin',
      bin('pickle', () => Buffer.from('80027d71002e', 'hex')),
      'pickle/pytorch_model.bin',
    ],
  ])('%s', refusedWith(1))
})

describe('bad data', () => {
  const train = (path: () => string, ...more: string[]) => {
    return () => tune(TINY, '--train', path(), ...more)
  }
  const text = (name: string, content: string, ...more: string[]) =>
    train(() => data(name, content), ...more)
  const dev = (...more: string[]) => train(() => DEV, ...more)
  it.each<Case>([
    ['no file', train(() => at('none.txt')), 'none.txt', 'ENOENT'],
    ['folder', train(() => home), home],
    ['unknown kind', text('a.doc', 'a'), 'a.doc', '.jsonl'],
    ['empty file', text('empty.txt', ''), 'empty.txt', 'no'],
    ['empty jsonl', text('empty.jsonl', '\n'), 'empty.jsonl', 'no records'],
    [
      'no JSON',
      text('broken.jsonl', '{"text":"a b c d"}\n{"text":\n'),
      'broken.jsonl:2',
      'not valid JSON',
    ],
    ['columns', text('c.jsonl', '{"a":1}\n'), 'c.jsonl', 'a', '--text-column'],
    ['template', dev('--template', '{nosuch}', '--label-words', 'a,b'), '{nosuch}', 'text'],
    ['half', dev(...WORDS), '--template needs --label-words'],
    ['one word', dev(...WORDS, '--label-words', 'a'), '--label-words'],
    ['no word', dev(...WORDS, '--label-words', 'good,'), 'label'],
    [
      'class',
      text('strange.jsonl', '{"text":"a b c d","label":7}\n', ...WORDS, '--label-words', 'a,b'),
      'strange.jsonl:1',
      '7',
    ],
    ['too long', () => tune(TINY, '--max-length', '99999'), '--max-length 99999', 'positions'],
  ])('is one sentence naming file and line: %s', refusedWith(1))

  it('is noticed, not refused, where it only needs a word', async () => {
    const args = ['eval', TINY, '--eval-file', DEV, '--eval-samples', '2', '--device', 'cpu']
    const words = ['--label-words', 'incomprehensibly,great']
    const { code, stderr } = await here([...args, ...WORDS, ...words])
    expect(code).toBe(0)
    expect(stderr).toMatch(/incomprehensibly.* tokens/)
  })
})

describe('bad usage', () => {
  /** A training run on the tiny model with these flags. */
  const tiny = (...more: string[]) => {
    return () => tune(TINY, ...more)
  }
  const method = (name: string, ...more: string[]) => tiny('--method', name, ...more)
  it.each<Case>([
    ['unknown flag', tiny('--stepz', '3'), "'--stepz'", '--steps'],
    ['no value', () => ['eval', TINY, '--eval-file'], '--eval-file'],
    ['word for a number', tiny('--lr', 'abc'), '--lr', 'a number', '"abc"'],
    ['blank number', tiny('--steps='), '--steps', 'whole number', '""'],
    ['fraction', tiny('--batch_size', '1.5'), '--batch-size', 'whole number', '1.5'],
    ['negative', tiny('--eps', '-1'), '--eps', 'above 0', '-1'],
    ['infinite', tiny('--lr', '1e999'), '--lr', 'number', '1e999'],
    ['rank 0', method('lozo', '--rank', '0'), '--rank', 'at least 1', '"0"'],
    ['rank of MeZO', tiny('--rank', '4'), '--rank', 'lozo', 'mezo-sgd'],
    ['window 0', method('kronzo', '--window', '0'), '--window', 'at least 1'],
    ['beta 1', method('lozo-m', '--momentum', '1'), '--momentum', 'below 1'],
    ['momentum of lozo', method('lozo', '--momentum', '0.5'), 'lozo-m'],
    ['K of lozo', method('lozo', '--replay-window', '4'), 'mezo-sgd'],
    ['one-sided, one probe', tiny('--estimator', 'one-sided'), '--directions', 'at least 2'],
    ['factor limit', method('kronzo', '--kron-max-factor', '8'), 'fixed_factor'],
    ['strategy', method('kronzo', '--kron-strategy', 'best'), 'approx_square'],
    ['no layers', tiny('--layers-per-step', '0'), '--layers-per-step', 'at least 1'],
    ['lora of lozo', method('lozo', '--lora-rank', '2'), '--lora-rank', 'mezo-sgd'],
    ['lora without rank', tiny('--lora-alpha', '2'), '--lora-alpha', '--lora-rank'],
    ['byte size', tiny('--memory', '5 apples'), '--memory', '5 apples', '256MiB'],
    ['choice', tiny('--noise', 'pink'), '--noise', 'gaussian', 'rademacher', 'pink'],
    ['padding', tiny('--padding', 'left'), '--padding', 'without padding'],
    ['method', method('adam'), '--method', 'mezo-sgd', 'adam'],
    ['adapter on cpu', tiny('--adapter', 'x'), '--adapter'],
    ['no output', () => tune(TINY).slice(0, -2), '--output-dir is required'],
    [
      'no data',
      () => ['finetune', TINY, '--output-dir', at('out')],
      '--train (or --task) is required',
    ],
    ['dtype', () => ['convert', TINY, at('o'), '--to', 'int8'], '--to', 'float16', 'int8'],
    ['top-k', () => ['generate', TINY, '--prompt', 'a', '--top-k', '1.5'], '--top-k', '1.5'],
  ])('is one sentence, exit code 2: %s', refusedWith(2))

  it.each<Case>([
    [
      'nothing trains',
      tiny('--train-only', 'nothing*'),
      '--train-only nothing*',
      'no tensor of this model has such a name',
    ],
    ['all frozen', tiny('--freeze', '*'), '--freeze *', 'no tensor'],
    ['too many layers', tiny('--layers-per-step', '4'), '--layers-per-step 4', '3 layers'],
    ['no such module', tiny('--lora-rank', '2', '--lora-targets', 'c_attn'), 'c_attn', 'q_proj'],
  ])('that only the model shows is one sentence, exit code 1: %s', refusedWith(1))
})

describe('a bad machine', () => {
  const gpu = (...more: string[]) => {
    return () => [...tune(TINY), '--device', 'webgpu', ...more]
  }
  const noDriver = { VK_DRIVER_FILES: '/nonexistent', VK_ICD_FILENAMES: '/nonexistent' }
  it.each<Case>([['name', gpu('--adapter', 'nosuch'), 'nosuch']])(
    'has no such adapter: one sentence with what to do',
    refusedWith(1, cli),
  )
  it.each<Case>([['none', gpu(), 'adapter']])(
    'has no adapter at all: one sentence with what to do',
    refusedWith(1, cli, noDriver),
  )

  it.each([
    ['as it comes', []],
    ['of longer texts', ['--batch_size', '5', '--max-length', '33', '--threads', '2']],
  ])(
    'has too little memory for a run %s: the sentence names the smallest that works, and it works',
    async (_, more) => {
      const { code, stderr } = await here([...tune(TINY, ...more), '--memory', '1MiB', '--quiet'])
      expect(code).toBe(1)
      const smallest = /^zo2: --memory 1.00 MiB is too small .*: the smallest .* is (.* MiB)\n$/
      const typed = smallest.exec(stderr)?.[1]
      expect(typed, stderr).toBeDefined()
      for (const size of [typed!, typed!.replace(' ', '')]) {
        const ended = await here([...tune(TINY, ...more), '--memory', size, '--quiet'])
        expect(ended).toMatchObject({ code: 0, stderr: '' })
      }
    },
  )
})
