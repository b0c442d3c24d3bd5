// The state of factored methods: within a window of nu steps the right factor R (LOZO's V, KronZO's
// B) of every matrix is constant, so all updates of the window add up in one left factor S, and the
// weights are not touched:
//   theta_t = decay * theta_k + sum over windows since the last fold of S_j o R_j
// with S o R = S R (low-rank, S [m, r], R = V^T) or S (x) R (Kronecker). Windows are folded when F of
// them are complete, at steps that depend on nu and F alone, so that replaying gives the same bits.
// Noise is kept as integers: a direction U o R of unit variance is raw(U) o raw(R) / variance.
// Momentum lives in the left factor and is carried over a window's end by least squares.

import type { NoiseTerm } from '../noise/distributions.ts'
import { NO_CHANGE, type Change, type FactorTerm } from '../noise/factors.ts'
import { noiseKey, type NoiseKey } from '../noise/threefry.ts'
import type { NoiseKernel } from '../noise/wasm.ts'
import { addendOf } from './addend.ts'
import type { Fold, MatrixShape, MethodOptions, Probes, TrainingState, Update } from './method.ts'
import type { Structure } from './structure.ts'

/** One matrix's part of the state. */
interface Tracked {
  readonly shape: MatrixShape
  readonly structure: Structure
  /** Raw noise of the current window; made when first needed. */
  right: Float32Array | null
  /** Of the current window; null while nothing was added to it. */
  sum: Float32Array | null
  momentum: Float32Array | null
  /** Complete windows, oldest first. */
  past: FactorTerm[]
  decay: number
}

/**
 * State of a method with factored directions.
 * @param structureOf how a matrix is factored
 * @param rule.foldWindows windows after which the complete ones are folded; Infinity: never
 * @param rule.beta momentum's, 0 for none
 */
export function startFactored(
  options: MethodOptions,
  matrices: readonly MatrixShape[],
  kernel: NoiseKernel,
  structureOf: (shape: MatrixShape) => Structure,
  { foldWindows, beta }: { foldWindows: number; beta: number },
): TrainingState {
  const { selection, noise, window } = options
  const draw = createDraws(options, kernel)
  const windows = createWindows(matrices, structureOf, draw)
  const { get, termOf, changeOf } = windows

  /** Left factors of a step's directions; none for evaluation and where the step leaves the matrix alone. */
  const leftsOf = (t: Tracked, probes: Probes | null): readonly Float32Array[] =>
    probes !== null && selection.active(probes.step, t.shape.name) ? draw.lefts(t, probes.step) : []

  return {
    begin: (step) => windows.moveTo(Math.floor(step / window), foldWindows),
    overdue: () => null,
    push(update) {
      for (const t of windows.tracked) {
        if (!selection.active(update.step, t.shape.name)) continue
        accumulate(t, draw.lefts(t, update.step), update, beta)
      }
    },
    isPerturbed: selection.active,
    change: (name) => changeOf(get(name)),
    recipe(name) {
      const { decay } = get(name)
      // Decay alone is a term without noise.
      const terms = decay === 1 ? [] : [{ k0: 0, k1: 0, coefficient: 0, decay }]
      return { noise, terms, scales: [0] }
    },
    addend(name, probes) {
      const t = get(name)
      const change = changeOf(t)
      const state = change.kind === 'factored' ? change.terms : []
      const fresh = leftsOf(t, probes).map((left) => termOf(t, left))
      if (state.length === 0 && fresh.length === 0) return null
      const list = probes?.list ?? [{ direction: 0, scale: 0 }]
      const scaled = list.map((p) => ({ ...p, scale: p.scale / t.structure.variance }))
      return addendOf(t.shape, state, fresh, scaled)
    },
    rows(name, probes) {
      const t = get(name)
      const lefts = leftsOf(t, probes)
      const extra = (probes?.list ?? [null]).map((p) => {
        const left = p && p.scale !== 0 ? lefts[p.direction] : undefined
        if (!left) return []
        const scale = Math.fround(p!.scale / t.structure.variance)
        const scaled = left.map((u) => u * scale)
        return [termOf(t, scaled)]
      })
      return { kind: 'factored', change: changeOf(t), extra }
    },
  }
}

/** The matrices' windows, which end and begin all at once. */
function createWindows(
  matrices: readonly MatrixShape[],
  structureOf: (shape: MatrixShape) => Structure,
  draw: Draws,
) {
  const byName = new Map<string, Tracked>()
  for (const shape of matrices) {
    byName.set(shape.name, {
      shape,
      structure: structureOf(shape),
      right: null,
      sum: null,
      momentum: null,
      past: [],
      decay: 1,
    })
  }
  const tracked = [...byName.values()]
  /** Number of the window under way. */
  let current = 0

  const termOf = (t: Tracked, left: Float32Array): FactorTerm =>
    t.structure.term(left, (t.right ??= draw.right(t, current)))

  /** All that is not folded yet. */
  const changeOf = (t: Tracked): Change => {
    const terms = t.sum ? [...t.past, termOf(t, t.sum)] : [...t.past]
    if (terms.length === 0 && t.decay === 1) return NO_CHANGE
    return { kind: 'factored', decay: t.decay, terms }
  }

  /** Ends window `current` of a matrix and begins the next. */
  const next = (t: Tracked) => {
    if (t.sum) t.past.push(termOf(t, t.sum))
    t.sum = null
    if (!t.momentum) {
      t.right = null
      return
    }
    // Momentum is in terms of the right factor at hand, so that the next one is needed now.
    const before = (t.right ??= draw.right(t, current))
    t.right = draw.right(t, current + 1)
    t.momentum = t.structure.carry(t.momentum, before, t.right)
  }

  const takeFold = (): Fold | null => {
    const owing = new Map<string, Change>()
    for (const t of tracked) {
      if (t.past.length > 0 || t.decay !== 1) owing.set(t.shape.name, changeOf(t))
      t.past = []
      t.decay = 1
    }
    return owing.size === 0 ? null : (name) => owing.get(name) ?? NO_CHANGE
  }

  return {
    tracked,
    termOf,
    changeOf,
    get(name: string): Tracked {
      const t = byName.get(name)
      if (!t) throw new Error(`${name} is not a matrix of this run`)
      return t
    },
    /** Ends all windows before number `target`; returns what is to be folded, by groups of `foldWindows`. */
    moveTo(target: number, foldWindows: number): Fold | null {
      let fold: Fold | null = null
      while (current < target) {
        tracked.forEach(next)
        current++
        if (current % foldWindows !== 0) continue
        const more = takeFold()
        if (fold && more) throw new Error('two folds are due at once') // nothing happened between
        fold ??= more
      }
      return fold
    },
  }
}

interface Draws {
  /** Right factor of a matrix in window `at`. */
  right(t: Tracked, at: number): Float32Array
  /** Left factors of a matrix at a step, one per direction; the last step's are kept. */
  lefts(t: Tracked, step: number): readonly Float32Array[]
}

/** The raw noise that factors are made of. */
function createDraws({ seed, noise, directions }: MethodOptions, kernel: NoiseKernel): Draws {
  const raw = (size: number, key: NoiseKey) => {
    const out = new Float32Array(size)
    const term: NoiseTerm = { ...key, coefficient: 1, decay: 1 }
    const recipe = { noise, terms: [term], scales: [] }
    kernel.apply(new Uint8Array(size * 4), 'F32', 0, recipe, [], out)
    return out
  }
  /** Of one step: its probes and its update use the same. */
  let kept = { step: -1, lefts: new Map<string, Float32Array[]>() }
  return {
    right: ({ shape, structure }, at) =>
      raw(structure.rightSize, noiseKey(seed, at, shape.name, 'right')),
    lefts({ shape: { name }, structure }, step) {
      if (kept.step !== step) kept = { step, lefts: new Map() }
      let lefts = kept.lefts.get(name)
      if (!lefts) {
        lefts = Array.from({ length: directions }, (_, d) =>
          raw(structure.leftSize, noiseKey(seed, step, name, 'left', d)),
        )
        kept.lefts.set(name, lefts)
      }
      return lefts
    },
  }
}

/** Adds a step's update to the left factor of the window: S -= lr * gain * g U, or momentum's N for g U. */
function accumulate(
  t: Tracked,
  lefts: readonly Float32Array[],
  { lr, grads, decay }: Update,
  beta: number,
): void {
  const { leftSize, gain, variance } = t.structure
  if (decay !== 1) {
    t.decay = Math.fround(t.decay * decay)
    for (const { left } of t.past) for (let i = 0; i < leftSize; i++) left[i]! *= decay
    if (t.sum) for (let i = 0; i < leftSize; i++) t.sum[i]! *= decay
  }
  const sum = (t.sum ??= new Float32Array(leftSize))
  const scale = (-lr * gain) / variance
  if (beta === 0) {
    lefts.forEach((left, d) => {
      const c = Math.fround(scale * grads[d]!)
      for (let i = 0; i < leftSize; i++) sum[i] = sum[i]! + Math.fround(c * left[i]!)
    })
    return
  }
  const momentum = (t.momentum ??= new Float32Array(leftSize))
  const [b, c] = [Math.fround(beta), Math.fround(scale)]
  for (let i = 0; i < leftSize; i++) {
    let moved = 0
    lefts.forEach((left, d) => (moved += (1 - beta) * grads[d]! * left[i]!))
    const n = (momentum[i] = Math.fround(b * momentum[i]!) + Math.fround(moved))
    sum[i] = sum[i]! + Math.fround(c * Math.fround(n))
  }
}
