// Reads a trace file back, and what every one must hold.

import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import type { Track } from '../../src/records/trace.ts'

export interface Event {
  readonly ph: string
  readonly pid: number
  readonly tid: number
  readonly name: string
  /** Microseconds of performance.now(). */
  readonly ts: number
  readonly dur: number
  readonly args?: { readonly name?: string; readonly weights?: string; readonly bytes?: number }
}

export const eventsOf = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as Event[]

/** The spans of a track, lanes put together. */
export function spansOf(events: readonly Event[]): (track: Track) => Event[] {
  const names = new Map(
    events.flatMap((e) => (e.name === 'thread_name' ? [[e.tid, e.args!.name!] as const] : [])),
  )
  const trackOf = ({ tid }: Event) => names.get(tid)!.replace(/ \d+$/, '')
  return (track) => events.filter((e) => e.ph === 'X' && trackOf(e) === track)
}

/** No two spans of a lane are at once. */
export function expectLanesApart(events: readonly Event[]): void {
  const ends = new Map<number, number>()
  for (const { ph, tid, ts, dur } of events) {
    if (ph !== 'X') continue
    expect(dur).toBeGreaterThanOrEqual(0)
    expect(ts + 0.2).toBeGreaterThanOrEqual(ends.get(tid) ?? 0) // each is rounded to 0.1
    ends.set(tid, ts + dur)
  }
}
