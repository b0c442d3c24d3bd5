// The operations on rows alone: layerNorm, attention, activation, add, copyColumns,
// gatherRows, scatterRows.

import { UserError } from '../../errors.ts'
import type { Activation, Device, Rows, Tensor } from '../device.ts'
import { flatGroups } from './commands.ts'
import { activationKernel } from './kernels/activation.ts'
import { addKernel } from './kernels/add.ts'
import { ATTENTION_ROWS, attentionKernel, MAX_HEAD_SIZE } from './kernels/attention.ts'
import {
  attentionSubgroupKernel,
  MAX_SUBGROUP_HEAD_SIZE,
  subgroupAttentionRows,
} from './kernels/attention-subgroup.ts'
import { columnsKernel } from './kernels/columns.ts'
import { gatherKernel } from './kernels/gather.ts'
import { scatterKernel } from './kernels/scatter.ts'
import { layerNormKernel } from './kernels/layernorm.ts'
import type { Runtime } from './runtime.ts'

type Elementwise = Pick<Device, 'activation' | 'add' | 'copyColumns' | 'gatherRows' | 'scatterRows'>

export function createRowPart(
  runtime: Runtime,
): Elementwise & Pick<Device, 'layerNorm' | 'attention'> {
  return {
    layerNorm: createLayerNorm(runtime),
    attention: createAttention(runtime),
    ...createElementwise(runtime),
  }
}

const totalRows = (at: Rows) => at.probes * at.rows

const elementGroups = (count: number) => flatGroups(Math.ceil(count / 256))

function createLayerNorm(runtime: Runtime): Device['layerNorm'] {
  const { commands, memories } = runtime
  const kernel = commands.compile(layerNormKernel)
  return async (x, scale, bias, eps, y, at) => {
    runtime.check()
    const total = totalRows(at)
    const input = memories.matrix(x, total).buffer
    const output = memories.matrix(y, total, x.cols).buffer
    const affine = (tensor: Tensor | null) =>
      tensor ? memories.matrix(tensor, at.probes, x.cols).buffer : input
    commands.run(
      kernel,
      { x: input, scale: affine(scale), bias: affine(bias), y: output },
      {
        rows: at.rows,
        total,
        cols: x.cols,
        eps,
        has_scale: scale ? 1 : 0,
        has_bias: bias ? 1 : 0,
      },
      flatGroups(total),
    )
  }
}

function createAttention(runtime: Runtime): Device['attention'] {
  const { commands, memories } = runtime
  const { software, lanes } = runtime.adapter
  const compile = (headSize: number) => {
    const shared = software && lanes > 0 && headSize % 4 === 0
    return shared && headSize <= MAX_SUBGROUP_HEAD_SIZE
      ? {
          kernel: commands.compile(attentionSubgroupKernel(headSize, lanes)),
          rows: subgroupAttentionRows(lanes),
        }
      : { kernel: commands.compile(attentionKernel(headSize)), rows: ATTENTION_ROWS }
  }
  const kernels = new Map<number, ReturnType<typeof compile>>()
  const kernelOf = (headSize: number) => {
    if (!Number.isInteger(headSize) || headSize > MAX_HEAD_SIZE) {
      throw new UserError(
        `attention heads of ${headSize} columns do not run on the webgpu device, which takes ` +
          `whole sizes up to ${MAX_HEAD_SIZE}: use --device cpu`,
      )
    }
    let kernel = kernels.get(headSize)
    if (!kernel) kernels.set(headSize, (kernel = compile(headSize)))
    return kernel
  }
  return async (q, k, v, keyMask, y, { probes, batch, tokens, heads, keys = tokens }) => {
    runtime.check()
    const headSize = q.cols / heads
    const sequences = probes * batch
    const operand = (tensor: Tensor, count: number) =>
      memories.matrix(tensor, sequences * count, q.cols).buffer
    const mask = memories.matrix(keyMask, batch, keys).buffer
    const { kernel, rows } = kernelOf(headSize)
    commands.run(
      kernel,
      {
        q: operand(q, tokens),
        k: operand(k, keys),
        v: operand(v, keys),
        key_mask: mask,
        y: operand(y, tokens),
      },
      { batch, tokens, keys, heads, sequences, scale: headSize ** -0.5 },
      [Math.ceil(tokens / rows) * heads, ...flatGroups(sequences)],
    )
  }
}

function createElementwise(runtime: Runtime): Elementwise {
  const { commands, memories } = runtime
  const activations = {
    relu: commands.compile(activationKernel('relu')),
    gelu: commands.compile(activationKernel('gelu')),
    gelu_new: commands.compile(activationKernel('gelu_new')),
  } satisfies Record<Activation, unknown>
  const addition = commands.compile(addKernel)
  const columns = commands.compile(columnsKernel)
  const gather = commands.compile(gatherKernel)
  const scatter = commands.compile(scatterKernel)
  return {
    async activation(kind, x, at) {
      runtime.check()
      const { buffer, cols } = memories.matrix(x, totalRows(at))
      const count = totalRows(at) * cols
      commands.run(activations[kind], { x: buffer }, { count }, elementGroups(count))
    },
    async add(x, y, at) {
      runtime.check()
      const input = memories.matrix(x, totalRows(at)).buffer
      const output = memories.matrix(y, totalRows(at), x.cols).buffer
      const count = totalRows(at) * x.cols
      commands.run(addition, { x: input, y: output }, { count }, elementGroups(count))
    },
    async copyColumns(x, col0, y, at) {
      runtime.check()
      const input = memories.matrix(x, totalRows(at)).buffer
      const output = memories.matrix(y, totalRows(at)).buffer
      if (col0 + y.cols > x.cols) throw new RangeError(`"${x.label}" has ${x.cols} columns`)
      const count = totalRows(at) * y.cols
      const params = { count, cols: y.cols, all: x.cols, first: col0 }
      commands.run(columns, { x: input, y: output }, params, elementGroups(count))
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
      commands.run(gather, buffers, { count, cols: x.cols }, elementGroups(count))
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
      commands.run(scatter, buffers, { count, cols: x.cols }, elementGroups(count))
    },
  }
}
