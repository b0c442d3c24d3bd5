// The rates of this machine: measured once, then kept in the user's cache folder by device and
// version. Also the rates of files, which belong to a disk and not to a device. A damaged cache is
// measured anew; one that cannot be written costs only the time.

import { constants } from 'node:fs'
import { mkdir, mkdtemp, open, rm, stat } from 'node:fs/promises'
import { availableParallelism, homedir, loadavg } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { calibrate } from './calibrate.ts'
import type { Device } from './device/device.ts'
import type { Rates } from './predict.ts'
import { VERSION } from './version.ts'
import { writeTextAtomically } from './weights/atomic.ts'
import { readJsonObject } from './weights/files.ts'

const MAX_CACHE_BYTES = 2 ** 20
const FILE_BYTES = 2 ** 26
const CHUNK_BYTES = 2 ** 23
const PAGE_BYTES = 2 ** 16
const ROW_BYTES = 4096
const ROW_READS = 256

const Curve = z
  .array(z.tuple([z.number(), z.number()]).readonly())
  .min(1)
  .readonly()
const rate = z.number().positive()
const cost = z.number().nonnegative()
const Measured = z.object({
  kind: z.enum(['cpu', 'webgpu']),
  ...{ threads: rate, products: Curve, widen: cost, version: cost, term: cost, logit: cost },
  ...{ attention: Curve, addend: cost, element: cost, callMs: cost, rowReadMs: cost },
  ...{ fold: cost, foldTerm: cost, uploadRate: rate.nullable() },
  ...{ cachedRate: rate, syntheticRate: rate },
}) satisfies z.ZodType<Rates>
const Cache = z.object({
  devices: z.record(z.string(), z.object({ load: cost, rates: Measured })),
  disks: z.record(z.string(), rate),
})
type Cache = z.output<typeof Cache>

/** `$XDG_CACHE_HOME/zo2`, by default `~/.cache/zo2`. */
const folder = () => join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'zo2')
const cachePath = () => join(folder(), 'calibration.json')

async function readCache(): Promise<Cache> {
  const found = Cache.safeParse(
    await readJsonObject(cachePath(), MAX_CACHE_BYTES).catch(() => null),
  )
  return found.success ? found.data : { devices: {}, disks: {} }
}

async function keep(change: (cache: Cache) => void): Promise<void> {
  const cache = await readCache()
  change(cache)
  // Without a place for the cache the next plan measures again.
  await writeTextAtomically(cachePath(), `${JSON.stringify(cache, null, 1)}\n`).catch(() => {})
}

/** Processes that want a core, per core; above QUIET others slow down what is measured. */
const loadPerCore = () => (loadavg()[0] ?? 0) / availableParallelism()
const QUIET = 1.2

/**
 * The rates of an open device, from the cache unless `redo`, or unless they were taken on a machine
 * that was busier than it is now; `announce` is called before measuring.
 */
export async function ratesOf(
  device: Device,
  options: {
    readonly threads: number
    readonly redo: boolean
    readonly announce: (busy: boolean) => void
  },
): Promise<Rates> {
  const { threads, redo } = options
  const key = `${VERSION}, ${device.info.kind}, ${device.info.name}, ${threads} threads`
  const load = loadPerCore()
  const known = (await readCache()).devices[key]
  if (known && !redo && (known.load <= QUIET || known.load <= 2 * load)) return known.rates
  options.announce(load > QUIET)
  const rates = {
    ...(await calibrate(device, threads)),
    ...(await withFile(folder(), FILE_BYTES, cachedReads)),
  }
  await keep((cache) => (cache.devices[key] = { load, rates }))
  return rates
}

/**
 * Bytes per second of reading past the page cache: of `file`, or of a new one in the cache folder if
 * there is none or it is small. Kept by disk.
 */
export async function diskRate(file: string | undefined, redo: boolean): Promise<number> {
  const found = file === undefined ? undefined : await stat(file)
  const own = found && found.size >= FILE_BYTES
  await mkdir(folder(), { recursive: true })
  const key = String(own ? found.dev : (await stat(folder())).dev)
  const known = (await readCache()).disks[key]
  if (known && !redo) return known
  const measured = own
    ? await directRate(file!, found.size)
    : await withFile(folder(), 4 * FILE_BYTES, (path) => directRate(path, 4 * FILE_BYTES))
  await keep((cache) => (cache.disks[key] = measured))
  return measured
}

/** Lends a file of `bytes` that is on the disk. */
async function withFile<T>(
  dir: string,
  bytes: number,
  use: (path: string) => Promise<T>,
): Promise<T> {
  await mkdir(dir, { recursive: true })
  const own = await mkdtemp(join(dir, 'reads-'))
  try {
    const path = join(own, 'file')
    const handle = await open(path, 'wx')
    try {
      const chunk = new Uint8Array(CHUNK_BYTES)
      for (let i = 0; i < chunk.length; i++) chunk[i] = (i * 167) >> 3 // not zeros: no holes
      for (let at = 0; at < bytes; at += chunk.length)
        await handle.write(chunk, 0, chunk.length, at)
      await handle.sync()
    } finally {
      await handle.close()
    }
    return await use(path)
  } finally {
    await rm(own, { recursive: true, force: true })
  }
}

/** What was just written is in the page cache: bytes per second of one reader, ms of a small read. */
async function cachedReads(path: string) {
  const handle = await open(path, 'r')
  try {
    const into = new Uint8Array(FILE_BYTES)
    const times: number[] = []
    for (let i = 0; i < 3; i++) {
      const started = performance.now()
      await handle.read(into, 0, FILE_BYTES, 0)
      times.push(performance.now() - started)
    }
    const started = performance.now()
    await Promise.all(
      Array.from({ length: ROW_READS }, (_, i) => {
        const row = into.subarray(i * ROW_BYTES, (i + 1) * ROW_BYTES)
        return handle.read(row, 0, ROW_BYTES, i * PAGE_BYTES)
      }),
    )
    const rowReadMs = (performance.now() - started) / ROW_READS
    return { cachedRate: (1000 * FILE_BYTES) / Math.min(...times), rowReadMs }
  } finally {
    await handle.close()
  }
}

/** Direct reads of up to 256 MiB from the middle; plain ones where the system has no direct ones. */
async function directRate(path: string, size: number): Promise<number> {
  // Node leaves the flag out where there is none, whatever its types say.
  const direct = (constants.O_DIRECT as number | undefined) ?? 0
  const flags = constants.O_RDONLY | direct
  const handle = await open(path, flags).catch(() => open(path, constants.O_RDONLY))
  try {
    // Direct reads want memory that begins on a page: WebAssembly's does.
    const pages = CHUNK_BYTES / PAGE_BYTES
    const into = new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer)
    const bytes = Math.min(4 * FILE_BYTES, Math.floor(size / CHUNK_BYTES) * CHUNK_BYTES)
    const first = Math.floor((size - bytes) / 2 / PAGE_BYTES) * PAGE_BYTES
    const started = performance.now()
    for (let at = 0; at < bytes; at += into.length)
      await handle.read(into, 0, into.length, first + at)
    return (1000 * bytes) / (performance.now() - started)
  } finally {
    await handle.close()
  }
}
