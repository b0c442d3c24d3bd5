// What a checkpoint is to its readers and to the runtime: its config and where each tensor lies.
// Reading is open.ts's matter, the bytes themselves files.ts's.

import type { DType } from '../util/dtypes.ts'
import type { Metadata } from './gguf/header.ts'
import { rawBytes, type Encoding } from './gguf/widen.ts'

/** A tensor of an element type that no model here uses: it is passed over, and missed only by name. */
export interface OtherTensor {
  readonly name: string
  /** As the file spells it. */
  readonly dtype: string
}

/** The tensors of one file. */
export interface FileTensors {
  readonly tensors: readonly TensorEntry[]
  readonly others: readonly OtherTensor[]
}

/** Where a tensor's bytes lie. */
export interface ByteRange {
  /** For messages. */
  readonly name: string
  /** Absolute path of the file. */
  readonly file: string
  /** First byte in that file. */
  readonly offsetBytes: number
  readonly bytes: number
  /** How they become the tensor's, where they are not. */
  readonly encoding?: Encoding
}

/** Bytes that the file has of a tensor. */
export const fileBytes = ({ bytes, encoding }: Pick<ByteRange, 'bytes' | 'encoding'>): number =>
  encoding ? rawBytes(encoding) : bytes

/**
 * Where one tensor's row-major little-endian bytes lie; `bytes` is always the product of shape times the element size.
 * With an encoding they are not in the file but made of what is: files.ts reads them.
 */
export interface TensorEntry extends ByteRange {
  /** Tensor name exactly as the checkpoint has it. */
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
}

/** A model folder, or a GGUF file, whose headers are read and checked; weights stay on disk. */
export interface Checkpoint {
  readonly dir: string
  /** config.json, parsed, unchecked beyond being an object; of a GGUF file made from its metadata. */
  readonly config: Readonly<Record<string, unknown>>
  readonly format: 'safetensors' | 'torch-bin' | 'gguf'
  /** Every tensor by name; two names may share one range (tied weights). */
  readonly tensors: ReadonlyMap<string, TensorEntry>
  /** Element types of the tensors beside these, by name. */
  readonly others?: ReadonlyMap<string, string>
  /** Weight files, absolute paths, in order. */
  readonly files: readonly string[]
  /** Metadata of a GGUF file. */
  readonly gguf?: Metadata
}
