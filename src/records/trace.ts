// A trace file in Chrome's format, which ui.perfetto.dev and chrome://tracing open: spans of time on
// named tracks. Spans of a track that overlap get a lane each. The file is an array that readers
// take without its end, so that a killed run leaves one too.
// What is traced is src/engine/trace.ts's business.

import { open } from 'node:fs/promises'
import { UserError } from '../util/errors.ts'
import { asUserError, headOf } from '../io/read.ts'

/** From top to bottom. */
const TRACKS = ['steps', 'waits', 'device', 'uploads', 'reads', 'folds'] as const
export type Track = (typeof TRACKS)[number]
const MAX_LANES = 100
const BUFFER_CHARS = 2 ** 16

export interface Trace {
  /** Something that took from `startMs` until `endMs` or now, in performance.now()'s time. */
  span(track: Track, name: string, startMs: number, details?: object, endMs?: number): void
  /** A moment. */
  mark(name: string): void
  /** @throws UserError if the file could not be written whole */
  close(): Promise<void>
}

const BEGINNING = '[\n{"ph":"M"'

/** @throws UserError for a file that is there and is no trace: data or a record would be lost to it */
async function checkPlace(path: string): Promise<void> {
  const head = await headOf(path, BEGINNING.length)
  if (head === null || head === '' || head === BEGINNING) return
  throw new UserError(`--trace ${path} is there and is no trace: name another file`)
}

/** Creates or replaces the file. UserError if that cannot be done. */
export async function openTrace(path: string): Promise<Trace> {
  const own = (error: unknown): never => {
    throw asUserError(error, `--trace ${path}: cannot be written`)
  }
  await checkPlace(path)
  const file = await open(path, 'w').catch(own)
  const lanes = new Map<Track, number[]>()
  let text = `${BEGINNING},"pid":1,"tid":0,"name":"process_name","args":{"name":"zo2"}}`
  let failure: unknown
  let written: Promise<void> = Promise.resolve()
  const flush = () => {
    const part = text
    text = ''
    // A full disk ends the trace, not the run.
    written = written
      .then(() => (failure === undefined ? file.appendFile(part) : undefined))
      .catch((error: unknown) => {
        failure ??= error
      })
  }
  const put = (event: object) => {
    text += `,\n${JSON.stringify({ pid: 1, ...event })}`
    if (text.length >= BUFFER_CHARS) flush()
  }
  const describe = (tid: number, what: string, args: object) =>
    put({ ph: 'M', tid, name: what, args })

  /** The first lane of the track that is free since `startMs`; named when it is new. */
  const laneOf = (track: Track, startMs: number, endMs: number) => {
    const ends = lanes.get(track) ?? []
    lanes.set(track, ends)
    const free = ends.findIndex((end) => end <= startMs)
    const lane = free >= 0 ? free : Math.min(ends.length, MAX_LANES - 1)
    const tid = TRACKS.indexOf(track) * MAX_LANES + lane + 1
    if (lane === ends.length) {
      describe(tid, 'thread_name', { name: lane === 0 ? track : `${track} ${lane + 1}` })
      describe(tid, 'thread_sort_index', { sort_index: tid })
    }
    ends[lane] = endMs
    return tid
  }

  return {
    span(track, name, startMs, details, endMs = performance.now()) {
      const tid = laneOf(track, startMs, endMs)
      const args = details && { args: details }
      put({ ph: 'X', tid, name, ts: micros(startMs), dur: micros(endMs - startMs), ...args })
    },
    mark(name) {
      const now = performance.now()
      const tid = laneOf('steps', now, now)
      put({ ph: 'i', s: 'p', tid, name, ts: micros(now) })
    },
    async close() {
      text += '\n]\n'
      flush()
      await written
      await file.close()
      if (failure === undefined) return
      const { code = '' } = failure as NodeJS.ErrnoException
      throw new UserError(`--trace ${path}: not written whole (${code}); free some disk space`, {
        cause: failure,
      })
    },
  }
}

const micros = (ms: number) => Math.round(ms * 1e4) / 10
