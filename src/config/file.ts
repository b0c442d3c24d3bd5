// Options from a file: YAML, TOML or JSON by its ending, keys in any spelling that the flags have. A
// run's own config.json is such a file too. Defaults are not filled in here (options.ts).

import { readFileSync, statSync } from 'node:fs'
import { extname } from 'node:path'
import { parse as parseToml, TomlError } from 'smol-toml'
import { parse as parseYaml, stringify } from 'yaml'
import { UserError } from '../util/errors.ts'
import { excerpt, parseJson } from '../util/untrusted.ts'
import { OPTION_NAMES, OPTIONS, specOf, valuesOf, type Config } from './options.ts'
import { isRunRecord } from './record.ts'
import { flagName, type Values } from './spec.ts'
import { readSpellings } from './spellings.ts'

/** What a file says; `values` by the options' own names, checked one by one. */
interface ConfigFile {
  readonly model?: string
  readonly values: Values
  /** Of a run's config.json: the commit of the hub that its model was. */
  readonly commit?: string
}

const MAX_BYTES = 2 ** 24
const PARSERS: Readonly<Record<string, (text: string, path: string) => unknown>> = {
  // Errors alone; a warning (an unknown tag) would be printed by Node itself.
  '.yaml': (text) => parseYaml(text, { logLevel: 'error' }) as unknown,
  '.yml': (text) => parseYaml(text, { logLevel: 'error' }) as unknown,
  '.toml': (text) => parseToml(text),
  '.json': (text, path) => parseJson(text, path),
}

/**
 * Reads a file of options.
 * @throws UserError (usage) naming the file, and the key that is unknown, doubled or out of range
 */
export function readConfigFile(path: string): ConfigFile {
  const found = parseFile(path)
  const optionsOf = (given: object) => valuesOf(readSpellings(given, OPTIONS, `${path}: `))
  if (isRunRecord(found)) {
    const { model, commit, config } = found
    // Whether to resume is said by each command anew.
    const values = optionsOf({ ...config, resume: undefined })
    return { model, values, ...(commit !== null && { commit }) }
  }
  const { model, ...options } = found
  const values = optionsOf(options)
  if (model === undefined || model === null) return { values }
  if (typeof model === 'string' && model !== '') return { model, values }
  throw usage(`${path}: model: expected a folder or a hub id, found ${JSON.stringify(model)}`)
}

/** The options of a configuration as a file that readConfigFile takes, by group. */
export function configYaml(model: string | undefined, config: Partial<Config>): string {
  const values: Values = config
  const given = OPTION_NAMES.filter((name) => values[name] !== undefined)
  const groups = [...new Set(given.map((name) => specOf(name).group))]
  const parts = groups.map((group) => {
    const own = given.filter((name) => specOf(name).group === group)
    const shown = Object.fromEntries(own.map((name) => [flagName(name), values[name]]))
    return `# ${group}\n${stringify(shown, { lineWidth: 0 })}`
  })
  return [...(model === undefined ? [] : [stringify({ model })]), ...parts].join('')
}

const usage = (text: string, cause?: unknown) => new UserError(text, { exitCode: 2, cause })

function parseFile(path: string): Record<string, unknown> {
  const ending = extname(path).toLowerCase()
  const parser = PARSERS[ending]
  if (!parser) throw usage(`${path}: expected a .yaml, .toml or .json file of options`)
  const text = readText(path)
  let value: unknown
  try {
    value = parser(text.replace(/^\uFEFF/, ''), path) ?? {}
  } catch (error) {
    if (error instanceof UserError) throw usage(error.message, error)
    throw usage(`${path}: not valid ${ending.slice(1).toUpperCase()}: ${why(error)}`, error)
  }
  if (typeof value === 'object' && !Array.isArray(value)) return value as Record<string, unknown>
  throw usage(`${path}: expected options as "name: value", found ${excerpt(value)}`)
}

function readText(path: string): string {
  try {
    const found = statSync(path)
    // Looked at before it is opened: reading a pipe or a device would have no end.
    if (!found.isFile() && !found.isDirectory()) throw new Error('it is no regular file')
    const { size } = found
    if (size > MAX_BYTES) throw new Error(`it has ${size} bytes, expected at most ${MAX_BYTES}`)
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw usage(`${path}: cannot be read (${(error as Error).message})`, error)
  }
}

/** What a parser complains about, in one line: the further ones show the place. */
function why(error: unknown): string {
  const first = (error as Error).message.split('\n')[0]!.replace(/:$/, '')
  return error instanceof TomlError
    ? `${first} at line ${error.line}, column ${error.column}`
    : first
}
