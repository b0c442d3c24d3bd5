// The state of factored methods: within a window of nu steps the right factor R (LOZO's V, KronZO's
// B) of every matrix stands still, so all updates of the window add up in one left factor S, and the
// weights are not touched:
//
//   theta_t = decay * theta_k + sum over windows since the last fold of S_j o R_j
//
// with S o R = S R (low-rank, S [m, r], R = V^T) or S (x) R (Kronecker). Windows are folded when F of
// them are complete, at steps that depend on nu and F alone, so that replaying gives the same bits.
// Noise is kept as integers: a direction U o R of unit variance is raw(U) o raw(R) / 8.
// Momentum lives in the left factor and is carried over a window's end by least squares.

import type { NoiseTerm } from '../noise/distributions.ts'
import { NO_CHANGE, type Change, type FactorTerm } from '../noise/factors.ts'
import { noiseKey } from '../noise/threefry.ts'
import type { NoiseKernel } from '../noise/wasm.ts'
import { addendOf } from './addend.ts'
import type { Fold, MatrixShape, MethodOptions, Probes, TrainingState, Update } from './method.ts'
import { RAW_VARIANCE, type Structure } from './structure.ts'

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

export function startFactored(
  options: MethodOptions,
  matrices: readonly MatrixShape[],
  kernel: NoiseKernel,
  structureOf: (shape: MatrixShape) => Structure,
  { foldWindows, beta }: { foldWindows: number; beta: number },
): TrainingState {
  const { seed, selection, window, directions } = options
  const tracked = new Map<string, Tracked>(
    matrices.map((shape) => [
      shape.name,
      {
        shape,
        structure: structureOf(shape),
        right: null,
        sum: null,
        momentum: null,
        past: [],
        decay: 1,
      },
    ]),
  )
  let current = 0
  /** Left factors drawn for one step: probes and update use the same. */
  let drawn = { step: -1, lefts: new Map<string, Float32Array[]>() }

  const raw = (size: number, key: { k0: number; k1: number }) => {
    const out = new Float32Array(size)
    const term: NoiseTerm = { ...key, coefficient: 1, decay: 1 }
    kernel.apply(new Uint8Array(size * 4), 'F32', 0, { terms: [term], scales: [] }, [], out)
    return out
  }
  const get = (name: string): Tracked => {
    const t = tracked.get(name)
    if (!t) throw new Error(`${name} is not a matrix of this run`)
    return t
  }
  const rightOf = (t: Tracked, at: number) =>
    raw(t.structure.rightSize, noiseKey(seed, at, t.shape.name, 'right'))
  const currentRight = (t: Tracked) => (t.right ??= rightOf(t, current))
  const leftsOf = (t: Tracked, step: number): Float32Array[] => {
    if (drawn.step !== step) drawn = { step, lefts: new Map() }
    const { name } = t.shape
    let lefts = drawn.lefts.get(name)
    if (!lefts) {
      lefts = Array.from({ length: directions }, (_, d) =>
        raw(t.structure.leftSize, noiseKey(seed, step, name, 'left', d)),
      )
      drawn.lefts.set(name, lefts)
    }
    return lefts
  }

  /** Ends window `current` of a matrix and begins the next. */
  const turn = (t: Tracked) => {
    if (t.sum) t.past.push(t.structure.term(t.sum, currentRight(t)))
    // Momentum needs the next right factor now; it is always in terms of the one at hand.
    const next = t.momentum ? rightOf(t, current + 1) : null
    if (t.momentum) t.momentum = t.structure.carry(t.momentum, currentRight(t), next!)
    t.right = next
    t.sum = null
  }

  const takeFold = (): Fold | null => {
    const owing = new Map<string, Change>()
    for (const [name, t] of tracked) {
      if (t.past.length > 0 || t.decay !== 1) owing.set(name, changeOf(t))
      t.past = []
      t.decay = 1
    }
    return owing.size === 0 ? null : (name) => owing.get(name) ?? NO_CHANGE
  }

  const changeOf = (t: Tracked): Change => {
    const terms = [...t.past, ...(t.sum ? [t.structure.term(t.sum, currentRight(t))] : [])]
    if (terms.length === 0 && t.decay === 1) return NO_CHANGE
    return { kind: 'factored', decay: t.decay, terms }
  }

  const push = (t: Tracked, { step, lr, grads, decay }: Update) => {
    const { leftSize, gain } = t.structure
    if (decay !== 1) {
      t.decay = Math.fround(t.decay * decay)
      for (const { left } of t.past) for (let i = 0; i < leftSize; i++) left[i]! *= decay
      if (t.sum) for (let i = 0; i < leftSize; i++) t.sum[i]! *= decay
    }
    t.sum ??= new Float32Array(leftSize)
    const lefts = leftsOf(t, step)
    const scale = (-lr * gain) / RAW_VARIANCE
    if (beta === 0) {
      lefts.forEach((left, d) => {
        const c = Math.fround(scale * grads[d]!)
        for (let i = 0; i < leftSize; i++) t.sum![i] = t.sum![i]! + Math.fround(c * left[i]!)
      })
      return
    }
    t.momentum ??= new Float32Array(leftSize)
    const [b, c] = [Math.fround(beta), Math.fround(scale)]
    for (let i = 0; i < leftSize; i++) {
      let moved = 0
      lefts.forEach((left, d) => (moved += (1 - beta) * grads[d]! * left[i]!))
      const n = (t.momentum[i] = Math.fround(b * t.momentum[i]!) + Math.fround(moved))
      t.sum[i] = t.sum[i]! + Math.fround(c * Math.fround(n))
    }
  }

  const activeIn = (t: Tracked, probes: Probes | null) =>
    probes !== null && selection.active(probes.step, t.shape.name)

  return {
    begin(step) {
      let fold: Fold | null = null
      for (const target = Math.floor(step / window); current < target;) {
        for (const t of tracked.values()) turn(t)
        current++
        if (current % foldWindows !== 0) continue
        const next = takeFold()
        if (fold && next) throw new Error('two folds are due at once') // nothing happened between
        fold ??= next
      }
      return fold
    },
    overdue: () => null,
    push(update) {
      for (const t of tracked.values()) {
        if (selection.active(update.step, t.shape.name)) push(t, update)
      }
    },
    isPerturbed: selection.active,
    change: (name) => changeOf(get(name)),
    recipe(name) {
      const { decay } = get(name)
      // Decay alone is a term without noise.
      return { terms: decay === 1 ? [] : [{ k0: 0, k1: 0, coefficient: 0, decay }], scales: [0] }
    },
    addend(name, probes) {
      const t = get(name)
      const change = changeOf(t)
      const state = change.kind === 'factored' ? change.terms : []
      const active = activeIn(t, probes)
      if (state.length === 0 && !active) return null
      const lefts = active ? leftsOf(t, probes!.step) : []
      const list = active ? probes!.list : (probes?.list ?? [{ direction: 0, scale: 0 }])
      const fresh = lefts.map((left) => t.structure.term(left, currentRight(t)))
      const scaled = list.map((p) => ({ ...p, scale: p.scale / RAW_VARIANCE }))
      return addendOf(t.shape, state, fresh, scaled)
    },
    rows(name, probes) {
      const t = get(name)
      const lefts = activeIn(t, probes) ? leftsOf(t, probes!.step) : []
      const extra = (probes?.list ?? [null]).map((p) => {
        const left = p && p.scale !== 0 ? lefts[p.direction] : undefined
        if (!left) return []
        const scale = Math.fround(p!.scale / RAW_VARIANCE)
        const scaled = left.map((u) => u * scale)
        return [t.structure.term(scaled, currentRight(t))]
      })
      return { kind: 'factored', change: changeOf(t), extra }
    },
  }
}
