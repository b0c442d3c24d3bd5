// The command line within the test's own process: many short calls without a start each. What needs a
// process of its own (signals, limits, the streams themselves) uses cli.ts.

import { expect, vi } from 'vitest'
import { main } from '../../src/cli/main.ts'
import type { Finished } from './cli.ts'

/** Runs the command line to its end. */
export async function here(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Omit<Finished, 'signal'>> {
  const output = { stdout: '', stderr: '' }
  const into = (name: keyof typeof output) =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      output[name] += String(text)
      return true
    })
  const spies = [into('stdout'), into('stderr')]
  const streams = [process.stdout, process.stderr]
  const before = streams.map((stream) => stream.listeners('error'))
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  try {
    return { code: await main(args), ...output }
  } finally {
    spies.forEach((spy) => spy.mockRestore())
    // A process of its own ends with its listeners.
    streams.forEach((stream, i) => {
      const own = stream.listeners('error').filter((listener) => !before[i]!.includes(listener))
      own.forEach((listener) => stream.off('error', listener as () => void))
    })
    vi.unstubAllEnvs()
  }
}

/** Expects one sentence as the last line, no result, and these parts in this order. */
export async function refusedHere(
  args: readonly string[],
  {
    code = 1,
    says,
    env = {},
  }: { code?: 1 | 2; says: readonly string[]; env?: Record<string, string> },
): Promise<string> {
  const ended = await here(args, env)
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
