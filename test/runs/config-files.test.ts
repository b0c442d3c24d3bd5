// --config and `zo2 config`: three formats, all spellings, precedence, a run's own record, and bad files, each
// refused in one sentence.
// Alone: npx vitest run test/runs/config-files.test.ts

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { configYaml, readConfigFile } from '../../src/config/file.ts'
import { OPTIONS, parseConfig } from '../../src/config/options.ts'
import { flagName, type OptionSpec } from '../../src/config/spec.ts'
import { UserError } from '../../src/util/errors.ts'
import { here, hereJson, makeFolder, TINY } from '../helpers/cli.ts'
import { prepare } from '../helpers/crash.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
const file = (name: string, text: string) => {
  writeFileSync(at(name), text)
  return at(name)
}
const refused = (path: string) => {
  try {
    readConfigFile(path)
  } catch (error) {
    expect(error).toBeInstanceOf(UserError)
    expect((error as UserError).exitCode).toBe(2)
    expect((error as Error).message).toContain(path)
    expect((error as Error).message).not.toContain('\n')
    return (error as Error).message.slice(path.length + 2)
  }
  return 'taken'
}

beforeAll(() => prepare(home))
afterAll(() => rmSync(home, { recursive: true, force: true }))

describe('a file of options', () => {
  const values = {
    lr: 1e-4,
    maxLength: 32,
    labelWords: ['bad', 'good'],
    memory: 2 ** 28,
    adaptiveEps: true,
  }
  const texts = {
    'a.yaml':
      '# mine\nmodel: m\nlearning_rate: 1e-4\nmaxLength: 32\nlabel-words: [bad, good]\nmemory: 256MiB\nadaptive-eps: true\neval-file:\n',
    'a.yml':
      'model: m\nlr: 1.0e-4\nmax_length: "32"\nlabel_words: bad,good\nmemory: 268435456\nadaptiveEps: true\n',
    'a.toml':
      'model = "m"\nlr = 1e-4\nmax-length = 32\nlabelWords = ["bad", "good"]\nmemory = "256 MiB"\nadaptive_eps = true\n',
    'a.json':
      '\uFEFF{"model":"m","lr":"1e-4","max-length":32,"label-words":["bad","good"],"memory":268435456,"adaptive-eps":true,"freeze":null}',
  }
  for (const [name, text] of Object.entries(texts)) {
    it(`may be ${name}`, () => {
      expect(readConfigFile(file(name, text))).toEqual({ model: 'm', values })
    })
  }

  it('may name every option by every spelling', () => {
    for (const [name, spec] of Object.entries(OPTIONS) as [string, OptionSpec][]) {
      if (spec.default === undefined) continue
      const kebabs = [flagName(name), ...(spec.aliases ?? [])]
      for (const key of [name, ...kebabs, ...kebabs.map((kebab) => kebab.replaceAll('-', '_'))]) {
        const { values } = readConfigFile(file('one.json', JSON.stringify({ [key]: spec.default })))
        expect(values, key).toEqual({ [name]: spec.default })
      }
    }
  })

  it('may be empty', () => {
    expect(readConfigFile(file('empty.yaml', ''))).toEqual({ values: {} })
    expect(readConfigFile(file('empty.toml', '# nothing\n'))).toEqual({ values: {} })
  })

  it('is what configYaml writes', () => {
    const config = parseConfig({
      method: 'lozo',
      rank: 4,
      template: 'a: {text}\n# b',
      labelWords: ['no', 'yes'],
    })
    const { model, values } = readConfigFile(file('round.yaml', configYaml('a/b', config)))
    expect({ model, config: parseConfig(values) }).toEqual({ model: 'a/b', config })
  })
})

describe('a bad file', () => {
  const cases: [name: string, text: string, why: RegExp][] = [
    ['b.yaml', 'lr: [1\n', /^not valid YAML: .+ at line 2, column 1$/],
    ['b.yaml', 'lr: 1\nlr: 2\n', /^not valid YAML: Map keys must be unique at line 2/],
    ['b.yaml', 'a: 1\n---\nb: 2\n', /^not valid YAML: Source contains multiple documents/],
    ['b.toml', 'lr = 1\nsteps = \n', /^not valid TOML: .+ at line 2, column \d+$/],
    ['b.json', '{"lr": }', /^not valid JSON: Unexpected token/],
    ['b.json', '', /^not valid JSON: /],
    ['b.yaml', '- lr\n', /^expected options as "name: value", found \["lr"\]$/],
    ['b.json', '"lr"', /^expected options as "name: value", found "lr"$/],
    ['b.yaml', 'stepz: 3\n', /^unknown option "stepz" \(did you mean "steps"\?\); "zo2 config"/],
    [
      'b.yaml',
      'leraning_rate: 3\nbatchsize: 1\n',
      /^unknown options "leraning_rate" \(did you mean "learning-rate"\?\), "batchsize" \(did you mean "batch-size"\?\)/,
    ],
    ['b.json', `{"${'k'.repeat(1e6)}": 1}`, /^unknown option "k{60}" /],
    ['b.json', '{"__proto__": 1}', /^unknown option "__proto__"/],
    ['b.yaml', 'lr: 1\nlearning_rate: 2\n', /^"lr" and "learning_rate" are the same option/],
    [
      'b.yaml',
      'learning_rate: fast\n',
      /^learning_rate: expected a number of at least 0, found "fast"$/,
    ],
    ['b.yaml', 'steps: 1.5\n', /^steps: expected a whole number/],
    ['b.yaml', 'memory: 3 parsecs\n', /^memory: "3 parsecs" is no byte size/],
    ['b.toml', '[method]\nlr = 1\n', /^method: .+ found {"lr":1}$/],
    ['b.yaml', 'model: 3\n', /^model: expected a folder or a hub id, found 3$/],
    ['b.ini', 'lr=1\n', /^expected a \.yaml, \.toml or \.json file of options$/],
  ]
  for (const [name, text, why] of cases) {
    it(`${JSON.stringify(text.slice(0, 60))} gets one sentence`, () => {
      expect(refused(file(name, text))).toMatch(why)
    })
  }

  it('that is not there, or a folder', () => {
    expect(refused(at('none.yaml'))).toMatch(/^cannot be read \(ENOENT/)
    mkdirSync(at('folder.json'))
    expect(refused(at('folder.json'))).toMatch(/^cannot be read \(EISDIR/)
  })
})

describe('--config', () => {
  const own = ['--quiet', '--device', 'cpu', '--threads', '1', '--save-model', 'no']
  const yaml = () =>
    file(
      'run.yaml',
      `model: ${TINY}\ntrain: ${at('train.txt')}\nsteps: 4\nbatch_size: 2\nmaxLength: 16\nlr: 1e-4\n`,
    )

  it('stands between defaults and flags, and gives the model', async () => {
    const config = await hereJson(['config', '--config', yaml(), '--max_steps', '3', '--lr=1e-5'])
    const { model, steps, lr, eps, 'batch-size': batch, 'max-length': length } = config
    expect({ model, steps, lr, eps, batch, length }).toEqual({
      model: TINY,
      steps: 3,
      lr: 1e-5,
      eps: 1e-3,
      batch: 2,
      length: 16,
    })
    expect((await hereJson(['config', 'other', '--config', yaml()]))['model']).toBe('other')
  })

  it("runs, and the run's own config.json runs again to the same journal", async () => {
    await hereJson(['finetune', '--config', yaml(), '--output-dir', at('first'), ...own])
    const record = join(at('first'), 'config.json')
    const again = await here(['finetune', '--config', record])
    expect(again.code).toBe(1)
    expect(again.stderr).toContain(`${at('first')} holds a run already`)
    await hereJson(['finetune', '--config', record, '--output-dir', at('second')])
    const journal = (name: string) => readFileSync(join(at(name), 'journal.jsonl'), 'utf8')
    expect(journal('second')).toBe(journal('first'))
    // A record that says resume is not a wish to resume.
    await hereJson(['finetune', '--config', record, '--resume', '--steps', '5'])
    expect(readFileSync(record, 'utf8')).toContain('"resume": true')
    expect(readConfigFile(record).values).not.toHaveProperty('resume')
    expect(readConfigFile(record).values).toMatchObject({ steps: 5, batchSize: 2 })
  })

  it('of a run on the hub means the commit of that run', () => {
    const record = {
      zo2: '0',
      model: 'a/b',
      commit: 'c0',
      fingerprint: '',
      train_sha256: '',
      config: { lr: 1 },
    }
    const path = file('hub.json', JSON.stringify(record))
    expect(readConfigFile(path)).toEqual({ model: 'a/b', commit: 'c0', values: { lr: 1 } })
    return Promise.all([
      expect(hereJson(['config', '--config', path])).resolves.toMatchObject({ revision: 'c0' }),
      expect(hereJson(['config', '--config', path, '--revision', 'x'])).resolves.toMatchObject({
        revision: 'x',
      }),
      expect(hereJson(['config', 'c/d', '--config', path])).resolves.not.toHaveProperty('revision'),
    ])
  })

  it('is refused in the form of all other errors', async () => {
    const path = file('bad.yaml', 'stepz: 3\n')
    for (const command of ['config', 'finetune', 'eval', 'generate', 'plan']) {
      const prompt = command === 'generate' ? ['--prompt', 'a'] : []
      const { code, stdout, stderr } = await here([command, '--config', path, ...prompt])
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
      expect(stderr).toMatch(/^zo2: .*bad\.yaml: unknown option "stepz" .*\n$/)
    }
    const without = await here(['finetune', '--config', file('no-model.yaml', 'lr: 1\n')])
    expect(without).toMatchObject({
      code: 2,
      stderr: 'zo2: expected either a model or --synthetic SIZE\n',
    })
    const clash = await here(['config', '--config', file('clash.yaml', 'window: 7\n')])
    expect(clash.stderr).toMatch(/^zo2: --window is for lozo/)
  })
})
