// The words that checkpoint readers, the scheduler and the devices share: types, and the size of each.

/** Element types a checkpoint may hold, by their safetensors names. */
export type DType = 'F32' | 'F16' | 'BF16'

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<DType, number>> = { F32: 4, F16: 2, BF16: 2 }

/**
 * GPT-2 files hold each block's causal mask beside its weights, often as bytes. No model reads it: a
 * tensor of this name and another element type is passed over, not refused.
 */
export const MASK_NAME = /(^|\.)attn\.(masked_)?bias$/

/** Where one tensor's row-major little-endian bytes lie in a file. */
export interface TensorEntry {
  /** Tensor name exactly as the checkpoint has it. */
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  /** Absolute path of the file. */
  readonly file: string
  /** First byte of the tensor in that file. */
  readonly offsetBytes: number
  /** Length; always the product of shape times the element size. */
  readonly bytes: number
}

/** A Hugging Face model folder whose headers are read and checked; weights stay on disk. */
export interface Checkpoint {
  readonly dir: string
  /** config.json, parsed, unchecked beyond being an object. */
  readonly config: Readonly<Record<string, unknown>>
  readonly format: 'safetensors' | 'torch-bin'
  /** Every tensor by name; two names may share one range (tied weights). */
  readonly tensors: ReadonlyMap<string, TensorEntry>
  /** Weight files, absolute paths, in order. */
  readonly files: readonly string[]
}
