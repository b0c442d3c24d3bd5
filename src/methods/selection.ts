// Which tensors train, and which of them at a given step. Globs choose among all tensors; with layer
// subsets (LeZO, arXiv 2410.09823) each step perturbs and updates n blocks drawn by the run seed,
// and all trained tensors outside of blocks. A tensor that does not train costs nothing.

import { noiseKey, threefry2x32 } from '../noise/threefry.ts'

export interface SelectionOptions {
  readonly seed: number
  readonly layers: number
  /** Globs of tensor names; undefined: all. */
  readonly trainOnly?: readonly string[] | undefined
  readonly freeze?: readonly string[] | undefined
  /** n; undefined or >= layers: all of them. */
  readonly layersPerStep?: number | undefined
}

export interface Selection {
  trains(name: string): boolean
  /** Whether the tensor is perturbed and updated at this step. */
  active(step: number, name: string): boolean
}

/** Whether a name matches one of the patterns: `*` stands for any characters, `?` for one. */
export function globs(patterns: readonly string[]): (name: string) => boolean {
  const all = patterns.map((pattern) => {
    const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, '\\$&')
    return new RegExp(`^${escaped.replaceAll('*', '.*').replaceAll('?', '.')}$`)
  })
  return (name) => all.some((regex) => regex.test(name))
}

/** Number of the transformer block a tensor belongs to, -1 outside of blocks. */
export function blockOf(name: string): number {
  const found = /\.(?:layers|h)\.(\d+)\./.exec(name)
  return found ? Number(found[1]) : -1
}

/** The blocks of a step: the n smallest of one random word per block. */
function layersOf(seed: number, step: number, layers: number, n: number): Set<number> {
  const key = noiseKey(seed, step, 'layers', 'layers')
  const drawn = Array.from({ length: layers }, (_, i) => ({
    i,
    word: threefry2x32(key.k0, key.k1, i, 0)[0],
  }))
  drawn.sort((a, b) => a.word - b.word || a.i - b.i)
  return new Set(drawn.slice(0, n).map(({ i }) => i))
}

/** Selection by globs and layer subsets; a pure function of the options, the step and the name. */
export function createSelection(options: SelectionOptions): Selection {
  const { seed, layers, layersPerStep = layers } = options
  const wanted = options.trainOnly ? globs(options.trainOnly) : () => true
  const frozen = globs(options.freeze ?? [])
  const known = new Map<string, boolean>()
  const trains = (name: string) => {
    let found = known.get(name)
    if (found === undefined) known.set(name, (found = wanted(name) && !frozen(name)))
    return found
  }
  let drawn: { step: number; blocks: Set<number> } | null = null
  return {
    trains,
    active(step, name) {
      if (!trains(name)) return false
      const block = blockOf(name)
      if (block < 0 || layersPerStep >= layers) return true
      if (drawn?.step !== step)
        drawn = { step, blocks: layersOf(seed, step, layers, layersPerStep) }
      return drawn.blocks.has(block)
    },
  }
}
