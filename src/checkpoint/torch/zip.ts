// The directory of a ZIP archive as PyTorch writes it: entries stored, ZIP64 where sizes need it,
// and each entry's bytes located through its local header. Every number is checked against the
// file before it is used; entries may not overlap. Nothing is decompressed: a deflated entry is
// refused.
// Leaves the meaning of entries to bin.ts.
// Source: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3.
import type { FileHandle } from 'node:fs/promises'
import { UserError } from '../../util/errors.ts'
import { readFully } from '../../io/read.ts'
import { quote } from '../../util/untrusted.ts'

/** Where a stored entry's bytes lie in the archive. */
export interface ZipEntry {
  readonly name: string
  readonly offsetBytes: number
  readonly bytes: number
}

/** A 66B checkpoint in one file has a directory of about 100 kB. */
const MAX_DIRECTORY_BYTES = 4 << 20
/** Each entry costs one read of its local header. */
const MAX_ENTRIES = 65536
const END_BYTES = 22
const LOCATOR_BYTES = 20
const END64_BYTES = 56
const CENTRAL_BYTES = 46
const LOCAL_BYTES = 30
const MAX_COMMENT_BYTES = 0xffff
const IN_ZIP64 = 0xffffffff

interface Archive {
  readonly handle: FileHandle
  readonly file: string
  readonly fileBytes: number
}

interface Directory {
  readonly offsetBytes: number
  readonly bytes: number
  readonly entries: number
}

interface CentralEntry {
  readonly name: string
  readonly bytes: number
  readonly localOffsetBytes: number
}

/**
 * Reads the archive's directory: its entries by name, all within the file. UserError if malformed.
 */
export async function readZipDirectory(
  handle: FileHandle,
  file: string,
  fileBytes: number,
): Promise<Map<string, ZipEntry>> {
  const archive = { handle, file, fileBytes }
  const directory = await findDirectory(archive)
  const central = parseDirectory(
    archive,
    directory,
    await readAt(archive, directory.offsetBytes, directory.bytes),
  )
  const entries = new Map<string, ZipEntry>()
  for (const entry of central) {
    if (entries.has(entry.name)) throw broken(archive, `entry ${quote(entry.name)} appears twice`)
    entries.set(entry.name, await locate(archive, entry, directory.offsetBytes))
  }
  checkApart(archive, [...entries.values()])
  return entries
}

function broken({ file }: Archive, fault: string): UserError {
  return new UserError(
    `${file}: expected a ZIP archive as torch.save writes it, but ${fault}; ` +
      `the file is damaged or truncated, download it again`,
  )
}

async function readAt(archive: Archive, offsetBytes: number, bytes: number): Promise<DataView> {
  if (!(offsetBytes >= 0 && offsetBytes + bytes <= archive.fileBytes)) {
    throw broken(archive, `bytes ${offsetBytes} to ${offsetBytes + bytes} lie outside it`)
  }
  const into = new Uint8Array(bytes)
  await readFully(archive.handle, archive.file, offsetBytes, into)
  return new DataView(into.buffer)
}

/**
 * A 64-bit field as a number; one that no file can reach becomes infinite and fails range checks.
 */
function u64(view: DataView, at: number): number {
  const value = Number(view.getBigUint64(at, true))
  return Number.isSafeInteger(value) ? value : Infinity
}

async function findDirectory(archive: Archive): Promise<Directory> {
  const tailBytes = Math.min(archive.fileBytes, END_BYTES + MAX_COMMENT_BYTES)
  const tailStart = archive.fileBytes - tailBytes
  const tail = await readAt(archive, tailStart, tailBytes)
  for (let at = tailBytes - END_BYTES; at >= 0; at--) {
    if (tail.getUint32(at, true) !== 0x06054b50) continue
    if (at + END_BYTES + tail.getUint16(at + 20, true) !== tailBytes) continue
    const directory = (await findDirectory64(archive, tailStart + at)) ?? {
      entries: tail.getUint16(at + 10, true),
      bytes: tail.getUint32(at + 12, true),
      offsetBytes: tail.getUint32(at + 16, true),
    }
    const { bytes, entries } = directory
    if (bytes > MAX_DIRECTORY_BYTES || entries > MAX_ENTRIES) {
      throw broken(archive, `its directory claims ${entries} entries in ${bytes} bytes`)
    }
    if (directory.offsetBytes + bytes > tailStart + at) {
      throw broken(archive, 'its directory runs over its end record')
    }
    return directory
  }
  throw broken(archive, 'its end record is missing')
}

async function findDirectory64(archive: Archive, endAt: number): Promise<Directory | undefined> {
  if (endAt < LOCATOR_BYTES + END64_BYTES) return undefined
  const locator = await readAt(archive, endAt - LOCATOR_BYTES, LOCATOR_BYTES)
  if (locator.getUint32(0, true) !== 0x07064b50) return undefined
  const end = await readAt(archive, u64(locator, 8), END64_BYTES)
  if (end.getUint32(0, true) !== 0x06064b50)
    throw broken(archive, 'its ZIP64 end record is missing')
  return { entries: u64(end, 32), bytes: u64(end, 40), offsetBytes: u64(end, 48) }
}

function parseDirectory(archive: Archive, directory: Directory, view: DataView): CentralEntry[] {
  const entries: CentralEntry[] = []
  let at = 0
  while (at < view.byteLength) {
    if (at + CENTRAL_BYTES > view.byteLength || view.getUint32(at, true) !== 0x02014b50) {
      throw broken(archive, `entry ${entries.length} of its directory is malformed`)
    }
    const nameBytes = view.getUint16(at + 28, true)
    const extraBytes = view.getUint16(at + 30, true)
    const next = at + CENTRAL_BYTES + nameBytes + extraBytes + view.getUint16(at + 32, true)
    if (next > view.byteLength) {
      throw broken(archive, `entry ${entries.length} of its directory is cut off`)
    }
    entries.push(
      parseEntry(archive, new DataView(view.buffer, at, next - at), nameBytes, extraBytes),
    )
    at = next
  }
  if (entries.length !== directory.entries) {
    throw broken(archive, `it claims ${directory.entries} entries and lists ${entries.length}`)
  }
  return entries
}

/** One central record; `view` spans exactly it. */
function parseEntry(
  archive: Archive,
  view: DataView,
  nameBytes: number,
  extraBytes: number,
): CentralEntry {
  const name = new TextDecoder().decode(
    new Uint8Array(view.buffer, view.byteOffset + CENTRAL_BYTES, nameBytes),
  )
  const encrypted = (view.getUint16(8, true) & 1) !== 0
  if (encrypted || view.getUint16(10, true) !== 0) {
    throw new UserError(
      `${archive.file}: expected entry ${quote(name)} to be stored, found it ` +
        `${encrypted ? 'encrypted' : 'compressed'}; write the file again with torch.save`,
    )
  }
  const fields = [24, 20].map((offset) => view.getUint32(offset, true))
  const values = [...fields, view.getUint32(42, true)]
  const wide = values.filter((value) => value === IN_ZIP64).length
  if (wide > 0) {
    const extra = zip64Extra(view, CENTRAL_BYTES + nameBytes, extraBytes)
    if (extra === undefined || extra.bytes < wide * 8) {
      throw broken(archive, `entry ${quote(name)} lacks its ZIP64 sizes`)
    }
    let at = extra.at
    // The extra field holds, in this order, only those values that did not fit into 32 bits.
    for (const [i, value] of values.entries()) {
      if (value !== IN_ZIP64) continue
      values[i] = u64(view, at)
      at += 8
    }
  }
  const [bytes, storedBytes, localOffsetBytes] = values as [number, number, number]
  if (bytes !== storedBytes) throw broken(archive, `entry ${quote(name)} has two different sizes`)
  return { name, bytes, localOffsetBytes }
}

function zip64Extra(
  view: DataView,
  start: number,
  extraBytes: number,
): { at: number; bytes: number } | undefined {
  const end = start + extraBytes
  for (let at = start; at + 4 <= end; at += 4 + view.getUint16(at + 2, true)) {
    const bytes = view.getUint16(at + 2, true)
    if (view.getUint16(at, true) === 1 && at + 4 + bytes <= end) return { at: at + 4, bytes }
  }
  return undefined
}

/**
 * The data start: only the local header knows it, as its extra field pads the data to alignment.
 */
async function locate(
  archive: Archive,
  entry: CentralEntry,
  directoryOffsetBytes: number,
): Promise<ZipEntry> {
  const local = await readAt(archive, entry.localOffsetBytes, LOCAL_BYTES)
  if (local.getUint32(0, true) !== 0x04034b50) {
    throw broken(archive, `entry ${quote(entry.name)} has no local header`)
  }
  const skipBytes = LOCAL_BYTES + local.getUint16(26, true) + local.getUint16(28, true)
  const offsetBytes = entry.localOffsetBytes + skipBytes
  if (offsetBytes + entry.bytes > directoryOffsetBytes) {
    throw broken(archive, `entry ${quote(entry.name)} of ${entry.bytes} bytes runs over its end`)
  }
  return { name: entry.name, offsetBytes, bytes: entry.bytes }
}

function checkApart(archive: Archive, entries: ZipEntry[]): void {
  entries.sort((a, b) => a.offsetBytes - b.offsetBytes)
  let end = 0
  for (const entry of entries) {
    if (entry.offsetBytes < end)
      throw broken(archive, `entry ${quote(entry.name)} overlaps another`)
    end = entry.offsetBytes + entry.bytes
  }
}
