// The operations on rows alone: norms, rope, attention, activations, add, copyColumns,
// gatherRows, scatterRows.

import { UserError } from '../../util/errors.ts'
import {
  checkAttention,
  checkGroups,
  checkRope,
  type Activation,
  type Device,
  type Rows,
  type Tensor,
} from '../device.ts'
import { activationKernel, gateKernel } from './kernels/activation.ts'
import { addKernel } from './kernels/add.ts'
import {
  ATTENTION_ROWS,
  attentionKernel,
  MAX_HEAD_SIZE,
  type AttentionShape,
} from './kernels/attention.ts'
import {
  attentionSubgroupKernel,
  MAX_SUBGROUP_HEAD_SIZE,
  subgroupAttentionRows,
} from './kernels/attention-subgroup.ts'
import type { Element } from './kernels/elements.ts'
import { columnsKernel } from './kernels/columns.ts'
import { gatherKernel } from './kernels/gather.ts'
import { scatterKernel } from './kernels/scatter.ts'
import { layerNormKernel } from './kernels/layernorm.ts'
import { rmsNormKernel } from './kernels/rmsnorm.ts'
import { ropeKernel } from './kernels/rope.ts'
import type { Runtime } from './runtime.ts'

type Elementwise = Pick<
  Device,
  'rope' | 'activation' | 'gate' | 'add' | 'copyColumns' | 'gatherRows' | 'scatterRows'
>

export function createRowPart(
  runtime: Runtime,
): Elementwise & Pick<Device, 'layerNorm' | 'rmsNorm' | 'attention'> {
  return {
    layerNorm: createLayerNorm(runtime),
    rmsNorm: createRmsNorm(runtime),
    attention: createAttention(runtime),
    ...createElementwise(runtime),
  }
}

/** The one element type of an operation's activations. */
function typeOf(...tensors: readonly Tensor[]): Element {
  const [first] = tensors
  const other = tensors.find(({ dtype }) => dtype !== first!.dtype)
  if (!other) return first!.dtype === 'F16' ? 'f16' : 'f32'
  throw new Error(`"${first!.label}" is ${first!.dtype}, "${other.label}" is ${other.dtype}`)
}

/** Calls `make` when its result is first asked for. */
function once<T>(make: () => T): () => T {
  let made: T | undefined
  return () => (made ??= make())
}

/** A kernel for each element type: that of f32 made now, that of f16, which an adapter may lack, when wanted. */
function byType<T>(make: (type: Element) => T): (type: Element) => T {
  const f32 = make('f32')
  const f16 = once(() => make('f16'))
  return (type) => (type === 'f32' ? f32 : f16())
}

/** A kernel for each activation and element type, made when wanted. */
function byKind<T>(make: (kind: Activation, type: Element) => T) {
  const made = new Map<string, T>()
  return (kind: Activation, type: Element): T => {
    const key = `${kind} ${type}`
    let kernel = made.get(key)
    if (kernel === undefined) made.set(key, (kernel = make(kind, type)))
    return kernel
  }
}

const totalRows = (at: Rows) => at.probes * at.rows

function createLayerNorm(runtime: Runtime): Device['layerNorm'] {
  const { commands, memories } = runtime
  const kernel = byType((type) => commands.compile(layerNormKernel(type)))
  return async (x, scale, bias, eps, y, at) => {
    runtime.check()
    const total = totalRows(at)
    const input = memories.matrix(x, total).buffer
    const output = memories.matrix(y, total, x.cols).buffer
    const affine = (tensor: Tensor | null) =>
      tensor ? memories.plain(tensor, at.probes, x.cols).buffer : input
    commands.run(
      kernel(typeOf(x, y)),
      { x: input, scale: affine(scale), bias: affine(bias), y: output },
      {
        rows: at.rows,
        total,
        cols: x.cols,
        eps,
        has_scale: scale ? 1 : 0,
        has_bias: bias ? 1 : 0,
      },
      commands.flat(total),
    )
  }
}

function createRmsNorm(runtime: Runtime): Device['rmsNorm'] {
  const { commands, memories } = runtime
  const kernel = byType((type) => commands.compile(rmsNormKernel(type)))
  return async (x, scale, eps, y, at, { offset = 0 } = {}) => {
    runtime.check()
    const { cols } = scale
    checkGroups('rmsNorm', x, cols)
    const buffers = {
      x: memories.matrix(x, totalRows(at)).buffer,
      scale: memories.plain(scale, at.probes, cols).buffer,
      y: memories.matrix(y, totalRows(at), x.cols).buffer,
    }
    const groups = (at.rows * x.cols) / cols
    const total = at.probes * groups
    const params = { groups, total, cols, eps, offset }
    commands.run(kernel(typeOf(x, y)), buffers, params, commands.flat(total))
  }
}

function createAttention(runtime: Runtime): Device['attention'] {
  const { commands, memories } = runtime
  const { software, lanes } = runtime.adapter
  const compile = (headSize: number, shape: AttentionShape) => {
    const shared = software && lanes > 0 && headSize % 4 === 0
    return shared && headSize <= MAX_SUBGROUP_HEAD_SIZE
      ? {
          kernel: commands.compile(attentionSubgroupKernel(headSize, lanes, shape)),
          rows: subgroupAttentionRows(lanes),
        }
      : { kernel: commands.compile(attentionKernel(headSize, shape)), rows: ATTENTION_ROWS }
  }
  type Compiled = ReturnType<typeof compile>
  const kernels = new Map<string, Compiled>()
  const kernelOf = (headSize: number, shape: AttentionShape) => {
    if (headSize > MAX_HEAD_SIZE) {
      throw new UserError(
        `attention heads of ${headSize} columns do not run on the webgpu device, which takes ` +
          `sizes up to ${MAX_HEAD_SIZE}: use --device cpu`,
      )
    }
    const key = `${headSize} ${Object.values(shape).join(' ')}`
    let kernel = kernels.get(key)
    if (!kernel) kernels.set(key, (kernel = compile(headSize, shape)))
    return kernel
  }
  return async (q, k, v, y, probes, sees, dims) => {
    const { scratch } = runtime.reserved()
    checkAttention(q, k, dims)
    const { heads, kvHeads, headSize, scale, cap = 0 } = dims
    const { queries, keys } = sees
    const place = q === y ? 'y' : 'q'
    const shape = { type: typeOf(q, k, v, y), place, capped: cap > 0 } as const
    const { kernel, rows } = kernelOf(headSize, shape)
    const operand = (tensor: Tensor, count: number, cols: number) =>
      memories.matrix(tensor, probes * count, cols).buffer
    const k0 = operand(k, keys, k.cols)
    const operands = {
      q: place === 'y' ? k0 : operand(q, queries, q.cols), // in place there is nothing in q
      k: k0,
      v: operand(v, keys, k.cols),
      y: operand(y, queries, q.cols),
    }
    const { buffer, blocks } = scratch.table(sees, rows)
    const groups = probes * blocks * heads
    if (groups === 0) return
    commands.run(
      kernel,
      { ...operands, table: buffer },
      { queries, keys, heads, kv_heads: kvHeads, blocks, groups, scale, cap },
      commands.flat(groups),
    )
  }
}

function createElementwise(runtime: Runtime): Elementwise {
  const { commands, memories } = runtime
  const elementGroups = (count: number) => commands.flat(Math.ceil(count / 256))
  const activations = byKind((kind, type) => commands.compile(activationKernel(kind, type)))
  const gates = byKind((kind, type) => commands.compile(gateKernel(kind, type)))
  const rope = byType((type) => commands.compile(ropeKernel(type)))
  const addition = byType((type) => commands.compile(addKernel(type)))
  const columns = byType((type) => commands.compile(columnsKernel(type)))
  const gather = byType((type) => commands.compile(gatherKernel(type)))
  const scatter = byType((type) => commands.compile(scatterKernel({ x: type, y: type })))
  const narrowing = once(() => commands.compile(scatterKernel({ x: 'f32', y: 'f16' })))
  return {
    async rope(x, table, headSize, at) {
      runtime.check()
      checkRope(x, table, headSize)
      const buffers = {
        x: memories.matrix(x, totalRows(at)).buffer,
        table: memories.plain(table, at.rows, table.cols).buffer,
      }
      const [heads, half] = [x.cols / headSize, table.cols / 2]
      const count = totalRows(at) * heads * half
      const params = { count, rows: at.rows, heads, head: headSize, half }
      commands.run(rope(typeOf(x)), buffers, params, elementGroups(count))
    },
    async activation(kind, x, at) {
      runtime.check()
      const { buffer, cols } = memories.matrix(x, totalRows(at))
      const count = totalRows(at) * cols
      commands.run(activations(kind, typeOf(x)), { x: buffer }, { count }, elementGroups(count))
    },
    async gate(kind, x, y, at) {
      runtime.check()
      const input = memories.matrix(x, totalRows(at)).buffer
      const output = memories.matrix(y, totalRows(at), x.cols).buffer
      const count = totalRows(at) * x.cols
      const kernel = gates(kind, typeOf(x, y))
      commands.run(kernel, { x: input, y: output }, { count }, elementGroups(count))
    },
    async add(x, y, at) {
      runtime.check()
      const input = memories.matrix(x, totalRows(at)).buffer
      const output = memories.matrix(y, totalRows(at), x.cols).buffer
      const count = totalRows(at) * x.cols
      commands.run(addition(typeOf(x, y)), { x: input, y: output }, { count }, elementGroups(count))
    },
    async copyColumns(x, col0, y, at) {
      runtime.check()
      const input = memories.matrix(x, totalRows(at)).buffer
      const output = memories.matrix(y, totalRows(at)).buffer
      if (col0 + y.cols > x.cols) throw new RangeError(`"${x.label}" has ${x.cols} columns`)
      const count = totalRows(at) * y.cols
      const params = { count, cols: y.cols, all: x.cols, first: col0 }
      commands.run(columns(typeOf(x, y)), { x: input, y: output }, params, elementGroups(count))
    },
    async gatherRows(x, indices, y) {
      const { scratch } = runtime.reserved()
      const input = memories.matrix(x, 0).buffer
      const output = memories.matrix(y, indices.length, x.cols).buffer
      const beyond = indices.find((index) => index >= x.rows)
      if (beyond !== undefined) {
        throw new RangeError(`row ${beyond} of "${x.label}" is asked for, it has ${x.rows}`)
      }
      const count = indices.length * x.cols
      const buffers = { x: input, indices: scratch.indices(indices), y: output }
      commands.run(gather(typeOf(x, y)), buffers, { count, cols: x.cols }, elementGroups(count))
    },
    async scatterRows(x, indices, y) {
      const { scratch } = runtime.reserved()
      const input = memories.matrix(x, indices.length).buffer
      const output = memories.matrix(y, 0, x.cols).buffer
      const beyond = indices.find((index) => index >= y.rows)
      if (beyond !== undefined) {
        throw new RangeError(`row ${beyond} of "${y.label}" is to be written, it has ${y.rows}`)
      }
      const count = indices.length * x.cols
      const buffers = { x: input, indices: scratch.indices(indices), y: output }
      const mixed = x.dtype === 'F32' && y.dtype === 'F16'
      const kernel = mixed ? narrowing() : scatter(typeOf(x, y))
      commands.run(kernel, buffers, { count, cols: x.cols }, elementGroups(count))
    },
  }
}
