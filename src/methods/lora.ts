// LoRA (Hu et al., arXiv 2106.09685) as what MeZO trains: the weights are constant, and each target
// matrix gets y += (alpha/r) * (x A^T) B^T with A [r, K] and B [N, r], perturbed and updated as any
// tensor of MeZO-SGD. A starts uniform in +-1/sqrt(K) (PEFT's kaiming_uniform with a = sqrt(5)), B at 0.

import type { Addend } from '../device/device.ts'
import { NO_CHANGE, type Change } from '../noise/factors.ts'
import { noiseKey, threefry2x32 } from '../noise/threefry.ts'
import type { NoiseKernel } from '../noise/wasm.ts'
import { transpose } from './addend.ts'
import type {
  LoraPair,
  MatrixShape,
  Method,
  MethodOptions,
  Probes,
  TrainingState,
} from './method.ts'
import { recipe, terms, type Scope } from './perturbation.ts'
import type { Selection } from './selection.ts'

interface LoraOptions {
  readonly rank: number
  readonly alpha: number
  /** Last parts of module names, such as q_proj; as PEFT's target_modules. */
  readonly targets: readonly string[]
}

const A = 'lora_A'
const B = 'lora_B'

/** `layers.0.self_attn.q_proj.weight` is a target of q_proj, and of self_attn.q_proj. */
export const isTarget = (name: string, targets: readonly string[]) =>
  targets.some((target) => name === `${target}.weight` || name.endsWith(`.${target}.weight`))

const bytesOf = (v: Float32Array) => new Uint8Array(v.buffer, v.byteOffset, v.byteLength)

/** MeZO-SGD on the LoRA factors of the target matrices. */
export function loraMethod(lora: LoraOptions): Method {
  const { rank } = lora
  return {
    name: 'mezo-sgd',
    addend: 'low-rank',
    resumesFromWeights: () => false,
    folds: () => false,
    beta: () => 0,
    foldWindows: () => Infinity,
    demand(_options, matrices, probes) {
      const own = matrices.filter(({ name }) => isTarget(name, lora.targets))
      const widest = own.reduce((most, { rows, cols }) => Math.max(most, rows + cols), 0)
      const columns = probes * rank
      return {
        versions: () => 1,
        terms: 1,
        projectionCols: columns,
        addendElements: columns * (widest + probes),
        hostBytes: own.reduce((sum, { rows, cols }) => sum + 4 * rank * (rows + cols), 0),
      }
    },
    start: (options, matrices, kernel) => startLora(options, lora, matrices, kernel),
  }
}

/** Nothing of the checkpoint trains; LoRA's tensors do where `base` lets their matrix. */
export function loraSelection(base: Selection): Selection {
  const matrix = (name: string) => /^(.*)\.lora_[AB]\.weight$/.exec(name)?.[1]
  return {
    trains: (name) => matrix(name) !== undefined && base.trains(`${matrix(name)}.weight`),
    active: (step, name) =>
      matrix(name) !== undefined && base.active(step, `${matrix(name)}.weight`),
  }
}

/** Name of A or B of a matrix, as PEFT has it behind its prefix. */
export const loraName = (matrix: string, part: 'lora_A' | 'lora_B') =>
  matrix.replace(/\.weight$/, `.${part}.weight`)

function startLora(
  options: MethodOptions,
  { rank, alpha, targets }: LoraOptions,
  matrices: readonly MatrixShape[],
  kernel: NoiseKernel,
): TrainingState {
  const scope: Scope = options
  const scaling = alpha / rank
  const scaled = (b: Float32Array) => b.map((value) => value * scaling)
  const shapes = new Map(matrices.filter((m) => isTarget(m.name, targets)).map((m) => [m.name, m]))
  const sizes = ({ rows, cols, transposed }: MatrixShape) =>
    transposed ? { N: cols, K: rows } : { N: rows, K: cols }
  const pairs = new Map<string, LoraPair>()
  for (const [name, shape] of shapes) {
    const { N, K } = sizes(shape)
    const key = noiseKey(options.seed, 0, loraName(name, A), 'init')
    const uniform = (_: unknown, i: number) =>
      (threefry2x32(key.k0, key.k1, i, 0)[0] / 2 ** 31 - 1) / Math.sqrt(K)
    const a = Float32Array.from({ length: rank * K }, uniform)
    pairs.set(name, { a, b: new Float32Array(N * rank) })
  }
  const active = (name: string, step: number) =>
    options.selection.active(step, loraName(name, A)) && pairs.has(name)

  /** One version per probe, or one for all of them. */
  const versions = (name: string, part: 'lora_A' | 'lora_B', probes: Probes | null) => {
    const value = pairs.get(name)![part === A ? 'a' : 'b']
    const own = recipe(scope, loraName(name, part), [], probes)
    const out = own.scales.map(() => new Float32Array(value.length))
    kernel.apply(bytesOf(value), 'F32', 0, own, out)
    return out
  }

  return {
    lora: { rank, alpha, pairs },
    begin: () => null,
    overdue: () => null,
    isPerturbed: (step, name) => active(name, step),
    recipe: () => ({ terms: [], scales: [0] }),
    rows: () => ({ kind: 'factored', change: NO_CHANGE, extra: [] }),
    push(update) {
      for (const [name, { a, b }] of pairs) {
        for (const [part, value] of [
          [A, a],
          [B, b],
        ] as const) {
          const own = terms(scope, loraName(name, part), update, true)
          const made = { noise: scope.noise, terms: own, scales: [] }
          kernel.apply(bytesOf(value), 'F32', 0, made, [], value)
        }
      }
    },
    change(name): Change {
      const shape = shapes.get(name)
      if (!shape) return NO_CHANGE
      const { a, b } = pairs.get(name)!
      const { N, K } = sizes(shape)
      const [left, right] = shape.transposed
        ? [transpose(a, rank, K), transpose(scaled(b), N, rank)]
        : [scaled(b), a]
      return { kind: 'factored', decay: 1, terms: [{ kind: 'low-rank', rank, left, right }] }
    },
    addend(name, probes): Addend | null {
      const shape = shapes.get(name)
      if (!shape) return null
      const [as, bs] = [versions(name, A, probes), versions(name, B, probes)]
      return stacked(as, bs.map(scaled), rank, probes?.list.length ?? 1)
    },
  }
}

/**
 * The factors of all versions side by side, A as [V*rank, K] and B as [N, V*rank]; each of P probes
 * sees the columns of its own version, or of the only one.
 */
function stacked(
  as: readonly Float32Array[],
  bs: readonly Float32Array[],
  rank: number,
  P: number,
): Addend {
  const columns = as.length * rank
  const right = new Float32Array(as.length * as[0]!.length)
  const left = new Float32Array(bs.length * bs[0]!.length)
  as.forEach((a, v) => right.set(a, v * a.length))
  bs.forEach((b, v) => {
    for (let i = 0; i < b.length; i++) {
      left[Math.floor(i / rank) * columns + v * rank + (i % rank)] = b[i]!
    }
  })
  const scales = Float32Array.from({ length: P * columns }, (_, i) => {
    const version = Math.floor((i % columns) / rank)
    return as.length === 1 || version === Math.floor(i / columns) ? 1 : 0
  })
  return { kind: 'low-rank', rank: columns, right, left, scales }
}
