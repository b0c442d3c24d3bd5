// A model from scratch: a Hugging Face folder of random weights by GPT-2's scheme (as nanoGPT has it).
// Each tensor is a pure function of (seed, name), so no order of drawing and no machine matters.
// Which tensors a model has is its own matter; config.json is the caller's.

import { join } from 'node:path'
import { noiseKey, threefry2x32, type NoiseKey } from '../noise/threefry.ts'
import { writeTextAtomically } from '../io/atomic.ts'
import { buildFolder } from './convert.ts'
import { writeShardedSafetensors } from './safetensors-writer.ts'
import { maxOf } from '../util/extremes.ts'

/** Tensors of a model; models/model.ts has the same fields. */
interface InitShape {
  readonly layers: number
  readonly tables: readonly InitMatrix[]
  readonly matrices: readonly InitMatrix[]
  readonly vectors: readonly { readonly name: string; readonly size: number }[]
}

interface InitMatrix {
  readonly name: string
  readonly rows: number
  readonly cols: number
}

interface InitOptions {
  /** A safe non-negative integer. */
  readonly seed: number
  /** Further small files of the folder; written before it appears. */
  readonly extra?: (folder: string) => Promise<void>
  readonly onProgress?: (doneElements: number, totalElements: number) => void
}

/** Standard deviation of every matrix but the residual projections. */
const STD = 0.02
/** Elements made at a time; even, because normal numbers come in pairs. */
const CHUNK = 2 ** 18

/**
 * Writes `outDir` (absent or empty) with config.json and f32 weights: matrices N(0, 0.02), those whose
 * output joins the residual stream (`c_proj`) N(0, 0.02/sqrt(2*layers)), biases 0, norm scales 1. The
 * folder appears whole or not at all. Throws UserError if it cannot be written.
 */
export async function writeInitialModel(
  outDir: string,
  config: Readonly<Record<string, unknown>>,
  shape: InitShape,
  { seed, extra, onProgress }: InitOptions,
): Promise<void> {
  const matrices = new Map([...shape.tables, ...shape.matrices].map((m) => [m.name, m]))
  const tensors = [
    ...[...matrices.values()].map(({ name, rows, cols }) => ({ name, shape: [rows, cols] })),
    ...shape.vectors.map(({ name, size }) => ({ name, shape: [size] })),
  ].map((tensor) => ({ ...tensor, dtype: 'F32' as const }))
  const sizes = tensors.map((t) => t.shape.reduce((product, size) => product * size, 1))
  const total = sizes.reduce((sum, size) => sum + size, 0)
  let done = 0
  await buildFolder(outDir, async (folder) => {
    const text = `${JSON.stringify({ ...config, torch_dtype: 'float32' }, null, 2)}\n`
    await writeTextAtomically(join(folder, 'config.json'), text)
    await extra?.(folder)
    const chunk = new Float32Array(Math.min(CHUNK, maxOf(sizes)))
    await writeShardedSafetensors(folder, tensors, async (index, sink) => {
      const { name, shape: dimensions } = tensors[index]!
      const size = sizes[index]!
      const std = /\.c_proj\.weight$/.test(name) ? STD / Math.sqrt(2 * shape.layers) : STD
      const key = noiseKey(seed, 0, name, 'init')
      for (let first = 0; first < size; first += CHUNK) {
        const part = chunk.subarray(0, Math.min(CHUNK, size - first))
        if (dimensions.length === 2) fillNormal(part, key, first, std)
        else part.fill(name.endsWith('.bias') ? 0 : 1)
        await sink.write(new Uint8Array(part.buffer, part.byteOffset, part.byteLength))
        onProgress?.((done += part.length), total)
      }
    })
  })
}

/**
 * Elements [first, first + out.length) of a tensor of N(0, std) numbers; first is even. Box and
 * Muller's transform of one pair of words for two elements, uniforms at the middle of 2^-32 steps.
 */
export function fillNormal(out: Float32Array, key: NoiseKey, first: number, std: number): void {
  for (let i = 0; i < out.length; i += 2) {
    const pair = (first + i) / 2
    const [a, b] = threefry2x32(key.k0, key.k1, pair >>> 0, Math.floor(pair / 2 ** 32))
    const radius = std * Math.sqrt(-2 * Math.log((a + 0.5) / 2 ** 32))
    const angle = (2 * Math.PI * (b + 0.5)) / 2 ** 32
    out[i] = radius * Math.cos(angle)
    if (i + 1 < out.length) out[i + 1] = radius * Math.sin(angle)
  }
}
