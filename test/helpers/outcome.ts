// What a run's folder holds that must not depend on what happened on the way: every file, byte by
// byte, without times, the sizes of processes, and the number of event files.

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { scalarsOf } from './event-file.ts'

/** Content by path; folders end in a slash. */
export type Outcome = ReadonlyMap<string, Buffer>

/** Of one process, or of a clock. */
const PASSING = [
  'step_ms',
  'wait_ms',
  'rss_bytes',
  'read_bytes',
  'upload_bytes',
  'device_peak_bytes',
  'download_bytes',
  'tokens',
]
const PASSING_SCALARS = ['step_ms', 'rss_bytes', 'device_bytes']

/** Everything below a folder, hidden files included. */
export function outcome(dir: string): Outcome {
  const found = new Map<string, Buffer>()
  const walk = (at: string) => {
    for (const name of readdirSync(join(dir, at)).sort()) {
      const path = at === '' ? name : `${at}/${name}`
      if (path === 'trace.json') continue
      if (path === 'runs') found.set('runs/', scalars(dir))
      else if (statSync(join(dir, path)).isDirectory()) {
        found.set(`${path}/`, Buffer.alloc(0))
        walk(path)
      } else found.set(path, contentOf(dir, path))
    }
  }
  walk('')
  return found
}

/** What differs; empty if nothing does. */
export function differences(a: Outcome, b: Outcome): string[] {
  const paths = [...new Set([...a.keys(), ...b.keys()])].sort()
  return paths.flatMap((path) => {
    const [one, other] = [a.get(path), b.get(path)]
    if (!one || !other) return [`${path} is only in the ${one ? 'first' : 'second'}`]
    return one.equals(other) ? [] : [path]
  })
}

/** Files that a run which ended early has whole; everything it has but these is still growing. */
export function halfWritten(dir: string, whole: Outcome): string[] {
  if (!existsSync(dir)) return []
  const growing = /^(journal|metrics|evals)\.jsonl$|^runs\/$|^device\.json$/
  return [...outcome(dir)].flatMap(([path, content]) => {
    if (growing.test(path)) return []
    return whole.get(path)?.equals(content) ? [] : [path]
  })
}

function contentOf(dir: string, path: string): Buffer {
  const bytes = readFileSync(join(dir, path))
  if (path === 'metrics.jsonl') return withoutFields(bytes, PASSING)
  if (path !== 'config.json') return bytes
  const record = JSON.parse(bytes.toString()) as { config: Record<string, unknown> }
  // What may differ from start to start.
  const config = { ...record.config, resume: undefined, outputDir: undefined, ram: undefined }
  const text = JSON.stringify({ ...record, config })
  return Buffer.from(text.replaceAll(dir, ''))
}

function withoutFields(bytes: Buffer, fields: readonly string[]): Buffer {
  const lines = bytes.toString().split('\n').slice(0, -1)
  const kept = lines.map((line) => {
    const value = JSON.parse(line) as Record<string, unknown>
    return JSON.stringify(
      value,
      Object.keys(value).filter((key) => !fields.includes(key)),
    )
  })
  return Buffer.from(kept.join('\n'))
}

/** What TensorBoard shows in the end. */
function scalars(dir: string): Buffer {
  const tags = Object.entries(scalarsOf(dir)).filter(([tag]) => !PASSING_SCALARS.includes(tag))
  return Buffer.from(JSON.stringify(tags.sort(([a], [b]) => (a < b ? -1 : 1))))
}
