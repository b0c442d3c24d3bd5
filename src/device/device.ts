// The contract between the runtime and a device. Models, scheduler and training step are written
// against this file alone; device/cpu and device/webgpu implement it, test/reference does so in f64.
//
// Shape legend, used everywhere:
//   C hidden, H heads, D head size, F feed-forward, V vocabulary, P probes, r rank,
//   R rows of a probe: the real tokens of a batch (packed.ts), M rows of it whose logits are wanted.
// Rows are probe-major: row = p*R + r. Activations are row-major [rows, cols], f32 or f16.
// f16 is how rows are kept, not how they are calculated with: every operation widens what it reads,
// works in f32 and rounds what it stores, to nearest; beyond the largest f16 (65,504) it stores
// that, with the sign, while a NaN stays one. The activations of an operation (x, y, q, k, v) are of one
// dtype unless it says otherwise; scales, biases, masks, angles and the state of losses are f32.
//
// Guarantees: operations take effect in the order of the calls; `await op` means that it is issued
// (its error, if any, may surface at the next `read` or `sync`); only `read`, `stage` and `sync`
// wait for the device. Matrices are always multiplied tile by tile (`Weights.tiles`), so that no
// slab size changes a bit of the result.

import type { Recipe } from '../noise/distributions.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'
import type { Category, Ledger } from './ledger.ts'
import type { MemoryModel, Workload } from './memory.ts'
import type { AttentionDims, QueryGroups } from './packed.ts'

/** What a tensor's elements may be. */
export type TensorDType = Extract<DType, 'F32' | 'F16'>

/** Memory [rows, cols] on the device. Contents are undefined until written. */
export interface Tensor {
  readonly label: string
  readonly dtype: TensorDType
  readonly rows: number
  readonly cols: number
}

/** Bytes that a tensor takes on every device: whole 32-bit words. */
export const tensorBytes = (rows: number, cols: number, dtype: TensorDType) =>
  Math.ceil((rows * cols * DTYPE_BYTES[dtype]) / 4) * 4

/** Weight memory on the device that holds one slab at a time, in the dtype of its file. */
export interface Slot {
  readonly label: string
  readonly bytes: number
}

/** A compute tile: rows [row0, row0 + rows) of its matrix. */
export interface Tile {
  readonly row0: number
  readonly rows: number
}

/** What a slot holds once it is committed: rows of a matrix W [N, K] and how to perturb them. */
export interface Weights {
  /** Tensor name, for messages. */
  readonly name: string
  readonly dtype: DType
  /** K, the matrix's columns. */
  readonly cols: number
  /** Consecutive tiles in row order, contiguous; together they are the slab. */
  readonly tiles: readonly Tile[]
  /**
   * Terms owed and one scale per probe, or a single scale that all probes share. Element index of
   * (row, col) is row*cols + col. Versions have the same bits on every device, but for products below
   * 2^-126 with a decay that is not 1: an adapter may take these for zero (WGSL allows it).
   */
  readonly recipe: Recipe
  /**
   * The file holds W transposed, [K, N] (GPT-2's Conv1D): tiles are ranges of K, and `linear` adds
   * x[:, tile] * tile to y tile by tile, the first of the matrix setting y to bias + product.
   */
  readonly transposed?: boolean
}

/**
 * A factored matrix added to a product without being formed. `project` takes x through the right
 * factor once per matrix; `linear`, `crossEntropy` and `logits` then take their rows of the left.
 */
export type Addend = LowRankAddend | KroneckerAddend

/** y[p] += ((x[p] * right^T) scaled by scales[p], column by column) * left^T. */
export interface LowRankAddend {
  readonly kind: 'low-rank'
  /** Columns k of the projection. */
  readonly rank: number
  /** [k, K] */
  readonly right: Float32Array
  /** [N, k], all rows of the matrix. */
  readonly left: Float32Array
  /** [P, k] */
  readonly scales: Float32Array
}

/**
 * y[p] += sum over J terms of kron(A_j[p], B_j) x, with N = m1*m2, K = n1*n2, A_j [m1, n1] and
 * B_j [m2, n2]: y[p][i*m2 + j] += sum_{t,c} left[p][i, t*n1 + c] * sum_l right[t][j, l] * x[c*n2 + l].
 */
export interface KroneckerAddend {
  readonly kind: 'kronecker'
  /** J. */
  readonly terms: number
  readonly m1: number
  readonly m2: number
  readonly n1: number
  readonly n2: number
  /** [J, m2, n2] */
  readonly right: Float32Array
  /** [P, m1, J*n1] */
  readonly left: Float32Array
}

/** Columns of the projection that an addend needs for each row of x. */
export const projectionCols = (a: Addend) =>
  a.kind === 'low-rank' ? a.rank : a.terms * a.n1 * a.m2

/** Throws for what no device does: a relu inside the product of a transposed matrix, whose tiles add up. */
export function checkLinear({ name, transposed }: Weights, relu: boolean): void {
  if (!transposed || !relu) return
  throw new RangeError(
    `${name} is transposed: its product has no relu, activation() comes after it`,
  )
}

/** Throws for what no device does: a vocabulary matrix that is transposed, whose rows are not its entries. */
export function checkHead({ name, transposed }: Weights): void {
  if (transposed) throw new RangeError(`${name} is transposed: it cannot be a vocabulary matrix`)
}

/** Throws where queries or keys have other columns than the heads ask for. */
export function checkAttention(q: Tensor, k: Tensor, { heads, kvHeads, headSize }: AttentionDims) {
  const check = (tensor: Tensor, count: number) => {
    if (tensor.cols === count * headSize) return
    throw new RangeError(`attention: ${count} heads of ${headSize} in ${tensor.cols} columns`)
  }
  check(q, heads)
  check(k, kvHeads)
  if (heads % kvHeads !== 0) throw new RangeError(`attention: ${heads} heads share ${kvHeads}`)
}

/** Throws where a norm's groups, or a head's rotated columns, do not divide the columns of x. */
export function checkGroups(what: string, x: Tensor, cols: number): void {
  if (cols > 0 && x.cols % cols === 0) return
  throw new RangeError(`${what}: groups of ${cols} columns in the ${x.cols} of "${x.label}"`)
}

/** Throws for a table of angles that does not fit heads of so many columns. */
export function checkRope(x: Tensor, table: Tensor, headSize: number): void {
  checkGroups('rope', x, headSize)
  if (table.cols % 2 === 0 && table.cols <= headSize) return
  throw new RangeError(`rope: ${table.cols} columns of angles for heads of ${headSize}`)
}

/** Rows of an operation: `probes` groups of `rows` rows each. */
export interface Rows {
  readonly probes: number
  /** Rows of one probe: R, or M where only those are left whose logits are wanted. */
  readonly rows: number
}

export type Activation = 'relu' | 'gelu' | 'gelu_new' | 'silu'

/** What the vocabulary's logits are made with. */
export interface HeadOptions {
  readonly addend?: Addend | undefined
  /** Logits become cap * tanh(logit / cap). */
  readonly cap?: number
}

export interface DeviceInfo {
  readonly kind: 'cpu' | 'webgpu'
  /** Adapter or processor as a user knows it. */
  readonly name: string
  /** Driver, library version, threads or transfer strategy: one line for the log. */
  readonly detail: string
  /** True for a software Vulkan adapter. */
  readonly software: boolean
}

export interface Device {
  readonly info: DeviceInfo
  readonly ledger: Ledger
  /** What the planner takes for it. */
  readonly memory: MemoryModel
  /** Whether f32 weights are used as they are and others widened at every use: the cpu's case. */
  readonly prefersF32: boolean
  /** Whether operations run on the host's own cores, so that host work beside them (folds) gains nothing. */
  readonly sharesCores: boolean
  /** Whether `stage` gives the slot's own memory, so that nothing is uploaded at a commit. */
  readonly stagesInPlace: boolean

  /**
   * Allocates [rows, cols], f32 if `dtype` is left out, and charges its bytes to the ledger. Throws
   * UserError when out of memory, or if the device has no f16.
   */
  tensor(category: Category, label: string, rows: number, cols: number, dtype?: TensorDType): Tensor
  /**
   * A tensor [rows, cols] of the dtype of `of` inside its memory, from its element `first` on, a whole
   * number of VIEW_BYTES (src/util/units.ts): for tensors that are never in use at the same time. Charges nothing;
   * is freed before `of`. No operation may read one part of a memory and write another (WebGPU's rule).
   */
  view(of: Tensor, label: string, first: number, rows: number, cols: number): Tensor
  /** Allocates weight memory; `category` is 'slots' for the ring, 'resident' for slabs that stay. */
  slot(category: 'slots' | 'resident', label: string, bytes: number): Slot
  /** Gives memory back to the system and to the ledger. */
  free(memory: Tensor | Slot): void
  /**
   * Allocates the scratch and staging that `memory.ts` of this device predicts for `workload`.
   * Called once before the first operation; again to replace it.
   */
  reserve(workload: Workload): void

  /** Host to device: `data` (a multiple of cols) goes to rows from row0, rounded if they are f16. Copied before returning. */
  write(tensor: Tensor, data: Float32Array, row0?: number): void
  /** Device to host: rows [row0, row0 + rows), after all operations issued so far. */
  read(tensor: Tensor, row0: number, rows: number): Promise<Float32Array>

  /**
   * Host memory of exactly `bytes` to read a slab into. Waits until the slot's last use is over
   * and staging is free. Every stage is followed by one commit or one discard.
   */
  stage(slot: Slot, bytes: number): Promise<Uint8Array>
  /**
   * The slot's bytes are complete (staged just before, or still there from an earlier pass): they
   * may now be used once, by linear, crossEntropy or logits. Slots must be used in the order of their commits;
   * the device may prepare the perturbed tiles ahead.
   */
  commit(slot: Slot, weights: Weights): void
  /** Forgets a staged or committed slab that will not be used (a stream closed early); else no-op. */
  discard(slot: Slot): void

  /**
   * Takes x [P*rows, K] through the addend's right factor, into scratch that holds it until the
   * next call. Comes before the calls that name this addend, with the same rows.
   */
  project(x: Tensor, addend: Addend, at: Rows): Promise<void>
  /**
   * y[p] [rows, N] = x[p] [rows, K] * W_p^T + bias[p] + addend: all tiles of the slab, each into its
   * own columns of y. bias is [>=P, N] or null; with relu, y = max(that, 0). Sums of a transposed
   * matrix pass through y from one tile to the next, rounded each time if y is f16.
   * @throws RangeError for relu with a transposed matrix
   */
  linear(
    x: Tensor,
    slot: Slot,
    bias: Tensor | null,
    y: Tensor,
    at: Rows,
    options?: { readonly relu?: boolean; readonly addend?: Addend },
  ): Promise<void>
  /** y = (x - mean)/sqrt(var + eps) * scale[p] + bias[p] over cols; scale, bias [>=P, C] or null. */
  layerNorm(
    x: Tensor,
    scale: Tensor | null,
    bias: Tensor | null,
    eps: number,
    y: Tensor,
    at: Rows,
  ): Promise<void>
  /**
   * y = x / sqrt(mean of x^2 + eps) * (scale[p] + offset) over each group of D columns of a row; scale
   * [>=P, D], and x has a multiple of D columns (a head's norm has one for each head).
   */
  rmsNorm(
    x: Tensor,
    scale: Tensor,
    eps: number,
    y: Tensor,
    at: Rows,
    options?: { readonly offset?: number },
  ): Promise<void>
  /**
   * Rotates the first d columns of each head of D columns in place, pairs (i, i + d/2) by the angle of a row:
   * `table` [>=rows, d] has its cosines and then its sines, d/2 of each. All probes share it.
   */
  rope(x: Tensor, table: Tensor, headSize: number, at: Rows): Promise<void>
  /**
   * softmax(q*scale * k^T) * v for each probe and each of H heads, over the keys that a query sees: q and y are
   * [P*queries, H*D], k and v [P*keys, kvHeads*D]; q may be y, whose rows are then replaced. The bits of a row
   * depend on its query and on the keys that it sees in their order alone, not on what other rows there are; keys
   * that are not in its group's list may be infinite or NaN.
   * @throws RangeError where columns are not those of the heads
   */
  attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    probes: number,
    sees: QueryGroups,
    dims: AttentionDims,
  ): Promise<void>
  /** x = f(x) in place. gelu is the exact (erf) form, gelu_new the tanh form, silu x/(1 + e^-x). */
  activation(kind: Activation, x: Tensor, at: Rows): Promise<void>
  /** y = f(y) * x in place (SwiGLU, GeGLU): calculated in f32, rounded once. */
  gate(kind: Activation, x: Tensor, y: Tensor, at: Rows): Promise<void>
  /** y += x in place. */
  add(x: Tensor, y: Tensor, at: Rows): Promise<void>
  /** y = x[:, col0 .. col0 + y.cols): a part of a fused product (GPT-2's q, k and v). */
  copyColumns(x: Tensor, col0: number, y: Tensor, at: Rows): Promise<void>
  /** y[i] = x[indices[i]], for all indices (rows over all probes). */
  gatherRows(x: Tensor, indices: Uint32Array, y: Tensor): Promise<void>
  /** y[indices[i]] = x[i], for all indices; they are distinct. f32 rows may be placed in an f16 y. */
  scatterRows(x: Tensor, indices: Uint32Array, y: Tensor): Promise<void>
  /**
   * Online log-sum-exp over one vocabulary slab. logits[p] = x[p] [rows, K] * W_p^T; state
   * [P*rows, 2 + n] carries (max, sum of exp(logit - max), logit of each of n targets) and must start as
   * (-Infinity, 0, 0 ...); targets has n vocabulary indices for each of the P*rows rows.
   * @throws RangeError for a transposed matrix
   */
  crossEntropy(
    x: Tensor,
    slot: Slot,
    targets: Uint32Array,
    state: Tensor,
    at: Rows,
    options?: HeadOptions,
  ): Promise<void>
  /**
   * Logits of one vocabulary slab, tile by tile to the host: data is [P*rows, tile.rows].
   * @throws RangeError for a transposed matrix
   */
  logits(
    x: Tensor,
    slot: Slot,
    at: Rows,
    sink: (tile: Tile, data: Float32Array) => void,
    options?: HeadOptions,
  ): Promise<void>

  /**
   * Tells `done` when the operations that `run` calls began and ended on the device, in
   * performance.now()'s time: once they are over, at the latest in `sync`; never if they failed or
   * had nothing to do. One call at a time. Only a device that was opened for it may have it.
   */
  measure?(run: () => Promise<void>, done: (startMs: number, endMs: number) => void): Promise<void>

  /** Waits for all issued work and surfaces its errors. */
  sync(): Promise<void>
  /** Frees everything, stops workers, leaves the ledger at zero. Safe to call twice. */
  close(): Promise<void>
}
