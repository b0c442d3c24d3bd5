// Checkpoints of true shape that take no disk and no memory: every tensor reads from one page of
// pseudo-random f16 numbers, repeated by offset. For recording memory and time of models that do not
// fit anywhere; the numbers mean nothing, a forward pass stays finite.

import { UserError } from '../util/errors.ts'
import { noiseKey, threefry2x32 } from '../noise/threefry.ts'
import { configOfSize, SYNTHETIC_SIZES } from './sizes.ts'
import type { Checkpoint, TensorEntry } from './types.ts'

const SCHEME = 'synthetic:'

/** A model without weights of its own. */
export interface Synthetic {
  readonly size: string
  /** Of the full width; undefined: as many as the size has. */
  readonly layers?: number
}

/** The name under which commands know it: `synthetic:opt-13b`, `synthetic:opt-13b/2`. */
export const syntheticSource = ({ size, layers }: Synthetic) =>
  `${SCHEME}${size}${layers === undefined ? '' : `/${layers}`}`

/**
 * What such a name means; null for all other names.
 * @throws UserError (usage) for a size or depth that there is not
 */
export function parseSynthetic(source: string): Synthetic | null {
  if (!isSynthetic(source)) return null
  const [size = '', layers, ...more] = source.slice(SCHEME.length).split('/')
  if (!configOfSize(size)) {
    throw new UserError(
      `--synthetic ${size} is not known; expected one of ${SYNTHETIC_SIZES.join(', ')}`,
      { exitCode: 2 },
    )
  }
  if (layers === undefined) return { size }
  if (/^[1-9]\d{0,4}$/.test(layers) && more.length === 0) return { size, layers: Number(layers) }
  throw new UserError(`${source}: expected a number of layers after the size`, { exitCode: 2 })
}

/** config.json of the size; `layers` cuts the depth at full width. */
export const syntheticConfig = ({ size, layers }: Synthetic): Record<string, unknown> => ({
  ...configOfSize(size),
  ...(layers !== undefined && { num_hidden_layers: layers }),
})

/** A checkpoint of these tensors in f16; nothing of it exists. */
export function syntheticCheckpoint(
  source: string,
  config: Record<string, unknown>,
  tensors: readonly { name: string; shape: readonly number[] }[],
): Checkpoint {
  const entries = new Map<string, TensorEntry>()
  let offsetBytes = 0
  for (const { name, shape } of tensors) {
    const bytes = 2 * shape.reduce((product, d) => product * d, 1)
    entries.set(name, { name, dtype: 'F16', shape, file: source, offsetBytes, bytes })
    offsetBytes += bytes
  }
  return { dir: source, config, format: 'safetensors', tensors: entries, files: [source] }
}

/** Whether a path names a synthetic checkpoint, or a file of one. */
export const isSynthetic = (file: string) => file.startsWith(SCHEME)

/** Odd as a count of elements, so that rows of no model repeat. */
const PAGE_ELEMENTS = 2 ** 19 - 1
let page: Uint8Array | undefined

/** Signs and magnitudes in [2^-7, 2^-5). */
function makePage(): Uint8Array {
  const { k0, k1 } = noiseKey(0, 0, 'synthetic page', 'sample')
  const halves = Uint16Array.from({ length: PAGE_ELEMENTS }, (_, i) => {
    const [word] = threefry2x32(k0, k1, i, 0)
    return ((word & 1) << 15) | ((8 + ((word >>> 1) & 1)) << 10) | ((word >>> 2) & 0x3ff)
  })
  return new Uint8Array(halves.buffer)
}

/** Fills `into` with the bytes from `offsetBytes` on. */
export function fillSynthetic(offsetBytes: number, into: Uint8Array): void {
  page ??= makePage()
  for (let done = 0; done < into.byteLength;) {
    const at = (offsetBytes + done) % page.byteLength
    const part = page.subarray(at, at + Math.min(page.byteLength - at, into.byteLength - done))
    into.set(part, done)
    done += part.byteLength
  }
}
