// TensorBoard event files, decoded without any of our own code: frames with a bitwise CRC-32C, protobuf
// by wire type. `scalarsOf` keeps and forgets what a reader does.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Event {
  readonly wallSeconds: number
  readonly step: number
  readonly version?: string
  readonly start?: boolean
  readonly scalars: Readonly<Record<string, number>>
}

/** Bit by bit, from the definition. */
export function slowCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    for (let bit = 0; bit < 8; bit++) {
      const odd = (crc ^ (byte >>> bit)) & 1
      crc = (crc >>> 1) ^ (odd ? 0x82f63b78 : 0)
    }
  }
  return ~crc >>> 0
}

const masked = (bytes: Uint8Array) => {
  const crc = BigInt(slowCrc32c(bytes))
  return Number((((crc >> 15n) | (crc << 17n)) + 0xa282ead8n) & 0xffffffffn)
}

/** The whole records of a file; `torn` is how many bytes follow them. Throws on a wrong CRC. */
export function decode(file: Buffer): { events: Event[]; torn: number } {
  const events: Event[] = []
  let at = 0
  while (at + 12 <= file.length) {
    const length = Number(file.readBigUInt64LE(at))
    if (file.readUInt32LE(at + 8) !== masked(file.subarray(at, at + 8))) throw new Error('length')
    if (at + 16 + length > file.length) break
    const payload = file.subarray(at + 12, at + 12 + length)
    if (file.readUInt32LE(at + 12 + length) !== masked(payload)) throw new Error('payload')
    events.push(eventOf(payload))
    at += 16 + length
  }
  return { events, torn: file.length - at }
}

type Field = { field: number; value: Buffer | number }

function fields(bytes: Buffer): Field[] {
  const found: Field[] = []
  let at = 0
  const varint = () => {
    let [value, scale] = [0, 1]
    for (;;) {
      const byte = bytes[at++]!
      value += (byte & 127) * scale
      scale *= 128
      if (byte < 128) return value
    }
  }
  const take = (length: number) => bytes.subarray(at, (at += length))
  while (at < bytes.length) {
    const key = varint()
    const wire = key & 7
    const value =
      wire === 0
        ? varint()
        : wire === 1
          ? take(8).readDoubleLE()
          : wire === 5
            ? take(4).readFloatLE()
            : take(varint())
    found.push({ field: key >>> 3, value })
  }
  return found
}

function eventOf(payload: Buffer): Event {
  const own = fields(payload)
  const get = (field: number) => own.find((f) => f.field === field)?.value
  const summary = get(5) as Buffer | undefined
  const scalars = (summary ? fields(summary) : []).map(({ value }) => {
    const parts = fields(value as Buffer)
    return [
      String(parts.find((p) => p.field === 1)!.value),
      parts.find((p) => p.field === 2)!.value,
    ]
  })
  const log = get(7) as Buffer | undefined
  return {
    wallSeconds: get(1) as number,
    step: (get(2) as number | undefined) ?? 0,
    ...(get(3) !== undefined && { version: String(get(3)) }),
    ...(log && { start: fields(log)[0]!.value === 1 }),
    scalars: Object.fromEntries(scalars) as Record<string, number>,
  }
}

/** What a reader has of a run in the end: tag -> [step, value] in the order of the files. */
export function scalarsOf(dir: string): Record<string, [number, number][]> {
  const tags: Record<string, [number, number][]> = {}
  for (const name of readdirSync(join(dir, 'runs')).sort()) {
    for (const event of decode(readFileSync(join(dir, 'runs', name))).events) {
      if (event.start) {
        for (const tag in tags) tags[tag] = tags[tag]!.filter(([step]) => step < event.step)
      }
      for (const [tag, value] of Object.entries(event.scalars)) {
        tags[tag] = [...(tags[tag] ?? []), [event.step, value]]
      }
    }
  }
  return Object.fromEntries(Object.entries(tags).filter(([, points]) => points.length > 0))
}
