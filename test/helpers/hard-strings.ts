// Strings that are hard for tokenizers, made by a formula from test/fixtures/tokenizer-families/pieces.json;
// scripts/fixtures/tokenizers.py has the same formula.

import { readFileSync } from 'node:fs'
import { mixed } from './hashed.ts'

const { count, pieces } = JSON.parse(
  readFileSync(new URL('../fixtures/tokenizer-families/pieces.json', import.meta.url), 'utf8'),
) as { count: number; pieces: string[] }

/** The strings of a tokenizer whose added tokens are `specials`. */
export function hardStrings(specials: readonly string[]): string[] {
  const all = [...pieces, ...specials, ...specials, ...specials]
  return Array.from({ length: count }, (_, i) =>
    Array.from(
      { length: mixed(7919 * i) % 13 },
      (_, j) => all[mixed(16 * i + j + 1) % all.length]!,
    ).join(''),
  )
}
