// What a person sees while a run goes on: lines and tables on stderr, one self-rewriting line for
// the step under way on a terminal. Results for programs go to stdout and are not made here.

import { maxOf } from './extremes.ts'
import { formatBytes } from './units.ts'

export interface Reporter {
  line(text: string): void
  /** A line that the next one replaces on a terminal; elsewhere it is dropped. */
  live(text: string): void
  /** Takes the live line away, before something else is printed. */
  clear(): void
}

interface Stream {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

export const silent: Reporter = { line: () => {}, live: () => {}, clear: () => {} }

/** Live lines come this far apart at least: a download reports every chunk. */
const LIVE_MS = 50

/** A reporter on a stream; live lines only on a terminal, and not under CI. */
export function createReporter(stream: Stream, environment = process.env): Reporter {
  const live = stream.isTTY === true && !environment['CI'] && environment['TERM'] !== 'dumb'
  let open = false
  let shown = 0
  const clear = () => {
    if (open) stream.write('\r\u001b[2K')
    open = false
  }
  return {
    clear,
    line(text) {
      clear()
      stream.write(`${text}\n`)
    },
    live(text) {
      const now = performance.now()
      if (!live || (text !== '' && now - shown < LIVE_MS)) return
      shown = now
      clear()
      stream.write(text.slice(0, (stream.columns ?? 100) - 1))
      open = true
    },
  }
}

/** Rows as aligned columns; columns whose cells are all numeric-looking are right-aligned. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const columns = maxOf(
    rows.map((row) => row.length),
    0,
  )
  const cells = Array.from({ length: columns }, (_, c) => rows.map((row) => row[c] ?? ''))
  const widths = cells.map((column) => maxOf(column.map((cell) => cell.length)))
  const right = cells.map((column) => column.slice(1).every((cell) => /^[-+~]?\d|^-?$/.test(cell)))
  return rows.map((row) =>
    (
      '  ' +
      row
        .map((cell, c) => (right[c] ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)))
        .join('  ')
    ).trimEnd(),
  )
}

/** The memory table: bytes by category, then the sum. */
export function memoryTable(bytes: Readonly<Record<string, number>>): string[] {
  const total = Object.values(bytes).reduce((sum, n) => sum + n, 0)
  return table([
    ...Object.entries(bytes).map(([category, n]) => [category, formatBytes(n)]),
    ['peak', formatBytes(total)],
  ])
}

/** What the line of a step shows. */
interface Progress {
  /** Steps made, this one included. */
  readonly done: number
  readonly steps: number
  /** null: the step was skipped. */
  readonly loss: number | null
  readonly grad: number
  readonly lr: number
  readonly stepMs: number
  readonly tokens: number
  readonly readBytes: number
  readonly deviceBytes: number
  readonly leftSeconds: number
}

/** One step as a line whose columns stay where they are from line to line. */
export function progressLine(p: Progress): string {
  const perSecond = (amount: number) => amount / (p.stepMs / 1000)
  return [
    `step ${String(p.done).padStart(String(p.steps).length)}/${p.steps}`,
    `loss ${p.loss === null ? 'skipped' : p.loss.toFixed(4)}`,
    `grad ${p.grad.toFixed(3).padStart(9)}`,
    `lr ${p.lr.toExponential(2)}`,
    `${p.stepMs.toFixed(0).padStart(5)} ms`,
    `${Math.round(perSecond(p.tokens))} tok/s`.padStart(11),
    `read ${formatBytes(perSecond(p.readBytes)).padStart(8)}/s`,
    `device ${formatBytes(p.deviceBytes).padStart(8)}`,
    `left ${formatSeconds(p.leftSeconds)}`,
  ].join('  ')
}

/** "1h02m", "3m05s", "12.3s". */
export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return '-'
  if (seconds < 60) return `${seconds.toFixed(1)}s`
  const minutes = Math.floor(seconds / 60)
  const pad = (n: number) => String(n).padStart(2, '0')
  if (minutes < 60) return `${minutes}m${pad(Math.floor(seconds % 60))}s`
  return `${Math.floor(minutes / 60)}h${pad(minutes % 60)}m`
}
