// What a model is to the runtime: a program, operation after operation, as data, with what follows from it: its
// tensors for the planner, and where its rows lie. A model file states the program once, as straight-line
// code over a builder (build.ts), and never sees slots, seeds, eps or files. What runs it is src/engine/run.ts.
//
// Shape legend: see src/device/device.ts.

import type { Activation } from '../src/device/device.ts'
import type { AttentionDims, Packed } from '../src/device/packed.ts'
import type { Rope } from './rope.ts'

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
  /** As a matrix's. */
  readonly block: number
}

/** Rows of activations: R of them, in the last block the wanted ones alone. */
export interface Rows {
  readonly cols: number
  /** Of Program.buffers. */
  readonly buffer: number
}

/** Memory of R rows. Buffers of one memory may lie over each other: they are never in use at the same time. */
export interface Buffer {
  readonly label: string
  readonly cols: number
  readonly memory: number
  /** Columns in front of it: those of buffers that are in use beside it. */
  readonly col0: number
}

/** One operation; vectors by name, null where the layout has none. */
export type Op =
  /** y = `scale` times the rows of `table` by the ids or the positions of the batch, `offset` rows further on. */
  | {
      readonly kind: 'gather'
      readonly table: string
      readonly by: 'ids' | 'positions'
      readonly offset: number
      readonly scale: number
      readonly y: Rows
    }
  /** y = x W^T + bias, streamed; with relu y = max(that, 0). */
  | {
      readonly kind: 'linear'
      readonly x: Rows
      readonly matrix: Matrix
      readonly bias: string | null
      readonly relu: boolean
      readonly y: Rows
    }
  | {
      readonly kind: 'layerNorm'
      readonly x: Rows
      readonly scale: string | null
      readonly bias: string | null
      readonly eps: number
      readonly y: Rows
    }
  /** By groups of columns as long as the scale, to which `offset` is added. */
  | {
      readonly kind: 'rmsNorm'
      readonly x: Rows
      readonly scale: string
      readonly offset: number
      readonly eps: number
      readonly y: Rows
    }
  /** Rotates the heads of x by the angles that number `rope` of the model's ropes has for the positions. */
  | { readonly kind: 'rope'; readonly x: Rows; readonly rope: number }
  /** x = f(x). */
  | { readonly kind: 'activation'; readonly f: Activation; readonly x: Rows }
  /** y = f(y) * x. */
  | { readonly kind: 'gate'; readonly f: Activation; readonly x: Rows; readonly y: Rows }
  /** y += x. */
  | { readonly kind: 'add'; readonly x: Rows; readonly y: Rows }
  /** y = columns of x from `first` on. */
  | { readonly kind: 'columns'; readonly x: Rows; readonly first: number; readonly y: Rows }
  /** y = attention, over the last `window` keys if it is given; in the last block of the wanted rows alone. */
  | {
      readonly kind: 'attention'
      readonly layer: number
      readonly window?: number
      readonly q: Rows
      readonly k: Rows
      readonly v: Rows
      readonly y: Rows
    }
  /** y = the wanted rows of x. */
  | { readonly kind: 'wanted'; readonly x: Rows; readonly y: Rows }
  /** Before a block, and behind the last: h is all that lives. Probes may part here. */
  | { readonly kind: 'block'; readonly block: number; readonly h: Rows; readonly spare: Rows }
  /** Loss or logits of x against the vocabulary matrix, capped if `cap` is given. */
  | { readonly kind: 'head'; readonly x: Rows; readonly matrix: Matrix; readonly cap?: number }

/** Everything that follows from a model's program. */
export interface Program {
  readonly ops: readonly Op[]
  /** Matrices streamed by one forward pass, in the order of their use. */
  readonly matrices: readonly Matrix[]
  /** Tables whose rows are gathered on the host; a tied head is in `matrices` too. */
  readonly tables: readonly Matrix[]
  readonly vectors: readonly Vector[]
  readonly buffers: readonly Buffer[]
}

/** Everything known of a model before a weight is read. */
export interface Model extends Program {
  readonly modelType: string
  readonly hidden: number
  readonly layers: number
  /** Of every block. */
  readonly attention: AttentionDims
  readonly vocabSize: number
  /** Longest sequence of tokens. */
  readonly maxPositions: number
  /** Rotary position embeddings; none where positions are learned. */
  readonly ropes?: readonly Rope[]
  /** Whether its activations overflow f16, so that they are f32 whatever was asked for. */
  readonly needsF32?: boolean
  /** n of prefix tuning: keys and values that each layer has before those of the sequence. */
  readonly prefixTokens?: number
  /** Names under which a checkpoint may hold the tensor `name`, first choice first. */
  aliases(name: string): readonly string[]
}

/** Tables and matrices in the order of first use, a tied one once. */
export function distinctMatrices({
  tables,
  matrices,
}: Pick<Model, 'tables' | 'matrices'>): Matrix[] {
  return [...new Map([...tables, ...matrices].map((matrix) => [matrix.name, matrix])).values()]
}

/** Tokens and their positions, those of a prefix before them counted. */
export interface ModelInput extends Pick<Packed, 'ids' | 'positions'> {
  /** [R] tokens of the text that a row belongs to, a prefix counted; there where a rope goes by them. */
  readonly lengths?: Uint32Array
}
