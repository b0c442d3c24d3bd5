// The rates of this machine: measured once, then kept in the user's cache folder by device and
// version. Also the rates of files, which belong to a disk and not to a device. A damaged cache is
// measured anew; one that cannot be written costs only the time.

import { mkdir, stat } from 'node:fs/promises'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { cacheFolder } from '../io/cache-folder.ts'
import { calibrateHost, DISK_BYTES, measureDisk } from './calibrate-host.ts'
import { calibrate } from './calibrate.ts'
import type { Device } from '../device/device.ts'
import type { Noise } from '../noise/distributions.ts'
import type { Rates } from './predict.ts'
import { VERSION } from '../util/version.ts'
import { writeTextAtomically } from '../io/atomic.ts'
import { readJsonObject } from '../io/read.ts'

const MAX_CACHE_BYTES = 2 ** 20

const Curve = z
  .array(z.tuple([z.number(), z.number()]).readonly())
  .min(1)
  .readonly()
const rate = z.number().positive()
const cost = z.number().nonnegative()
const Measured = z.object({
  sharesCores: z.boolean(),
  threads: rate,
  products: Curve,
  widen: cost,
  version: cost,
  term: cost,
  logit: cost,
  attention: Curve,
  element: cost,
  callMs: cost,
  rowReadMs: cost,
  addends: z.object({ 'low-rank': cost, kronecker: cost }),
  fold: cost,
  foldTerm: cost,
  uploadRate: rate.nullable(),
  cachedRate: rate,
  syntheticRate: rate,
}) satisfies z.ZodType<Rates>
const Cache = z.object({
  devices: z.record(z.string(), z.object({ load: cost, rates: Measured })),
  disks: z.record(z.string(), rate),
})
type Cache = z.output<typeof Cache>

const cachePath = () => join(cacheFolder(), 'calibration.json')

async function readCache(): Promise<Cache> {
  const found = Cache.safeParse(
    await readJsonObject(cachePath(), MAX_CACHE_BYTES).catch(() => null),
  )
  return found.success ? found.data : { devices: {}, disks: {} }
}

async function keep(change: (cache: Cache) => void): Promise<void> {
  const cache = await readCache()
  change(cache)
  await mkdir(cacheFolder(), { recursive: true }).catch(() => {})
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
    readonly noise: Noise
    readonly redo: boolean
    readonly announce: (busy: boolean) => void
  },
): Promise<Rates> {
  const { threads, noise, redo } = options
  const { kind, name, detail } = device.info
  const key = `${VERSION}, ${kind}, ${name}, ${detail}, ${threads} threads, ${noise}`
  const load = loadPerCore()
  const known = (await readCache()).devices[key]
  if (known && !redo && (known.load <= QUIET || known.load <= 2 * load)) return known.rates
  options.announce(load > QUIET)
  const rates = {
    ...(await calibrate(device, threads, noise)),
    ...(await calibrateHost(tmpdir(), noise)),
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
  const own = found && found.size >= DISK_BYTES ? file : undefined
  // A home that cannot be written is no reason to have no plan.
  const dir = await mkdir(cacheFolder(), { recursive: true }).then(cacheFolder, tmpdir)
  const key = String((own === undefined ? await stat(dir) : found!).dev)
  const known = (await readCache()).disks[key]
  if (known && !redo) return known
  const measured = await measureDisk(own, dir)
  await keep((cache) => (cache.disks[key] = measured))
  return measured
}
