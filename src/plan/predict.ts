// How long a step takes and what bounds it, as pure functions: the work of a step (from the plan) and
// the rates of a machine (from calibrate.ts) in, milliseconds out. Nothing is measured or opened here.
//
//   compute  products + making the tiles + attention + the rest
//   upload   bytes / upload rate           disk   bytes / rate of the tier they come from
//   step     the longest of the three, after the first slab has arrived
//
// On the cpu device all host work shares the cores with the products: it adds up in compute.

/** Points [x, y] with rising x; between them y is taken from a straight line. */
type Curve = readonly (readonly [x: number, y: number])[]

/** What a device and its host can do. ns are of one weight element unless it says otherwise. */
export interface Rates {
  /** Whether the device's operations run on the host's cores. */
  readonly sharesCores: boolean
  readonly threads: number
  /** By rows multiplied at once: ns of a product with f32 weights as they are. */
  readonly products: Curve
  /** ns of widening to f32, of making one perturbed version, of replaying one update. */
  readonly widen: number
  readonly version: number
  readonly term: number
  /** ns that a logit of the head costs beyond its product. */
  readonly logit: number
  /** By log2 of tokens: ns of one query, key and column. */
  readonly attention: Curve
  /** ns of a row's multiply-add with the factors of an addend. */
  readonly addends: Readonly<Record<'low-rank' | 'kronecker', number>>
  /** ns of an element of a norm or a sum. */
  readonly element: number
  /** Of the smallest operation, ms. */
  readonly callMs: number
  /** Of reading one row of a table, ms. */
  readonly rowReadMs: number
  /** ns of folding, and of one update in it, on one thread. */
  readonly fold: number
  readonly foldTerm: number
  /** Bytes per second; null where slabs are read straight into the device's memory. */
  readonly uploadRate: number | null
  /** Of files in the page cache by one thread, and of synthetic weights. */
  readonly cachedRate: number
  readonly syntheticRate: number
}

/** Where slabs come from: the page cache, the disk, or nowhere (synthetic). */
export type Tier = 'memory' | 'disk' | 'synthetic'

/** Bytes per step, the mean over a run. */
export interface Traffic {
  readonly readBytes: number
  readonly uploadBytes: number
  readonly downloadBytes: number
}

/** What a step asks for, the mean over a run; every row is labelled. */
export interface StepWork {
  readonly probes: number
  readonly batch: number
  /** Of each text: nobody asks what comes after its last token. */
  readonly rowsPerText: number
  /** Over the weights, and in how many parts the texts go. */
  readonly passes: number
  readonly textParts: number
  readonly layers: number
  readonly hidden: number
  readonly vocabSize: number
  /** Elements of the matrices, the head's too: those with a version per probe, those with one. */
  readonly partedElements: number
  readonly sharedElements: number
  /** Whether the one version is in the file as it is used (f32, nothing owed). */
  readonly ready: boolean
  /** Updates that a parted matrix owes. */
  readonly terms: number
  /** Multiply-adds of addends for one row of one probe; null where there are none. */
  readonly addend: { readonly kind: 'low-rank' | 'kronecker'; readonly macs: number } | null
  /** Elements folded, and the updates of each. */
  readonly foldElements: number
  readonly foldTerms: number
  readonly traffic: Traffic
  /** Of the largest streamed slab; 0 if all are resident. */
  readonly slabBytes: number
}

interface Prediction {
  readonly stepMs: number
  readonly computeMs: number
  readonly uploadMs: number
  readonly diskMs: number
  readonly bound: 'compute' | 'upload' | 'disk'
  /** The smallest batch at which compute hides all traffic; null if none below 2^20 does. */
  readonly breakEvenBatch: number | null
}

const NS = 1e-6
/** Operations of a block that are not products: norms, sums, attention, relu, and calls around them. */
const CALLS_PER_LAYER = 12
/** Passes over [R, C] of a block that norms and sums make. */
const SWEEPS_PER_LAYER = 4
const MOST_BATCH = 2 ** 20

/** `diskRate` is in bytes per second and counts where `tier` is 'disk'. */
export function predictStep(
  work: StepWork,
  rates: Rates,
  tier: Tier,
  diskRate: number,
): Prediction {
  const { readBytes, uploadBytes } = work.traffic
  const rate = { memory: rates.cachedRate, disk: diskRate, synthetic: rates.syntheticRate }[tier]
  const upload = (bytes: number) =>
    rates.uploadRate === null ? 0 : (1000 * bytes) / rates.uploadRate
  const [readMs, uploadMs] = [(1000 * readBytes) / rate, upload(uploadBytes)]
  // Copies out of the page cache are made by several threads, synthetic weights by the main one.
  const copyMs = { memory: readMs / rates.threads, disk: 0, synthetic: readMs }[tier]
  const diskMs = rates.sharesCores && tier === 'synthetic' ? 0 : readMs
  const compute = (batch: number) =>
    computeMs(work, rates, batch) + (rates.sharesCores ? copyMs : 0)

  const traffic = Math.max(uploadMs, diskMs)
  const computed = compute(work.batch)
  const first = work.passes * ((1000 * work.slabBytes) / rate + upload(work.slabBytes))
  return {
    stepMs: Math.max(computed, traffic) + first,
    computeMs: computed,
    uploadMs,
    diskMs,
    bound: computed >= traffic ? 'compute' : uploadMs > diskMs ? 'upload' : 'disk',
    breakEvenBatch: smallest((batch) => compute(batch) >= traffic),
  }
}

/** Of a step with `batch` texts, without waits for weights. */
function computeMs(work: StepWork, rates: Rates, batch: number): number {
  const { probes, rowsPerText, layers, hidden, partedElements, sharedElements, terms } = work
  const rows = batch * rowsPerText
  const all = probes * rows
  const { passes, textParts } = work
  /** ns of a weight element's products with so many rows, in `parts` passes. */
  const products = (count: number, parts: number) =>
    parts * interpolate(rates.products, count / parts, 1)
  const version = probes * (textParts * rates.version + products(rows, textParts))
  const widen = work.ready ? 0 : rates.widen
  const ns =
    partedElements * (version + passes * terms * rates.term) +
    sharedElements * (passes * widen + products(all, passes)) +
    all * work.vocabSize * rates.logit +
    (work.addend ? all * work.addend.macs * rates.addends[work.addend.kind] : 0) +
    layers * all * rowsPerText * hidden * interpolate(rates.attention, Math.log2(rowsPerText), 0) +
    SWEEPS_PER_LAYER * layers * all * hidden * rates.element
  const foldMs =
    (work.foldElements * (rates.fold + work.foldTerms * rates.foldTerm) * NS) / rates.threads
  const host = rows * rates.rowReadMs + (rates.sharesCores ? foldMs : 0)
  return ns * NS + CALLS_PER_LAYER * layers * passes * rates.callMs + host
}

/** Beyond the last point y grows as x^power; before the first it is the first. */
function interpolate(curve: Curve, x: number, power: 0 | 1): number {
  const next = curve.findIndex(([at]) => at >= x)
  if (next === 0) return curve[0]![1]
  if (next < 0) {
    const [lastX, lastY] = curve.at(-1)!
    return lastY * (x / lastX) ** power
  }
  const [[x0, y0], [x1, y1]] = [curve[next - 1]!, curve[next]!]
  return y0 + ((x - x0) / (x1 - x0)) * (y1 - y0)
}

/** The smallest whole number for which `holds`, which stays true once it is. */
function smallest(holds: (n: number) => boolean): number | null {
  let high = 1
  while (!holds(high)) if ((high *= 2) > MOST_BATCH) return null
  let low = high / 2
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (holds(middle)) high = middle
    else low = middle
  }
  return high
}

/** What a run reads: the base until the first fold, then folded weights; resident slabs per fold. */
interface TrafficInput {
  readonly steps: number
  /** Steps between two folds; Infinity where none happens. */
  readonly foldEvery: number
  /** Over the weights in each step. */
  readonly passes: number
  /** Bytes of one pass over the streamed slabs, as the files have them and once folded. */
  readonly streamed: { readonly baseBytes: number; readonly foldedBytes: number }
  readonly resident: { readonly baseBytes: number; readonly foldedBytes: number }
}

/** The mean over the run's steps. Weights are never downloaded. */
export function trafficOf({ steps, foldEvery, passes, streamed, resident }: TrafficInput): Traffic {
  const count = Math.max(1, steps)
  const before = Math.min(count, foldEvery)
  const folds = Math.floor((count - 1) / foldEvery)
  const streamedBytes =
    passes * (before * streamed.baseBytes + (count - before) * streamed.foldedBytes)
  const residentBytes = resident.baseBytes + folds * resident.foldedBytes
  const readBytes = Math.round((streamedBytes + residentBytes) / count)
  return { readBytes, uploadBytes: readBytes, downloadBytes: 0 }
}
