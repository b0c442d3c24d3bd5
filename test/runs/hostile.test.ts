// Odd and hostile inputs to the command line, within this process: values of options, paths that are no
// files, files of options, data, folders of models and of runs, hubs that answer nonsense. Each gets one
// sentence and loses nothing. Programs' arguments are in hostile-api.test.ts.
// Alone: npx vitest run test/runs/hostile.test.ts

import { execFileSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { resolveModel } from '../../src/hub/resolve.ts'
import type { UserError } from '../../src/util/errors.ts'
import { here, LAYOUTS, makeFolder, ROOT, TINY } from '../helpers/cli.ts'
import { refusedHere } from '../helpers/refused.ts'

const home = makeFolder()
const at = (...names: string[]) => join(home, ...names)
const servers: Server[] = []
afterAll(() => {
  for (const server of servers) server.close().closeAllConnections()
  rmSync(home, { recursive: true, force: true })
})

const put = (name: string, content: string | Uint8Array) => {
  writeFileSync(at(name), content)
  return at(name)
}
const linked = (name: string, target: string) => {
  symlinkSync(target, at(name))
  return at(name)
}
const pipe = (name: string) => {
  execFileSync('mkfifo', [at(name)])
  return at(name)
}

const TEXT = 'To be, or not to be, that is the question: '.repeat(20)
beforeAll(() => {
  put('t.txt', TEXT)
})

const small = ['--batch-size', '2', '--max-length', '16', '--device', 'cpu', '--threads', '1']
/** Each call has an output folder of its own; options that are given replace the usual ones. */
let outs = 0
const tune = (...own: string[]) => {
  const usual = [...small, '--train', at('t.txt'), '--steps', '1', '--save-model', 'no']
  const all = [...usual, '--output-dir', at(`out-${++outs}`)]
  const kept = all.filter((word, i) => {
    const name = word.startsWith('--') ? word : all[i - 1]!
    return !own.some((other) => other.split('=')[0] === name)
  })
  return ['finetune', TINY, ...kept, ...own]
}
const generate = (...own: string[]) => [
  ...['generate', TINY, '--device', 'cpu', '--threads', '1', '--max-new-tokens', '1', ...own],
]

/** All files below a folder. */
const contents = (dir: string) =>
  Object.fromEntries(
    readdirSync(dir, { recursive: true, encoding: 'utf8' })
      .filter((name) => statSync(join(dir, name)).isFile())
      .map((name) => [name, readFileSync(join(dir, name)).toString('base64')]),
  )

describe('an option that does nothing in this call', () => {
  it.each([
    ['--train twice', tune('--train', 'a', '--train_file', 'b'), ['--train is given twice']],
    [
      '--top-k without sampling',
      generate('--prompt', 'a', '--top-k', '5'),
      ['--top-k', 'temperature'],
    ],
    [
      '--top-p without sampling',
      generate('--prompt', 'a', '--top-p', '0.5'),
      ['--top-p', 'temperature'],
    ],
    [
      '--top-k with beams',
      generate('--prompt', 'a', '--top-k', '5', '--num-beams', '2'),
      ['--num-beams', '--top-k', 'does not sample'],
    ],
    [
      '--eval-steps without data',
      tune('--eval-steps', '2'),
      ['--eval-steps needs --eval-file or --task'],
    ],
    ['--num-eval without a task', tune('--num-eval', '5'), ['--num-eval needs --task']],
    [
      '--train-set-seed without a task',
      tune('--train-set-seed', '5'),
      ['--train-set-seed needs --task'],
    ],
    [
      '--only-train-option without a task',
      tune('--only-train-option', 'no'),
      ['--only-train-option needs --task'],
    ],
    [
      '--max-new-tokens without generated answers',
      tune('--max-new-tokens', '5'),
      ['--max-new-tokens', 'squad, drop'],
    ],
    [
      '--label-column without label words',
      tune('--label-column', 'y'),
      ['--label-column needs --label-words'],
    ],
    [
      '--min-lr at a constant rate',
      tune('--min-lr', '1e-7'),
      ['--min-lr', '--lr-schedule linear or cosine'],
    ],
    [
      '--lr-decay-steps at a constant rate',
      tune('--lr-decay-steps', '5'),
      ['--lr-decay-steps', '--lr-schedule'],
    ],
    [
      '--save-total-limit without saving',
      tune('--save-total-limit', '3'),
      ['--save-total-limit needs --save-steps or --save-strategy'],
    ],
    [
      '--save-steps beside --save-strategy no',
      tune('--save-steps', '3', '--save-strategy', 'no'),
      ['--save-strategy', '--save-steps'],
    ],
    [
      '--eval-steps beside --eval-strategy epoch',
      tune('--eval-file', 'x', '--eval-steps', '3', '--eval-strategy', 'epoch'),
      ['--eval-strategy', '--eval-steps'],
    ],
    [
      '--dtype without a model',
      tune('--dtype', 'float16'),
      ['--dtype', 'model/', '--save-model yes'],
    ],
    [
      '--dtype of a prefix',
      tune('--dtype', 'float16', '--save-model', 'yes', '--prefix-tokens', '2'),
      ['--prefix-tokens', '--dtype'],
    ],
    ['--blas of no library', tune('--blas', '/nowhere/b.so'), ['--blas /nowhere/b.so', 'loaded']],
    ['--blas of no BLAS', tune('--blas', 'package.json'), ['--blas package.json', 'loaded']],
    ['--transfer on the cpu', tune('--transfer', 'ring'), ['--transfer', 'WebGPU']],
    [
      '--replay-window with LoRA',
      tune('--replay-window', '3', '--lora-rank', '2'),
      ['--lora-rank', '--replay-window', 'folds nothing'],
    ],
    [
      '--kron-max-factor of another strategy',
      tune('--method', 'kronzo', '--kron-max-factor', '5'),
      ['--kron-max-factor', 'fixed_factor'],
    ],
    [
      '--out-dir of another model',
      ['sample', '--init-from', TINY, '--out-dir', 'x'],
      ['--output-dir', '--init-from resume'],
    ],
    [
      '--icl-sfc without demonstrations',
      ['eval', TINY, '--task', 'sst2', '--icl-sfc'],
      ['--icl-sfc needs --num-train'],
    ],
  ] as [string, string[], string[]][])('%s is refused', async (_, args, says) => {
    await refusedHere(args, { code: 2, says })
  })

  it('is a revision of a local folder, a glob beside one that matches, or a column that is not there', async () => {
    await refusedHere(tune('--revision', 'main'), { says: ['local folder', 'revision main'] })
    await refusedHere(tune('--freeze', '*embed*,*nosuch*'), { says: ['--freeze *nosuch*'] })
    const lora = ['--lora-rank', '2', '--freeze', '*fc1*']
    await refusedHere(tune(...lora), { says: ['--freeze *fc1*', '--lora-targets', 'q_proj'] })
    const pairs = put('pairs.jsonl', '{"prompt":"a b","completion":" c d"}\n')
    await refusedHere(tune('--train', pairs, '--text-column', 'texts'), {
      says: ['expected texts'],
    })
  })
})

describe('a surplus argument', () => {
  it('is named: the words of a template without quotes, and the value of a switch', async () => {
    const words = ['--template', '{text}', 'It', 'was', '--label-words', 'a,b']
    await refusedHere(tune(...words), { code: 2, says: ["'finetune'", '"It", "was"', 'quote'] })
    const best = ['--load_best_model_at_end', 'True', '--eval-file', 'x']
    await refusedHere(tune(...best), { code: 2, says: ['"True"', 'switch none'] })
    await refusedHere(['env', 'x'], { code: 2, says: ['expected 0 arguments', '"x"'] })
  })
})

describe('the best model by F1', () => {
  it('is chosen by the same evaluation as in a program', async () => {
    const data = ['--data-dir', join(ROOT, 'test/fixtures/tasks'), '--num-train', '1']
    const sizes = ['--num-dev', '1', '--num-eval', '0']
    const best = ['--load-best-model-at-end', '--metric-for-best-model', 'f1']
    const usual = tune('--max-length', '400', '--output-dir', at('squad'))
    const args = usual.filter((word, i) => ![word, usual[i - 1]].includes('--train'))
    const task = ['--task', 'squad', '--max-new-tokens', '2', ...data, ...sizes, ...best]
    const { code, stderr } = await here([...args, ...task])
    expect({ code, stderr }).toMatchObject({ code: 0 })
    expect(readFileSync(at('squad', 'evals.jsonl'), 'utf8')).toMatch(/"f1":/)
  })
})

describe('a value', () => {
  it.each([
    ['--lr=1e400'],
    ['--lr=\u0661'],
    ['--lr='],
    ['--lr=1,5'],
    ['--eps=1e-400'],
    ['--seed=9007199254740993'],
    ['--memory=-1GiB'],
    ['--threads=1000000'],
    ['--batch-size=1000000000000000'],
    ['--accumulate=1000000000000'],
    ['--directions=1000000000'],
    ['--method=__proto__'],
    ['--output-dir='],
  ])('%s is none', async (given) => {
    const [name, value] = given.split('=') as [string, string]
    const known = name === '--eps' ? ['--eps', 'above 0'] : [name]
    await refusedHere(tune(given), { code: 2, says: [...known, value] })
    expect(existsSync(at(`out-${outs}`))).toBe(false)
  })

  it('of LoRA or of epochs that no memory and no number can hold is refused', async () => {
    const endless = tune('--epochs', '1e300').filter(
      (word, i, all) => ![word, all[i - 1]].includes('--steps'),
    )
    await refusedHere(endless, { code: 2, says: ['--num-train-epochs 1e+300', 'more steps'] })
    await refusedHere(tune('--lora-rank', '1000000000'), { code: 2, says: ['--lora-rank'] })
  })

  it('that is longer than a line is cut in its sentence', async () => {
    const sentence = await refusedHere(['inspect', 'x'.repeat(5000)], { says: ['hub id'] })
    expect(sentence.length).toBeLessThan(400)
    const escaped = await refusedHere(['inspect', '\u001b[31m\n/x'], { says: ['\\u001b[31m\\n/x'] })
    expect(escaped).not.toContain('\u001b')
  })
})

describe('a file of options', () => {
  const bomb = Array.from({ length: 8 }, (_, i) => {
    const item = i === 0 ? 'x' : `*a${i - 1}`
    return `a${i}: &a${i} [${Array(9).fill(item).join(',')}]`
  }).join('\n')

  it.each([
    ['a bomb of aliases', 'bomb.yaml', bomb, ['bomb.yaml', 'not valid YAML']],
    [
      'nested 50,000 deep',
      'deep.json',
      `${'['.repeat(50_000)}${']'.repeat(50_000)}`,
      ['deep.json', '100 deep'],
    ],
    ['for __proto__', 'proto.json', '{"__proto__":{"lr":1}}', ['proto.json', '"__proto__"']],
    [
      'with numbers for label words',
      'words.yaml',
      'label_words: [1, 2]',
      ['label_words', 'texts', '[1,2]'],
    ],
    ['with a number for a switch', 'switch.yaml', 'resume: 1', ['resume', 'true or false', '1']],
    [
      'with half of a path',
      'nul.json',
      '{"scratch_dir":"a\\u0000b"}',
      ['scratch_dir', 'expected a path'],
    ],
    [
      'with an integer that no number holds',
      'big.toml',
      'seed = 9223372036854775807',
      ['big.toml'],
    ],
  ])('%s is refused', async (_, name, text, says) => {
    await refusedHere(['finetune', TINY, '--config', put(name, text)], { code: 2, says })
  })

  it('that is no file is not waited for', async () => {
    for (const path of [linked('zero.yaml', '/dev/zero'), pipe('pipe.yaml')]) {
      await refusedHere(['plan', TINY, '--config', path], {
        code: 2,
        says: [path, 'no regular file'],
      })
    }
  })
})

describe('data', () => {
  it.each([
    [
      'in UTF-16',
      'u16.jsonl',
      Buffer.from('\ufeff{"text":"a b"}\n', 'utf16le'),
      ['u16.jsonl', 'UTF-16'],
    ],
    [
      'with half a surrogate pair',
      'half.jsonl',
      '{"text":"a\\ud800b c"}\n',
      ['half.jsonl:1', 'surrogate'],
    ],
    ['of blank lines', 'blank.jsonl', '\n \n\t\n', ['blank.jsonl', 'no records']],
    [
      'of __proto__ alone',
      'proto.jsonl',
      '{"__proto__":{"text":"x y z"}}\n',
      ['__proto__', 'expected text'],
    ],
    [
      'whose columns change',
      'change.jsonl',
      '{"text":"a b"}\n{"tekst":"c"}\n',
      ['change.jsonl:2', 'tekst'],
    ],
    [
      'that begins as parquet',
      'x.parquet',
      Buffer.from('PAR1\xff\xff\xff\x7fPAR1', 'latin1'),
      ['x.parquet'],
    ],
    ['that claims to be Arrow', 'x.arrow', Buffer.alloc(100, 7), ['x.arrow']],
  ] as [string, string, string | Uint8Array, string[]][])(
    '%s is refused',
    async (_, name, text, says) => {
      await refusedHere(tune('--train', put(name, text)), { says })
      expect(existsSync(at(`out-${outs}`, 'config.json'))).toBe(false)
    },
  )

  it('with labels of several types, or of none, names the line', async () => {
    const words = ['--template', '{text} It was', '--label-words', 'bad,good']
    for (const [i, label] of ['true', '0.5', '1e400', 'null', '[1]', '-1'].entries()) {
      const file = put(
        `label-${i}.jsonl`,
        `{"text":"a","label":1}\n{"text":"b","label":${label}}\n`,
      )
      await refusedHere(tune('--train', file, ...words), { says: [`label-${i}.jsonl:2`, 'label'] })
    }
  })

  it('that is a pipe, a device, a loop or a folder is not waited for', async () => {
    mkdirSync(at('folder.jsonl'))
    const none = [pipe('pipe.jsonl'), linked('zero.txt', '/dev/zero'), at('folder.jsonl')]
    for (const path of none) {
      await refusedHere(tune('--train', path), { says: [path, 'regular file'] })
    }
    await refusedHere(tune('--train', linked('loop.jsonl', 'loop.jsonl')), { says: ['ELOOP'] })
    const start = ['sample', '--init-from', TINY, '--device', 'cpu', '--start']
    await refusedHere([...start, `FILE:${at('pipe.jsonl')}`], { says: ['no regular file'] })
  })

  it('that a byte order mark opens, or a name beyond ASCII, is read', async () => {
    const args = tune('--train', put('\u00fc \u65e5\u672c.jsonl', '\ufeff{"text":"a b c d"}\n'))
    expect((await here(args)).code).toBe(0)
  })

  it('is not overwritten by a trace', async () => {
    const own = small.slice(2) // eval has no batch size
    const evaluate = ['eval', TINY, ...own, '--eval-file', at('t.txt'), '--trace', at('t.txt')]
    await refusedHere(evaluate, { says: [`--trace ${at('t.txt')}`, 'no trace'] })
    expect(readFileSync(at('t.txt'), 'utf8')).toBe(TEXT)
  })
})

/** A copy of a model's folder, one file of which is another. */
function model(
  name: string,
  file: string,
  edit: (text: Buffer) => Uint8Array | string,
  from = TINY,
) {
  cpSync(from, at(name), { recursive: true })
  writeFileSync(at(name, file), edit(readFileSync(join(from, file))))
  return at(name)
}

describe("a model's folder", () => {
  it.each([
    ['num_attention_heads', '4'],
    ['num_attention_heads', 3],
    ['hidden_size', 0],
    ['vocab_size', 1e9],
    ['num_hidden_layers', 1e9],
    ['num_hidden_layers', -1],
    ['max_position_embeddings', 1e12],
    ['model_type', '__proto__'],
    ['activation_function', 'toString'],
    ['enable_bias', 'yes'],
  ])('with %s %s in config.json is refused before anything is made', async (key, value) => {
    const dir = model(`config-${key}-${String(value)}`, 'config.json', (text) =>
      JSON.stringify({ ...(JSON.parse(text.toString()) as object), [key]: value }),
    )
    const shown = key === 'vocab_size' ? 'config.json' : key
    await refusedHere(['inspect', dir], { says: [shown] }).catch(() =>
      refusedHere(['finetune', dir, ...tune().slice(2)], { says: [shown] }),
    )
  })

  it.each([
    ['another folder', '../model.safetensors'],
    ['the root', '/etc/passwd'],
    ['a folder of Windows', '..\\model.safetensors'],
    ['a file that is not there', 'none.safetensors'],
    ['no text', 5],
  ])('whose index names %s is refused', async (what, shard) => {
    const index = 'model.safetensors.index.json'
    const edit = (text: Buffer) => {
      const { weight_map: map } = JSON.parse(text.toString()) as { weight_map: object }
      const names = Object.keys(map).map((name) => [name, shard])
      return JSON.stringify({ weight_map: Object.fromEntries(names) as object })
    }
    const dir = model(`index of ${what}`, index, edit, join(LAYOUTS, 'sharded-safetensors'))
    await refusedHere(['inspect', dir], {
      says: [typeof shard === 'number' ? 'found 5' : 'safetensors'],
    })
  })

  it('whose merges go round, or whose vocabulary has holes, is refused', async () => {
    const cyclic = model('cyclic', 'merges.txt', () => '#version: 0.2\na b\nb a\nab a\n')
    await refusedHere(['finetune', cyclic, ...tune().slice(2)], { says: ['merges.txt', '"aba"'] })
    const holes = model('holes', 'vocab.json', (text) =>
      text.toString().replace(/\d+\}\s*$/, '1000000000}'),
    )
    await refusedHere(['finetune', holes, ...tune().slice(2)], {
      says: ['vocab.json', '1000000000'],
    })
  })

  it('whose vocabulary is a pipe is not waited for', async () => {
    cpSync(TINY, at('piped'), { recursive: true })
    rmSync(at('piped', 'vocab.json'))
    pipe('piped/vocab.json')
    await refusedHere(['finetune', at('piped'), ...tune().slice(2)], {
      says: ['vocab.json', 'no regular file'],
    })
  })

  it('is no place for a run, nor for its own copy, and keeps its files', async () => {
    cpSync(TINY, at('own'), { recursive: true })
    const before = contents(at('own'))
    await refusedHere(tune('--output-dir', at('own')), {
      says: ['config.json', 'not the record of a run'],
    })
    await refusedHere(['convert', at('own'), at('own')], { says: ['own', 'empty folder'] })
    expect(contents(at('own'))).toEqual(before)
  })
})

describe("a run's folder", () => {
  beforeAll(async () => {
    expect((await here(tune('--output-dir', at('run'), '--steps', '3'))).code).toBe(0)
  })

  const journal = (edit: (lines: string[]) => string) => (dir: string) => {
    const path = join(dir, 'journal.jsonl')
    writeFileSync(path, edit(readFileSync(path, 'utf8').trimEnd().split('\n')))
  }
  const record = (change: object) => (dir: string) => {
    const path = join(dir, 'config.json')
    const { config, ...own } = JSON.parse(readFileSync(path, 'utf8')) as { config: object }
    writeFileSync(
      path,
      JSON.stringify({
        ...own,
        ...change,
        config: { ...config, ...(change as { config?: object }).config },
      }),
    )
  }
  it.each<[string, (dir: string) => void, string[]]>([
    ['a garbled line', journal(([a, b, c]) => `${a}\nx${b}\n${c}\n`), ['line 2 is damaged']],
    [
      'a line of the future',
      journal(([a, b, c]) => `${a}\n${b!.replace('}', ',"new":1}')}\n${c}\n`),
      ['line 2'],
    ],
    ['a step left out', journal(([a, , c]) => `${a}\n${c}\n`), ['line 2', 'step 1']],
    ['a step twice', journal(([a, b]) => `${a}\n${a}\n${b}\n`), ['line 2', 'step 1']],
    [
      'a rate that no number holds',
      journal(([a, b]) => `${a!.replace(/"lr":[^,]*/, '"lr":1e400')}\n${b}\n`),
      ['line 1'],
    ],
    ['50,000 brackets', journal(() => `${'['.repeat(50_000)}\n`), ['line 1']],
    ['an option of the future', record({ config: { future: 1 } }), ['config.json', '"future"']],
    ['an option that is none', record({ config: { lr: 'x' } }), ['config.json', 'lr', '"x"']],
    ['another fingerprint', record({ fingerprint: '0' }), ['other weights']],
    ['a folder as its lock', (dir) => mkdirSync(join(dir, 'run.lock')), ['run.lock', 'folder']],
  ])('with %s is not gone on with, and nothing in it changes', async (what, spoil, says) => {
    const dir = at(`run with ${what}`)
    cpSync(at('run'), dir, { recursive: true })
    spoil(dir)
    const before = contents(dir)
    const code = what.startsWith('an option') ? 2 : 1
    await refusedHere(tune('--output-dir', dir, '--steps', '4', '--resume'), { code, says })
    expect(contents(dir)).toEqual(before)
  })

  it('whose last line is torn goes on from the line before', async () => {
    cpSync(at('run'), at('torn'), { recursive: true })
    journal(([a, b, c]) => `${a}\n${b}\n${c!.slice(0, 20)}`)(at('torn'))
    const args = tune('--output-dir', at('torn'), '--steps', '3', '--resume')
    expect((await here(args)).code).toBe(0)
    const lines = (dir: string) => readFileSync(at(dir, 'journal.jsonl'))
    expect(lines('torn').equals(lines('run'))).toBe(true)
  })

  it('keeps its records where a report or a trace is to be put', async () => {
    const before = contents(at('run'))
    const metrics = at('run', 'metrics.jsonl')
    await refusedHere(['report', at('run'), '-o', metrics], { says: ['no HTML page'] })
    await refusedHere(['report', at('run'), '-o', '/dev/zero'], { says: ['/dev/zero'] })
    await refusedHere(generate('--prompt', 'a', '--trace', metrics), { says: ['no trace'] })
    expect(contents(at('run'))).toEqual(before)
  })
})

describe('a hub', () => {
  const sha = 'a'.repeat(40)
  type Answer = (request: IncomingMessage, response: ServerResponse) => void
  const listing =
    (answer: Answer): Answer =>
    (request, response) =>
      request.url!.includes('/tree/')
        ? answer(request, response)
        : response.end(JSON.stringify({ id: 'own/name', sha }))
  const outside = [
    { type: 'file', path: '../../config.json', size: 3, oid: sha },
    { type: 'file', path: 'config.json', size: -5, oid: sha },
  ]
  /** By the model that is asked for. */
  const ANSWERS: Readonly<Record<string, readonly [answer: Answer, says: string]>> = {
    html: [(_, to) => to.end('<html>\n<b>log in</b>'), 'the reply is not that of a hub'],
    null: [(_, to) => to.end('null'), 'the reply is not that of a hub'],
    commit: [(_, to) => to.end('{"sha":"../../etc"}'), 'the reply names no commit'],
    loop: [(from, to) => to.writeHead(302, { location: from.url! }).end(), 'redirect'],
    circle: [
      listing((from, to) => {
        to.setHeader('link', `<http://${from.headers.host}${from.url}>; rel="next"`)
        to.end('[]')
      }),
      'leads round in a circle',
    ],
    outside: [listing((_, to) => to.end(JSON.stringify(outside))), 'has no config.json'],
  }

  it('that answers nonsense is not believed, and gets one sentence without its words', async () => {
    const server = createServer((request, response) => {
      const name = /own\/(\w+)/.exec(decodeURIComponent(request.url!))![1]!
      ANSWERS[name]![0](request, response)
    })
    servers.push(server)
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    vi.stubEnv('HF_ENDPOINT', `http://127.0.0.1:${port}`)
    const cacheDir = at('hub')
    const asked = Object.entries(ANSWERS).map(async ([name, [, says]]) => {
      const message = await resolveModel(`own/${name}`, { cacheDir }).then(
        () => 'taken',
        (error: UserError) => error.message,
      )
      expect(message, name).toContain(says)
      expect(message, name).not.toMatch(/html>|Cannot read|iterable|\n/)
    })
    await Promise.all(asked).finally(() => vi.unstubAllEnvs())
  })
})
