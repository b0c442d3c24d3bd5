// Writes a ZIP archive as torch.save does: entries stored, each one's bytes from a multiple of 64 on,
// sizes and checksum behind them, ZIP64 where the archive passes 4 GiB. Entries come as streams of
// chunks, in bounded memory. Leaves reading to zip.ts and the entries' meaning to the caller.
// Source: PKWARE APPNOTE 6.3.10; caffe2/serialize/inline_container.cc (alignment).

import { crc32 } from 'node:zlib'
import type { Append } from '../../io/atomic.ts'

const ALIGN = 64
const LIMIT = 0xffffffff
/** Sizes follow the data (bit 3), names are UTF-8 (bit 11). */
const FLAGS = 0x0808
/** ZIP 4.5, which has ZIP64. */
const VERSION = 45
/** The first day that the format knows: archives of equal content are equal. */
const DATE = 0x0021
/** Extra field that is only padding, as PyTorch marks it. */
const PADDING_ID = 0x4246

interface Entry {
  readonly name: Buffer
  readonly offset: number
  readonly bytes: number
  readonly crc: number
}

interface ZipWriter {
  /** Adds an entry of less than 4 GiB, whose chunks may be reused once `write` has resolved. */
  add(name: string, fill: (write: Append) => Promise<void>): Promise<void>
  /** Writes the directory; nothing may follow. */
  finish(): Promise<void>
}

/** An archive that is appended from its first byte on. */
export function createZipWriter(append: Append): ZipWriter {
  const entries: Entry[] = []
  let position = 0
  const put = async (chunk: Uint8Array) => {
    await append(chunk)
    position += chunk.length
  }
  return {
    async add(name, fill) {
      const encoded = Buffer.from(name)
      const offset = position
      await put(localHeader(encoded, offset))
      let [bytes, crc] = [0, 0]
      await fill(async (chunk) => {
        crc = crc32(chunk, crc)
        bytes += chunk.length
        await put(chunk)
      })
      if (bytes >= LIMIT) throw new Error(`${name}: ${bytes} bytes are too many for one entry`)
      await put(pack('IIII', 0x08074b50, crc, bytes, bytes))
      entries.push({ name: encoded, offset, bytes, crc })
    },
    async finish() {
      const start = position
      for (const entry of entries) await put(centralHeader(entry))
      await put(endRecords(entries.length, start, position - start))
    },
  }
}

const SIZES: Readonly<Record<string, number>> = { H: 2, I: 4, Q: 8 }

/** Unsigned little-endian numbers: H has 2 bytes, I 4, Q 8 (as Python's struct.pack). */
function pack(format: string, ...values: readonly number[]): Buffer {
  const sizes = [...format].map((letter) => SIZES[letter]!)
  const out = Buffer.alloc(sizes.reduce((sum, size) => sum + size, 0))
  let at = 0
  for (const [i, size] of sizes.entries()) {
    if (size === 8) out.writeBigUInt64LE(BigInt(values[i]!), at)
    else out.writeUIntLE(values[i]!, at, size)
    at += size
  }
  return out
}

function localHeader(name: Buffer, offset: number): Buffer {
  const unpadded = offset + 30 + name.length + 4
  const padding = (ALIGN - (unpadded % ALIGN)) % ALIGN
  const common = pack('IHHHHH', 0x04034b50, VERSION, FLAGS, 0, 0, DATE)
  const sizes = pack('IIIHH', 0, 0, 0, name.length, 4 + padding)
  const extra = pack('HH', PADDING_ID, padding)
  return Buffer.concat([common, sizes, name, extra, Buffer.alloc(padding, 'Z')])
}

function centralHeader({ name, offset, bytes, crc }: Entry): Buffer {
  const extra = offset < LIMIT ? Buffer.alloc(0) : pack('HHQ', 1, 8, offset)
  const common = pack('IHHHHHH', 0x02014b50, VERSION, VERSION, FLAGS, 0, 0, DATE)
  const sizes = pack('IIIHH', crc, bytes, bytes, name.length, extra.length)
  const place = pack('HHHII', 0, 0, 0, 0, Math.min(offset, LIMIT))
  return Buffer.concat([common, sizes, place, name, extra])
}

/** ZIP64's end record and its locator always, and the old end record. */
function endRecords(count: number, start: number, bytes: number): Buffer {
  const end64 = pack('IQHHII', 0x06064b50, 44, VERSION, VERSION, 0, 0)
  const totals64 = pack('QQQQ', count, count, bytes, start)
  const locator = pack('IIQI', 0x07064b50, 0, start + bytes, 1)
  const few = Math.min(count, 0xffff)
  const end = pack('IHHHH', 0x06054b50, 0, 0, few, few)
  const totals = pack('IIH', bytes, Math.min(start, LIMIT), 0)
  return Buffer.concat([end64, totals64, locator, end, totals])
}
