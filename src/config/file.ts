// Options from a file: YAML, TOML or JSON by its ending, keys in any spelling that the flags have. A
// run's own config.json is such a file too. Defaults are not filled in here (options.ts).

import { readFileSync, statSync } from 'node:fs'
import { extname } from 'node:path'
import { parse as parseToml, TomlError } from 'smol-toml'
import { parse as parseYaml, stringify } from 'yaml'
import { OPTIONS, type Config, type OptionName } from './options.ts'
import { UserError } from '../util/errors.ts'
import { flagName, parseValue, type OptionSpec } from './values.ts'
import { isRunRecord } from './record.ts'

/** What a file says; `values` by the options' own names, checked one by one. */
export interface ConfigFile {
  readonly model?: string
  readonly values: Readonly<Record<string, unknown>>
  /** Of a run's config.json: the commit of the hub that its model was. */
  readonly commit?: string
}

const MAX_BYTES = 2 ** 24
/** What a sentence shows of an unknown key. */
const MAX_KEY_CHARS = 60

const PARSERS: Readonly<Record<string, (text: string) => unknown>> = {
  // Errors alone; a warning (an unknown tag) would be printed by Node itself.
  '.yaml': (text) => parseYaml(text, { logLevel: 'error' }) as unknown,
  '.yml': (text) => parseYaml(text, { logLevel: 'error' }) as unknown,
  '.toml': (text) => parseToml(text),
  '.json': (text) => JSON.parse(text) as unknown,
}

const SPECS = Object.entries(OPTIONS) as [OptionName, OptionSpec][]

/** Kebab-case spelling -> option. */
const SPELLINGS = new Map(
  SPECS.flatMap(([name, { aliases = [] }]) =>
    [flagName(name), ...aliases].map((spelling) => [spelling, name] as const),
  ),
)

/** `learning_rate`, `learningRate` -> `learning-rate`. */
const kebab = (key: string) =>
  key
    .replaceAll('_', '-')
    .replace(/([a-z0-9])([A-Z])/g, '$1-$2')
    .toLowerCase()

/**
 * Reads a file of options.
 * @throws UserError (usage) naming the file, and the key that is unknown, doubled or out of range
 */
export function readConfigFile(path: string): ConfigFile {
  const found = parseFile(path)
  if (isRunRecord(found)) {
    const { model, commit, config } = found
    // Whether to resume is said by each command anew.
    const values = optionsOf(path, { ...config, resume: undefined })
    return { model, values, ...(commit !== null && { commit }) }
  }
  const { model, ...options } = found
  const values = optionsOf(path, options)
  if (model === undefined || model === null) return { values }
  if (typeof model === 'string' && model !== '') return { model, values }
  throw usage(`${path}: model: expected a folder or a hub id, found ${JSON.stringify(model)}`)
}

/** The options of a configuration as a file that readConfigFile takes, by topic. */
export function configYaml(model: string | undefined, config: Partial<Config>): string {
  const given = SPECS.filter(([name]) => name in config)
  const topics = [...new Set(given.map(([, { topic }]) => topic))]
  const parts = topics.map((topic) => {
    const own = given.filter(([, spec]) => spec.topic === topic)
    const values = Object.fromEntries(own.map(([name]) => [flagName(name), config[name]]))
    return `# ${topic}\n${stringify(values, { lineWidth: 0 })}`
  })
  return [...(model === undefined ? [] : [stringify({ model })]), ...parts].join('')
}

const usage = (text: string, cause?: unknown) => new UserError(text, { exitCode: 2, cause })

function parseFile(path: string): Record<string, unknown> {
  const parser = PARSERS[extname(path).toLowerCase()]
  if (!parser) throw usage(`${path}: expected a .yaml, .toml or .json file of options`)
  let text: string
  try {
    const { size } = statSync(path)
    if (size > MAX_BYTES) throw new Error(`it has ${size} bytes, expected at most ${MAX_BYTES}`)
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw usage(`${path}: cannot be read (${(error as Error).message})`, error)
  }
  let value: unknown
  try {
    value = parser(text.replace(/^\uFEFF/, '')) ?? {}
  } catch (error) {
    throw usage(`${path}: not valid ${extname(path).slice(1).toUpperCase()}: ${why(error as Error)}`, error) // prettier-ignore
  }
  if (typeof value === 'object' && !Array.isArray(value)) return value as Record<string, unknown>
  throw usage(`${path}: expected options as "name: value", found ${JSON.stringify(value).slice(0, 60)}`) // prettier-ignore
}

/** What a parser complains about, in one line: the further ones show the place. */
function why(error: Error): string {
  const first = error.message.split('\n')[0]!.replace(/:$/, '')
  return error instanceof TomlError
    ? `${first} at line ${error.line}, column ${error.column}`
    : first
}

function optionsOf(path: string, given: Readonly<Record<string, unknown>>) {
  const keys = Object.entries(given).filter(([, value]) => value !== null && value !== undefined)
  const unknown = keys
    .filter(([key]) => !SPELLINGS.has(kebab(key)))
    .map(([key]) => key.slice(0, MAX_KEY_CHARS))
  if (unknown.length > 0) {
    const one = (key: string) => `"${key}" (did you mean "${nearest(kebab(key))}"?)`
    throw usage(
      `${path}: unknown option${unknown.length > 1 ? 's' : ''} ${unknown.map(one).join(', ')}; "zo2 config" prints all of them`,
    )
  }
  const as = new Map<OptionName, string>()
  const values: Record<string, unknown> = {}
  for (const [key, value] of keys) {
    const name = SPELLINGS.get(kebab(key))!
    if (as.has(name)) {
      throw usage(`${path}: "${as.get(name)}" and "${key}" are the same option; leave one out`)
    }
    as.set(name, key)
    values[name] = parseValue(`${path}: ${key}`, OPTIONS[name].schema, value)
  }
  return values
}

/** The known spelling with the fewest edits. */
function nearest(key: string): string {
  const known = [...SPELLINGS.keys(), 'model']
  return known.reduce((best, each) => (edits(key, each) < edits(key, best) ? each : best))
}

/** Letters to insert, remove or replace to make one text of the other (Levenshtein). */
function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + same))
    }
    row = next
  }
  return row[b.length]!
}
