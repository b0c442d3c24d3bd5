// What a model is to the runtime: lists of its tensors (for the planner) and straight-line code over
// a `Run` (for the step). A model file never sees slots, seeds, eps or files.
//
// Shape legend: see src/device/device.ts.

import type { Device, Rows, Tensor } from '../src/device/device.ts'

/** A tensor of two dimensions [rows, cols], by its Hugging Face name. */
export interface Matrix {
  readonly name: string
  readonly rows: number
  readonly cols: number
  /** Transformer block it belongs to; -1 before the first, layers after the last. */
  readonly block: number
  /** The file holds [K, N], the transpose of a Linear's weight (GPT-2's Conv1D): rows is K. */
  readonly transposed?: boolean
}

/** A one-dimensional tensor: bias, norm scale. */
export interface Vector {
  readonly name: string
  readonly size: number
}

/** An activation buffer of R rows. */
export interface Buffer {
  readonly label: string
  readonly cols: number
  /**
   * The buffer in whose memory it lies, beside others that do: neither holds anything of use while the
   * other does, and no operation takes both.
   */
  readonly inside?: string
}

/** Everything known of a model before a weight is read. */
export interface Model {
  readonly modelType: string
  readonly hidden: number
  readonly layers: number
  readonly heads: number
  readonly vocabSize: number
  /** Longest sequence of tokens. */
  readonly maxPositions: number
  /** n of prefix tuning: keys and values that each layer has before those of the sequence. */
  readonly prefixTokens?: number
  /** Matrices streamed by one forward pass, in the order of their use. */
  readonly matrices: readonly Matrix[]
  /** Tables whose rows are gathered on the host; a tied head is in `matrices` too. */
  readonly tables: readonly Matrix[]
  readonly vectors: readonly Vector[]
  /** Activation buffers of R rows. */
  readonly buffers: readonly Buffer[]
  /** Names under which a checkpoint may hold the tensor `name`, first choice first. */
  aliases(name: string): readonly string[]
  /** Runs the batch up to the head: issues every operation on `run`, in the order of `matrices`. */
  forward(run: Run, input: ModelInput): Promise<void>
}

/** Tables and matrices in the order of first use, a tied one once. */
export function distinctMatrices({
  tables,
  matrices,
}: Pick<Model, 'tables' | 'matrices'>): Matrix[] {
  return [...new Map([...tables, ...matrices].map((matrix) => [matrix.name, matrix])).values()]
}

/** Token ids and mask [B, T], rectangular. */
export interface ModelInput {
  readonly inputIds: readonly (readonly number[])[]
  readonly attentionMask: readonly (readonly number[])[]
  /** Positions of each sequence before these: tokens whose keys and values are cached, and a prefix. */
  readonly seen?: readonly number[]
}

/** The hands a model works with; src/engine/forward.ts joins stream, method and device behind it. */
export interface Run {
  readonly device: Device
  /** P probes of B*T rows; P is 1 until the first perturbed tensor, so read it when it is needed. */
  readonly at: Rows
  buffer(label: string): Tensor
  /** Attention of layer `layer` over q, k, v [R, C], after a prefix and cached keys if there are any. */
  attend(layer: number, q: Tensor, k: Tensor, v: Tensor, y: Tensor): Promise<void>
  /**
   * To be called before each block and, with block = layers, after the last: h [R, C] is all that
   * lives then. Where probes part, h is copied for each of them. Returns [h, spare], maybe swapped.
   */
  enterBlock(block: number, h: Tensor, spare: Tensor): Promise<[h: Tensor, spare: Tensor]>
  /** One version per probe [P, n]; null if the checkpoint's layout has none. */
  vector(name: string): Tensor | null
  /**
   * y = x W^T + b with W = `name`.weight, b = `name`.bias (absent: none), streamed; with relu,
   * which a transposed matrix cannot have, y = max(that, 0).
   */
  linear(x: Tensor, name: string, y: Tensor, relu?: boolean): Promise<void>
  /** y[p, i] = row indices[i] of table `name` as probe p sees it; indices are B*T rows. */
  gather(name: string, indices: Uint32Array, y: Tensor): Promise<void>
  /** Keeps the rows whose logits are wanted: x's rows become the first rows of y; later calls use them. */
  selectRows(x: Tensor, y: Tensor): Promise<Rows>
  /** Loss or logits of the selected rows x [P*M, K] against the vocabulary matrix `name`. */
  head(x: Tensor, name: string): Promise<void>
}
