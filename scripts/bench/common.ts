// What the benches share: flags, medians with their spread, Markdown tables, JSON lines under
// out/bench/.

import { appendFileSync, mkdirSync, openSync } from 'node:fs'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))
export const OUT = `${ROOT}/out/bench`

/** Flags `--name value` with their defaults; an unknown one ends the process. */
export function flags<F extends Record<string, string>>(defaults: F): F {
  const options = Object.fromEntries(
    Object.entries(defaults).map(([name, value]) => [
      name,
      { type: 'string' as const, default: value },
    ]),
  )
  try {
    return { ...(parseArgs({ options }).values as F) }
  } catch (error) {
    say(`${(error as Error).message}\nflags: ${JSON.stringify(defaults)}`)
    process.exit(2)
  }
}

export const listed = (value: string) => value.split(',').filter((part) => part !== '')

export const say = (line: string) => void process.stdout.write(`${line}\n`)
/** Progress, apart from the table. */
export const note = (line: string) => void process.stderr.write(`${line}\n`)

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** "median (min-max)". */
export function spread(values: readonly number[], digits = 0): string {
  const text = (n: number) => n.toFixed(digits)
  return `${text(median(values))} (${text(Math.min(...values))}-${text(Math.max(...values))})`
}

export const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`

/** A Markdown table; columns after the first are right-aligned. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const line = (cells: readonly string[]) => say(`| ${cells.join(' | ')} |`)
  line(head)
  line(head.map((_, i) => (i === 0 ? '---' : '---:')))
  rows.forEach(line)
}

/** Appends one JSON line to out/bench/<name>.jsonl, with the time and the processor. */
export function record(name: string, value: object): void {
  mkdirSync(OUT, { recursive: true })
  const line = { time: new Date().toISOString(), processor: cpus()[0]!.model, ...value }
  appendFileSync(`${OUT}/${name}.jsonl`, `${JSON.stringify(line)}\n`)
}

/** A fresh file out/bench/<name>.log for what a process prints. */
export function openLog(name: string): number {
  mkdirSync(OUT, { recursive: true })
  return openSync(`${OUT}/${name}.log`, 'w')
}
