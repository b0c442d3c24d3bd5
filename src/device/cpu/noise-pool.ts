// Tiles as products take them: raw tiles in, perturbed f32 versions out, in the order asked for, made by
// a pool of noise workers; f16 that is only to be widened is left to the library, which is faster. Raw
// bytes and the fixed set of buffers for the versions are memory shared with the workers; buffers that
// travel to and fro would count as garbage of every thread they leave (CHANGELOG, 2026-11-24).
// Tiles are made in bursts, each worker an equal part of every tile, and the next burst starts when all of
// the last one are used up: noise and matrix products take turns on all cores. Side by side they cost more,
// for they push each other out of the caches (CHANGELOG, 2026-11-22). What noise means is in src/noise.

import type { Worker } from 'node:worker_threads'
import { perturbs, type Recipe } from '../../noise/distributions.ts'
import { startWorker } from '../../util/threads.ts'
import { DTYPE_BYTES, type DType } from '../../util/dtypes.ts'
import { RING_TILES } from './memory.ts'
import { onHugePages } from './huge-pages.ts'

/** Elements [first, first + count) of a tensor; raw is a view of shared memory. */
export interface PrepareJob {
  readonly raw: Uint8Array
  readonly dtype: DType
  readonly first: number
  readonly count: number
  /** One version is made for each scale. */
  readonly recipe: Recipe
}

/** A worker's part of a tile: a job of its own, and where its versions go. */
export interface PreparePart {
  readonly job: PrepareJob
  readonly versions: readonly Float32Array[]
}

/** What went wrong with each part, undefined where nothing did. */
export type PrepareReply = readonly unknown[]

/** A job under way. */
export interface Prepared {
  /** The versions, each of `count` elements or more; rejects on a worker's error or close. */
  readonly versions: Promise<Float32Array[]>
  /** Resolves, never rejects, once the raw bytes are no longer read. */
  readonly read: Promise<void>
  /** Gives the buffers back, or forgets the job if it has not been made. Safe to call twice. */
  release(): void
}

interface Entry {
  readonly job: PrepareJob
  state: 'waiting' | 'running' | 'ready' | 'over'
  /** Which set of buffers it holds: those of a replaced set are dropped, not given back. */
  set: number
  released: boolean
  buffers: SharedArrayBuffer[]
  /** Parts that workers have not made yet, and what the first failed with. */
  parts: number
  error: unknown
  resolve(versions: Float32Array[]): void
  reject(error: unknown): void
  readDone(): void
}

/** y = x, an f16 each. */
type Widen = (x: Uint16Array, y: Float32Array) => Promise<void>

const onlyWidened = ({ dtype, recipe }: PrepareJob) =>
  dtype === 'F16' && recipe.terms.length === 0 && recipe.scales.length === 1 && !perturbs(recipe)

interface Member {
  readonly worker: Worker
  /** The tiles of each burst that it has to make its parts of: more than one after `reserve`. */
  readonly running: (readonly Entry[])[]
}

/** Tiles are parted at multiples of so many elements: whole turns of the noise kernel, whole cache lines. */
const PART_ELEMENTS = 1024

/** Part `i` of `count` about equal ones; the last ones of a small tile are empty. */
function partOf({ job, buffers }: Entry, i: number, count: number): PreparePart {
  const size = Math.ceil(job.count / count / PART_ELEMENTS) * PART_ELEMENTS
  const start = Math.min(job.count, i * size)
  const end = Math.min(job.count, start + size)
  const bytes = DTYPE_BYTES[job.dtype]
  const raw = job.raw.subarray(start * bytes, end * bytes)
  return {
    job: { ...job, raw, first: job.first + start, count: end - start },
    versions: buffers.map((buffer) => new Float32Array(buffer, start * 4, end - start)),
  }
}

/** Worker threads that do not keep the process alive while idle. */
export class NoisePool {
  readonly #members: Member[]
  readonly #widen: Widen
  readonly #widening = new Map<Entry, Promise<void>>()
  #free: SharedArrayBuffer[] = []
  #set = 0
  /** Jobs that hold buffers: what is left of the burst. */
  #burst = 0
  #waiting: Entry[] = []
  #failure: Error | undefined

  constructor(workers: number, widen: Widen) {
    this.#widen = widen
    this.#members = Array.from({ length: workers }, () => this.#startMember())
  }

  /** Replaces the buffers: `count` of `elements` f32 each. RangeError when there is no memory. */
  reserve(count: number, elements: number): void {
    if (this.#waiting.length > 0) {
      throw new Error('cpu device: reserve() while committed slabs are neither used nor discarded')
    }
    this.#set++
    this.#burst = 0
    this.#free = [] // let go of the old ones before the new ones are made
    this.#free = Array.from({ length: count }, () => {
      const buffer = new SharedArrayBuffer(elements * 4)
      onHugePages(new Uint8Array(buffer))
      return buffer
    })
  }

  /** Jobs are made in the order of the calls; `reserve` must have made room for their versions. */
  submit(job: PrepareJob): Prepared {
    const { entry, versions, read } = createEntry(job)
    if (this.#failure) {
      entry.readDone()
      entry.reject(this.#failure)
    } else {
      this.#waiting.push(entry)
      this.#dispatch()
    }
    return { versions, read, release: () => this.#release(entry) }
  }

  /** Ends the threads; every job that has not been made rejects. */
  async close(): Promise<void> {
    this.#fail(new Error('the cpu device is closed'))
    this.#set++
    this.#free = []
    await Promise.all([
      ...this.#members.map((m) => m.worker.terminate()),
      ...this.#widening.values(),
    ])
  }

  #startMember(): Member {
    const worker = startWorker('./noise-worker', import.meta.url)
    const member: Member = { worker, running: [] }
    member.worker.on('message', (reply: PrepareReply) => this.#receive(member, reply))
    member.worker.on('error', (error) => this.#fail(error))
    member.worker.on('exit', () => this.#fail(new Error('a noise worker of the cpu device ended')))
    member.worker.unref()
    return member
  }

  #dispatch(): void {
    if (this.#burst > 0) return
    const noisy: Entry[] = []
    while (this.#burst < RING_TILES) {
      const [entry] = this.#waiting
      const versions = entry?.job.recipe.scales.length ?? 0
      if (!entry || versions > this.#free.length) break
      this.#waiting.shift()
      this.#burst++
      entry.state = 'running'
      entry.buffers = this.#free.splice(0, versions)
      entry.set = this.#set
      if (onlyWidened(entry.job)) this.#startWidening(entry)
      else noisy.push(entry)
    }
    if (noisy.length === 0) return
    for (const [i, member] of this.#members.entries()) {
      const parts = noisy.map((entry) => partOf(entry, i, this.#members.length))
      for (const entry of noisy) entry.parts++
      member.running.push(noisy)
      member.worker.ref() // the process must not end while somebody may wait for these jobs
      member.worker.postMessage(parts)
    }
  }

  #startWidening(entry: Entry): void {
    const { raw, count } = entry.job
    const x = new Uint16Array(raw.buffer, raw.byteOffset, count)
    const over = (error?: unknown) => {
      this.#widening.delete(entry)
      if (entry.state === 'running') this.#made(entry, error)
    }
    const y = new Float32Array(entry.buffers[0]!, 0, count)
    this.#widening.set(
      entry,
      this.#widen(x, y).then(() => over(), over),
    )
  }

  #receive(member: Member, errors: PrepareReply): void {
    const entries = member.running.shift() ?? [] // none if all have failed meanwhile
    if (member.running.length === 0) member.worker.unref()
    for (const [k, entry] of entries.entries()) {
      entry.error ??= errors[k]
      if (--entry.parts === 0) this.#made(entry, entry.error)
    }
  }

  #made(entry: Entry, error: unknown): void {
    entry.state = 'ready'
    entry.readDone()
    if (error !== undefined) entry.reject(error)
    else entry.resolve(entry.buffers.map((b) => new Float32Array(b)))
    if (entry.released) this.#giveBack(entry)
    this.#dispatch()
  }

  #release(entry: Entry): void {
    if (entry.released) return
    entry.released = true
    if (entry.state === 'ready') this.#giveBack(entry)
    if (entry.state === 'waiting') {
      this.#waiting = this.#waiting.filter((e) => e !== entry)
      entry.state = 'over'
      entry.readDone()
    }
    if (!this.#failure) this.#dispatch()
  }

  #giveBack(entry: Entry): void {
    if (entry.set === this.#set) {
      for (const buffer of entry.buffers) this.#free.push(buffer)
      this.#burst--
    }
    entry.buffers = []
    entry.state = 'over'
  }

  /** The first failure ends all jobs, now and later. */
  #fail(error: Error): void {
    const failure = (this.#failure ??= error)
    const running = this.#members.flatMap((m) => m.running.splice(0).flat())
    for (const entry of [...running, ...this.#widening.keys(), ...this.#waiting]) {
      entry.state = 'over'
      entry.readDone()
      entry.reject(failure)
    }
    this.#waiting = []
  }
}

function createEntry(job: PrepareJob) {
  let settle!: Pick<Entry, 'resolve' | 'reject'>
  let readDone!: () => void
  const versions = new Promise<Float32Array[]>((resolve, reject) => (settle = { resolve, reject }))
  const read = new Promise<void>((resolve) => (readDone = resolve))
  // A job made ahead may fail before anyone waits for it; whoever does wait still gets the error.
  versions.catch(() => {})
  const entry: Entry = {
    job,
    state: 'waiting',
    set: 0,
    released: false,
    buffers: [],
    parts: 0,
    error: undefined,
    ...settle,
    readDone,
  }
  return { entry, versions, read }
}
