// What the command line says when it refuses, asked within the test's own process (cli.ts).

import { expect } from 'vitest'
import { here } from './cli.ts'

/** Expects one sentence as the last line, no result, and these parts in this order. */
export async function refusedHere(
  args: readonly string[],
  {
    code = 1,
    says,
    env = {},
  }: { code?: 1 | 2; says: readonly string[]; env?: Record<string, string> },
): Promise<string> {
  const ended = await here(args, { env })
  const sentence = ended.stderr.trimEnd().split('\n').at(-1)!
  expect({ code: ended.code, stdout: ended.stdout }, ended.stderr).toEqual({ code, stdout: '' })
  expect(sentence).toMatch(/^zo2: (?!internal error)/)
  let from = 0
  for (const part of says) {
    const found = sentence.indexOf(part, from)
    expect(found, `"${part}" in ${sentence}`).toBeGreaterThanOrEqual(0)
    from = found + part.length
  }
  return sentence
}
