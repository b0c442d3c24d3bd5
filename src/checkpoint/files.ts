// The files of a checkpoint's weights, held open while a run reads slabs of them; those of a synthetic
// checkpoint are made up instead. Nothing here keeps a copy of what it reads: the operating system's
// page cache is the memory tier for weights, and what it cannot hold is read past it
// (src/io/direct.ts) where the caller says so.

import { resolve } from 'node:path'
import { openDirect, type DirectReader } from '../io/direct.ts'
import { openForReading, readRange, cannotOpen, type OpenFile } from '../io/read.ts'
import type { ByteRange } from './types.ts'
import { widen } from './gguf/widen.ts'
import { fillSynthetic, isSynthetic } from './synthetic.ts'

/** Weight files held open for reading. */
export interface WeightFiles {
  /**
   * Fills `into` with the tensor's bytes from `offsetBytes` (relative to the tensor) on. `into` may
   * view any memory: a mapped GPU buffer, a SharedArrayBuffer, a slice of a larger array.
   * `direct`: past the page cache, if the files were opened with a direct reader and their file system can.
   * Throws UserError when the file has become shorter or fails.
   */
  read(entry: ByteRange, offsetBytes: number, into: Uint8Array, direct?: boolean): Promise<void>
  /** The file's descriptors, for threads that read on their own; open until `close`. */
  descriptors(file: string): { readonly fd: number; readonly directFd?: number }
  /** Closes every file after the reads in flight have ended. Safe to call twice. */
  close(): Promise<void>
}

/** Opens each distinct path once, for direct reads too if there is a reader. On any failure nothing stays open. */
export async function openFiles(
  paths: readonly string[],
  reader?: DirectReader,
): Promise<WeightFiles> {
  const files = new Map<string, OpenFile>()
  const reading = new Set<Promise<void>>()
  const close = async (): Promise<void> => {
    await Promise.allSettled(reading)
    const open = [...files.values()].flatMap(({ handle, direct }) =>
      direct ? [handle, direct] : handle,
    )
    files.clear()
    await Promise.all(open.map((handle) => handle.close()))
  }
  const find = (path: string): OpenFile => {
    const file = files.get(path)
    if (file === undefined) throw new Error(`${path} is not among the open weight files`)
    return file
  }
  try {
    const real = paths.filter((path) => !isSynthetic(path))
    for (const path of new Set(real.map((path) => resolve(path)))) {
      const { handle } = await openForReading(path)
      files.set(path, { path, handle, direct: null })
      if (reader)
        files.set(path, { path, handle, direct: await openDirect(path).catch(cannotOpen(path)) })
    }
  } catch (error) {
    await close()
    throw error
  }
  return {
    close,
    async read(entry, offsetBytes, into, direct = false) {
      if (!(offsetBytes >= 0 && offsetBytes + into.byteLength <= entry.bytes)) {
        const range = `[${offsetBytes}, ${offsetBytes + into.byteLength})`
        throw new Error(`bytes ${range} lie outside ${entry.name} of ${entry.bytes} bytes`)
      }
      const at = entry.offsetBytes + offsetBytes
      if (isSynthetic(entry.file)) return fillSynthetic(at, into)
      const file = find(entry.file)
      const readRaw = (at: number, bytes: Uint8Array) =>
        readRange(file, at, bytes, direct ? reader : undefined)
      const readWidened = async () => {
        for (const raw of widen(entry.encoding!, offsetBytes, into))
          await readRaw(raw.at, raw.bytes)
      }
      const read = entry.encoding ? readWidened() : readRaw(at, into)
      reading.add(read)
      try {
        await read
      } finally {
        reading.delete(read)
      }
    },
    descriptors(path) {
      const { handle, direct } = find(path)
      return { fd: handle.fd, ...(direct && { directFd: direct.fd }) }
    },
  }
}
