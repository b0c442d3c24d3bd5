// The spellings of options: --max-length, max_length, maxLength and every alias of these are one name.
// What nobody knows gets the nearest known one, or the reason why there is no such thing here.

import { UserError } from '../util/errors.ts'
import { reasonAgainst } from './refused.ts'
import { flagName, type OptionSpec } from './spec.ts'

type Specs = Readonly<Record<string, OptionSpec>>

/** What was given for an option, and under which name. */
export interface Given {
  readonly name: string
  readonly spelled: string
  readonly value: unknown
}

/** `--learning_rate`, `learningRate` -> `learning-rate`. */
const kebab = (key: string) =>
  key
    .replace(/^--/, '')
    .replaceAll('_', '-')
    .replace(/([a-z0-9])([A-Z])/g, '$1-$2')
    .toLowerCase()

/** Kebab-case spelling -> option. */
export function spellingsOf(specs: Specs): ReadonlyMap<string, string> {
  return new Map(
    Object.entries(specs).flatMap(([name, { aliases = [] }]) =>
      [flagName(name), ...aliases].map((spelling) => [spelling, name] as const),
    ),
  )
}

/** What a sentence shows of an unknown key. */
const MAX_KEY_CHARS = 60

/**
 * The options of an object by their own names; what is undefined or null was not given.
 * @param where stands before the names in sentences: a file's path
 * @throws UserError (usage) for names that are unknown, without a meaning here, or given twice
 */
export function readSpellings(input: object, specs: Specs, where = ''): Map<string, Given> {
  const known = spellingsOf(specs)
  const refuse = (text: string): never => {
    throw new UserError(where + text, { exitCode: 2 })
  }
  const entries = Object.entries(input).filter(([, value]) => value !== null && value !== undefined)
  const unknown = entries.map(([key]) => key).filter((key) => !known.has(kebab(key)))
  if (unknown.length > 0) refuse(describeUnknown(unknown, [...known.keys()]))
  const given = new Map<string, Given>()
  for (const [spelled, value] of entries) {
    const name = known.get(kebab(spelled))!
    const before = given.get(name)
    if (before) {
      const first = before.spelled.slice(where.length)
      refuse(`"${first}" and "${spelled}" are the same option; leave one out`)
    }
    given.set(name, { name, spelled: where + spelled, value })
  }
  return given
}

function describeUnknown(unknown: readonly string[], known: readonly string[]): string {
  for (const key of unknown) {
    const reason = reasonAgainst(key)
    if (reason !== undefined) return `${key}: ${reason}; leave it out`
  }
  const short = unknown.map((key) => key.slice(0, MAX_KEY_CHARS))
  const one = (key: string) => `"${key}" (did you mean "${nearest(kebab(key), known)}"?)`
  return `unknown option${short.length > 1 ? 's' : ''} ${short.map(one).join(', ')}; "zo2 config" prints all of them`
}

/** The known spelling with the fewest edits. */
const nearest = (key: string, known: readonly string[]): string =>
  known.reduce((best, each) => (edits(key, each) < edits(key, best) ? each : best))

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
