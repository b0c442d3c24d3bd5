// Tools for tests that feed damaged files to readers: a seeded generator, byte mutations, a
// temporary folder, and a check that a reader answers or refuses, quickly and without large
// allocations.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect } from 'vitest'
import { UserError } from '../../src/util/errors.ts'

/** Uniform integers in [0, limit), the same for the same seed (mulberry32). */
export type Random = (limit: number) => number

export function seeded(seed: number): Random {
  let state = seed >>> 0
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit)
  }
}

/** A folder that goes away with the test file. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'zo2-test-'))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

const LYING_NUMBERS = [
  0n,
  1n,
  0x7fn,
  0xffn,
  0xffffn,
  0x7fffffffn,
  0xffffffffn,
  2n ** 53n,
  2n ** 63n,
]

/** One to three random changes somewhere in `[from, to)` of a copy of the bytes. */
export function mutate(bytes: Uint8Array, random: Random, from = 0, to = bytes.length): Uint8Array {
  let result = new Uint8Array(bytes)
  for (let changes = 1 + random(3); changes > 0; changes--) {
    const end = Math.min(to, result.length)
    const at = Math.min(from + random(Math.max(1, end - from)), result.length)
    result = change(result, random, at)
  }
  return result
}

function change(bytes: Uint8Array, random: Random, at: number): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(bytes)
  const kind = random(7)
  if (kind === 0) result[at] = result[at]! ^ (1 << random(8))
  else if (kind === 1) result[at] = random(256)
  else if (kind === 2) return result.slice(0, at)
  else if (kind === 3) return splice(result, at, at + 1 + random(9), new Uint8Array(0))
  else if (kind === 4)
    return splice(
      result,
      at,
      at,
      Uint8Array.from({ length: 8 }, () => random(256)),
    )
  else if (kind === 5) return splice(result, at, at, result.slice(at, at + 1 + random(64)))
  else {
    const word = new Uint8Array(8)
    const lie = LYING_NUMBERS[random(LYING_NUMBERS.length)]!
    new DataView(word.buffer).setBigUint64(0, lie, true)
    result.set(word.subarray(0, Math.min([1, 2, 4, 8][random(4)]!, result.length - at)), at)
  }
  return result
}

export function splice(
  bytes: Uint8Array,
  from: number,
  to: number,
  middle: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const tail = bytes.subarray(to)
  const result = new Uint8Array(from + middle.length + tail.length)
  result.set(bytes.subarray(0, from))
  result.set(middle, from)
  result.set(tail, from + middle.length)
  return result
}

/**
 * Runs a reader that must return a value which `check` accepts, or throw a UserError; in either
 * case within two seconds and without asking for one array of over 1 MiB. Returns the message if
 * refused.
 */
export async function answersOrRefuses<T>(
  read: () => Promise<T> | T,
  check: (value: T) => void,
  label: string,
): Promise<string | undefined> {
  const start = performance.now()
  const { result, largestBytes } = await recordArrays(async () => {
    try {
      return { value: await read() }
    } catch (error) {
      return { error }
    }
  })
  expect(performance.now() - start, label).toBeLessThan(2000)
  expect(largestBytes, label).toBeLessThanOrEqual(1 << 20)
  if ('value' in result) {
    check(result.value as T)
    return undefined
  }
  const { error } = result
  if (!(error instanceof UserError)) throw new Error(`${label}: not a UserError`, { cause: error })
  expect(error.message.length, label).toBeLessThan(1000)
  return error.message
}

/** The message with which a reader refuses; fails the test if it answers. */
export async function refusal(read: () => unknown, label: string): Promise<string> {
  const accepted = (value: unknown): void => expect.fail(`accepted: ${JSON.stringify(value)}`)
  return (await answersOrRefuses(read, accepted, label))!
}

/** Notes the largest length passed to `new Uint8Array(length)` while `run` runs. */
async function recordArrays<T>(
  run: () => Promise<T>,
): Promise<{ result: T; largestBytes: number }> {
  const original = globalThis.Uint8Array
  let largestBytes = 0
  globalThis.Uint8Array = new Proxy(original, {
    construct(target, args: [number]) {
      if (typeof args[0] === 'number') largestBytes = Math.max(largestBytes, args[0])
      return Reflect.construct(target, args) as object
    },
  })
  try {
    return { result: await run(), largestBytes }
  } finally {
    globalThis.Uint8Array = original
  }
}
