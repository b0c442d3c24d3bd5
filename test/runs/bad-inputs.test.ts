// What bad models, data and flags get: one sentence on stderr that names the thing, and an exit code.
// What bad things do to a run that has begun is in bad-runs.test.ts.

import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cli, LAYOUTS, makeFolder, SENTIMENT, TINY } from '../helpers/cli.ts'
import { prepare, twoAtATime } from '../helpers/crash.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
const DEV = join(SENTIMENT, 'dev.jsonl')
const WORDS = ['--template', '{text} It was']

beforeAll(() => prepare(home))
afterAll(() => rmSync(home, { recursive: true, force: true }))

interface Case {
  readonly what: string
  readonly args: readonly string[]
  /** What the sentence must contain, in this order. */
  readonly says: readonly string[]
  readonly code?: 1 | 2
  readonly env?: Readonly<Record<string, string>>
}

/** Runs all, two at a time; each must fail with one sentence and without a result. */
async function refused(cases: readonly Case[]): Promise<void> {
  await twoAtATime(cases.length, async (i) => {
    const { what, args, says, code = 1, env = {} } = cases[i]!
    const ended = await cli([args[0]!, '--quiet', ...args.slice(1)], { env })
    expect({ what, code: ended.code, stdout: ended.stdout }).toEqual({ what, code, stdout: '' })
    // Dawn writes warnings and their places of its own to the process's stderr.
    const stderr = ended.stderr.replace(/^Warning: .*\n(?: +at .*\n)*\n?/gm, '')
    // One line, one sentence: no stack, no second line.
    expect(stderr, what).toMatch(/^zo2: [^\n]+\n$/)
    expect(stderr, what).not.toContain('internal error')
    let from = 0
    for (const part of says) {
      const found = stderr.indexOf(part, from)
      expect(found, `${what}: "${part}" in ${stderr}`).toBeGreaterThanOrEqual(0)
      from = found + part.length
    }
  })
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

describe('a bad model', () => {
  it('is one sentence: where it is and what it says it is', async () => {
    const offline = { HF_HUB_OFFLINE: '1', HF_HOME: at('empty-hub') }
    const id = 'facebook/opt-125m'
    const noTokenizer = { 'vocab.json': () => null, 'merges.txt': () => null }
    await refused([
      { what: 'no folder', args: ['inspect', at('none')], says: ['none', 'neither', 'folder'] },
      { what: 'offline', args: ['inspect', id], env: offline, says: ['HF_HUB_OFFLINE', id] },
      {
        what: 'empty folder',
        args: [
          'inspect',
          model('bare', { 'config.json': () => null, 'model.safetensors': () => null }),
        ],
        says: ['bare'],
      },
      {
        what: 'unknown model_type',
        args: tune(model('llama', { 'config.json': config({ model_type: 'llama' }) })),
        says: ['config.json', '"llama"', 'supported: gpt2, nanogpt, opt'],
      },
      {
        what: 'config.json that is no JSON',
        args: tune(model('nojson', { 'config.json': () => '{"a":' })),
        says: ['nojson/config.json', 'not valid JSON'],
      },
      {
        what: 'shapes other than config.json says',
        args: tune(model('wide', { 'config.json': config({ ffn_dim: 99 }) })),
        says: ['wide', 'has shape [', 'config.json means ['],
      },
      {
        what: 'more layers in config.json than in the file',
        args: tune(model('deep', { 'config.json': config({ num_hidden_layers: 99 }) })),
        says: ['deep', 'no tensor', 'config.json does not fit'],
      },
      {
        what: 'no tokenizer',
        args: tune(model('mute', noTokenizer)),
        says: ['no tokenizer in', 'mute'],
      },
    ])
  })

  it('is one sentence for every way in which its weights are broken', async () => {
    const weights = (name: string, edit: Edit) => tune(model(name, { 'model.safetensors': edit }))
    const longer = (text: string) =>
      text.replace(/"data_offsets":\[0,(\d+)\]/, '"data_offsets":[0,1$1]')
    const missing = header((text) => text.replace(/fc1\.weight"/, 'fc9.weight"'))
    const bin = (name: string, edit: Edit) => [
      'inspect',
      model(
        name,
        { 'model.safetensors': () => null, 'pytorch_model.bin': edit },
        join(LAYOUTS, 'pre-norm-tied'),
      ),
    ]
    const cases: Case[] = [
      {
        what: 'cut',
        args: weights('cut', (b) => b.subarray(0, b.length - 5)),
        says: ['cut/model.safetensors'],
      },
      { what: 'empty', args: weights('void', () => ''), says: ['void/model.safetensors'] },
      {
        what: 'noise',
        args: weights('noise', () => Buffer.alloc(5000, 0xab)),
        says: ['noise/model.safetensors'],
      },
      { what: 'lie', args: weights('lie', header(longer)), says: ['lie/model.safetensors'] },
      {
        what: 'lfs',
        args: weights('lfs', () => 'version https://git-lfs.github.com/spec/v1\n'),
        says: ['lfs/', 'LFS'],
      },
      {
        what: 'missing tensor',
        args: weights('gap', missing),
        says: ['gap', 'no tensor', 'fc1.weight'],
      },
      {
        what: 'cut .bin',
        args: bin('cutbin', (b) => b.subarray(0, b.length / 2)),
        says: ['cutbin/pytorch_model.bin'],
      },
      {
        what: 'noisy .bin',
        args: bin('noisebin', () => Buffer.alloc(5000, 0xab)),
        says: ['noisebin/pytorch_model.bin'],
      },
      {
        what: 'old .bin',
        args: bin('pickle', () => Buffer.from('80027d71002e', 'hex')),
        says: ['pickle/pytorch_model.bin'],
      },
    ]
    await refused(cases)
  })

  it('is one sentence when its tokenizer knows more tokens than it', async () => {
    const tokens = Object.fromEntries(
      ['vocab.json', 'merges.txt', 'tokenizer_config.json'].map((file) => [
        file,
        readFileSync(join(TINY, file)),
      ]),
    )
    const small = model('small', {}, join(LAYOUTS, 'pre-norm-tied'))
    for (const [file, bytes] of Object.entries(tokens)) writeFileSync(join(small, file), bytes)
    await refused([{ what: 'vocabulary', args: tune(small), says: ['vocab'] }])
  })
})

describe('bad data', () => {
  it('is one sentence naming file and line', async () => {
    const train = (path: string, ...more: string[]) => tune(TINY, '--train', path, ...more)
    const broken = data('broken.jsonl', '{"text":"a b c d"}\n{"text":\n')
    const strange = data('strange.jsonl', '{"text":"a b c d","label":7}\n')
    await refused([
      { what: 'no file', args: train(at('none.txt')), says: ['none.txt', 'ENOENT'] },
      { what: 'folder', args: train(home), says: [home] },
      { what: 'unknown kind', args: train(data('a.doc', 'a')), says: ['a.doc', '.jsonl'] },
      { what: 'empty file', args: train(data('empty.txt', '')), says: ['empty.txt', 'no'] },
      {
        what: 'empty jsonl',
        args: train(data('empty.jsonl', '\n')),
        says: ['empty.jsonl', 'no records'],
      },
      { what: 'no JSON', args: train(broken), says: ['broken.jsonl:2', 'not valid JSON'] },
      {
        what: 'columns',
        args: train(data('c.jsonl', '{"a":1}\n')),
        says: ['c.jsonl', 'a', '--text-column'],
      },
      {
        what: 'template',
        args: train(DEV, '--template', '{nosuch}', '--label-words', 'a,b'),
        says: ['{nosuch}', 'text'],
      },
      { what: 'half', args: train(DEV, ...WORDS), says: ['--template needs --label-words'] },
      {
        what: 'one word',
        args: train(DEV, ...WORDS, '--label-words', 'a'),
        says: ['--label-words'],
      },
      { what: 'no word', args: train(DEV, ...WORDS, '--label-words', 'good,'), says: ['label'] },
      {
        what: 'class',
        args: train(strange, ...WORDS, '--label-words', 'a,b'),
        says: ['strange.jsonl:1', '7'],
      },
      {
        what: 'too long',
        args: tune(TINY, '--max-length', '99999'),
        says: ['--max-length 99999', 'positions'],
      },
    ])
  })

  it('is noticed, not refused, where it only needs a word', async () => {
    const args = ['eval', TINY, '--eval-file', DEV, '--eval-samples', '2', '--device', 'cpu']
    const words = ['--label-words', 'incomprehensibly,great']
    const { code, stderr } = await cli([...args, ...WORDS, ...words])
    expect(code).toBe(0)
    expect(stderr).toMatch(/incomprehensibly.* tokens/)
  })
})

describe('bad usage', () => {
  it('is one sentence, exit code 2', async () => {
    const usage = (what: string, args: readonly string[], ...says: string[]): Case => {
      return { what, args, says, code: 2 }
    }
    await refused([
      usage('unknown flag', tune(TINY, '--stepz', '3'), "'--stepz'", '--steps'),
      usage('no value', ['eval', TINY, '--eval-file'], '--eval-file'),
      usage('word for a number', tune(TINY, '--lr', 'abc'), '--lr', 'a number', '"abc"'),
      usage('blank number', tune(TINY, '--steps='), '--steps', 'whole number', '""'),
      usage('fraction', tune(TINY, '--batch_size', '1.5'), '--batch-size', 'whole number', '1.5'),
      usage('negative', tune(TINY, '--eps', '-1'), '--eps', 'above 0', '-1'),
      usage('infinite', tune(TINY, '--lr', '1e999'), '--lr', 'number', '1e999'),
      usage('rank 0', tune(TINY, '--method', 'lozo', '--rank', '0'), '--rank', 'at least 1', '"0"'),
      usage('rank of MeZO', tune(TINY, '--rank', '4'), '--rank', 'lozo', 'mezo-sgd'),
      usage(
        'window 0',
        tune(TINY, '--method', 'kronzo', '--window', '0'),
        '--window',
        'at least 1',
      ),
      usage('beta 1', tune(TINY, '--method', 'lozo-m', '--momentum', '1'), '--momentum', 'below 1'),
      usage('momentum of lozo', tune(TINY, '--method', 'lozo', '--momentum', '0.5'), 'lozo-m'),
      usage('K of lozo', tune(TINY, '--method', 'lozo', '--replay-window', '4'), 'mezo-sgd'),
      usage(
        'one-sided, one probe',
        tune(TINY, '--estimator', 'one-sided'),
        '--probes',
        'at least 2',
      ),
      usage(
        'factor limit',
        tune(TINY, '--method', 'kronzo', '--kron-max-factor', '8'),
        'fixed_factor',
      ),
      usage(
        'strategy',
        tune(TINY, '--method', 'kronzo', '--kron-strategy', 'best'),
        'approx_square',
      ),
      usage('no layers', tune(TINY, '--layers-per-step', '0'), '--layers-per-step', 'at least 1'),
      usage(
        'lora of lozo',
        tune(TINY, '--method', 'lozo', '--lora-rank', '2'),
        '--lora-rank',
        'mezo-sgd',
      ),
      usage('lora without rank', tune(TINY, '--lora-alpha', '2'), '--lora-alpha', '--lora-rank'),
      {
        what: 'nothing trains',
        args: tune(TINY, '--train-only', 'nothing*'),
        says: ['--train-only nothing*', 'no tensor of this model has such a name'],
      },
      { what: 'all frozen', args: tune(TINY, '--freeze', '*'), says: ['--freeze *', 'no tensor'] },
      {
        what: 'too many layers',
        args: tune(TINY, '--layers-per-step', '4'),
        says: ['--layers-per-step 4', '3 layers'],
      },
      {
        what: 'no such module',
        args: tune(TINY, '--lora-rank', '2', '--lora-targets', 'c_attn'),
        says: ['c_attn', 'q_proj'],
      },
      usage('byte size', tune(TINY, '--memory', '5 apples'), '--memory', '5 apples', '256MiB'),
      usage('choice', tune(TINY, '--padding', 'top'), '--padding', 'left', 'right', 'top'),
      usage('method', tune(TINY, '--method', 'adam'), '--method', 'mezo-sgd', 'adam'),
      usage('adapter on cpu', tune(TINY, '--adapter', 'x'), '--adapter'),
      usage('no output', tune(TINY).slice(0, -2), '--output-dir is required'),
      usage(
        'no data',
        ['finetune', TINY, '--output-dir', at('out')],
        '--train (or --task) is required',
      ),
      usage('dtype', ['convert', TINY, at('o'), '--to', 'int8'], '--to', 'float16', 'int8'),
      usage('top-k', ['generate', TINY, '--prompt', 'a', '--top-k', '1.5'], '--top-k', '1.5'),
    ])
  })
})

describe('a bad machine', () => {
  it('has no such adapter, or none at all: one sentence with what to do', async () => {
    const gpu = (...more: string[]) => [...tune(TINY), '--device', 'webgpu', ...more]
    const none = { VK_DRIVER_FILES: '/nonexistent', VK_ICD_FILENAMES: '/nonexistent' }
    await refused([
      { what: 'name', args: gpu('--adapter', 'nosuch'), says: ['nosuch'] },
      { what: 'none', args: gpu(), env: none, says: ['adapter'] },
    ])
  })

  it('has too little memory: the sentence names the smallest that works, and it works', async () => {
    for (const more of [[], ['--batch_size', '5', '--max-length', '33', '--threads', '2']]) {
      const { code, stderr } = await cli([...tune(TINY, ...more), '--memory', '1MiB', '--quiet'])
      expect(code).toBe(1)
      const smallest = /^zo2: --memory 1.00 MiB is too small .*: the smallest .* is (.* MiB)\n$/
      const typed = smallest.exec(stderr)?.[1]
      expect(typed, stderr).toBeDefined()
      for (const size of [typed!, typed!.replace(' ', '')]) {
        const ended = await cli([...tune(TINY, ...more), '--memory', size, '--quiet'])
        expect(ended).toMatchObject({ code: 0, stderr: '' })
      }
    }
  })
})
