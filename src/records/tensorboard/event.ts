// The bytes of a TensorBoard event: the few protobuf fields of tensorflow.Event that scalars need,
// framed as TFRecord (length, masked CRC of it, payload, masked CRC of it). No files here.

import { maskedCrc32c } from './crc32c.ts'

/** Values of one step by their names in TensorBoard. */
export type Scalars = Readonly<Record<string, number>>

const VARINT = 0
const FIXED64 = 1
const BYTES = 2
const FIXED32 = 5
const tag = (field: number, wire: number) => varint((field << 3) | wire)

/** `value` is a whole number of at least 0. */
function varint(value: number): Buffer {
  const bytes = []
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128)
  return Buffer.from([...bytes, value])
}

function nested(field: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  return Buffer.concat([tag(field, BYTES), varint(body.length), body])
}

const text = (field: number, value: string) => nested(field, Buffer.from(value))

function float(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return Buffer.concat([tag(field, FIXED32), bytes])
}

/** Event { wall_time = 1, step = 2, what }; wall time in seconds since 1970. */
function event(wallSeconds: number, step: number, what: Buffer): Buffer {
  const time = Buffer.alloc(8)
  time.writeDoubleLE(wallSeconds)
  return Buffer.concat([tag(1, FIXED64), time, tag(2, VARINT), varint(step), what])
}

/** The first record of every file: Event.file_version. */
export const versionRecord = (wallSeconds: number) =>
  record(event(wallSeconds, 0, text(3, 'brain.Event:2')))

/** Event.session_log = START: readers forget what they have of `step` and later. */
export const startRecord = (wallSeconds: number, step: number) =>
  record(event(wallSeconds, step, nested(7, tag(1, VARINT), varint(1))))

/** Event.summary with one value { tag = 1, simple_value = 2 } for each scalar. */
export function scalarsRecord(wallSeconds: number, step: number, scalars: Scalars): Buffer {
  const values = Object.entries(scalars).map(([name, value]) =>
    nested(1, text(1, name), float(2, value)),
  )
  return record(event(wallSeconds, step, nested(5, ...values)))
}

function record(payload: Buffer): Buffer {
  const framed = Buffer.alloc(12 + payload.length + 4)
  framed.writeBigUInt64LE(BigInt(payload.length), 0)
  framed.writeUInt32LE(maskedCrc32c(framed.subarray(0, 8)), 8)
  payload.copy(framed, 12)
  framed.writeUInt32LE(maskedCrc32c(payload), 12 + payload.length)
  return framed
}
