// onnxruntime-node's WebGPU execution provider in the WebGPU bench: one graph per shape whose weights
// are initializers, hence resident; x goes up and y comes down in every run, which the package's
// binding has no way around (a few percent of a product). It opens Dawn by itself, on the adapter
// that the Vulkan loader gives it.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type * as Ort from 'onnxruntime-common'
import { encodeModel, type OnnxGraph, type OnnxNode } from '../../../src/device/cpu/onnx.ts'
import type { BlockShape, Open, Operands } from './work.ts'

export const open: Open = () => {
  const require = createRequire(import.meta.url)
  const { InferenceSession, Tensor } = require('onnxruntime-node') as typeof Ort
  const manifest = require.resolve('onnxruntime-node/package.json')
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }
  let session: Ort.InferenceSession | undefined
  return Promise.resolve({
    version,
    async prepare(shape, operands) {
      await session?.release()
      const weights = weightsOf(operands)
      const model =
        shape.kind === 'gemm'
          ? modelOf(GEMM, weights)
          : modelOf(BLOCK, [...weights, ...blockConstants(shape)])
      session = await InferenceSession.create(model, { executionProviders: ['webgpu'] })
      const { rows, cols, data } = operands['x']!
      const dims = shape.kind === 'gemm' ? [rows, cols] : [shape.batch, shape.tokens, cols]
      const feeds = { x: new Tensor('float32', data, dims) }
      const run = async () => (await session!.run(feeds))['y']!
      return {
        run: async () => void (await run()),
        output: async () => (await run()).data as Float32Array,
      }
    },
    close: async () => void (await session?.release()),
  })
}

const GEMM: OnnxGraph = {
  nodes: [{ op: 'MatMul', inputs: ['x', 'w'], outputs: ['y'] }],
  inputs: { x: 2 },
  outputs: { y: 2 },
}

const node = (
  op: string,
  inputs: string[],
  output: string,
  attributes: NonNullable<OnnxNode['attributes']> = {},
): OnnxNode => ({ op, inputs, outputs: [output], attributes })

// MultiHeadAttention, one node, is left alone: on lavapipe 1.30.0 gives values that differ from those
// of its own CPU kernel in the second digit.
const ATTENTION: OnnxNode[] = [
  ...['q', 'k', 'v'].flatMap((name) => [
    node('Reshape', [`a_${name}`, 'split'], `${name}_split`),
    node('Transpose', [`${name}_split`], `${name}_heads`, {
      perm: { ints: name === 'k' ? [0, 2, 3, 1] : [0, 2, 1, 3] },
    }),
  ]),
  node('MatMul', ['q_heads', 'k_heads'], 'products'),
  node('Mul', ['products', 'scale'], 'scaled'),
  node('Add', ['scaled', 'mask'], 'scores'),
  node('Softmax', ['scores'], 'weights', { axis: { int: -1 } }),
  node('MatMul', ['weights', 'v_heads'], 'sums'),
  node('Transpose', ['sums'], 'rows', { perm: { ints: [0, 2, 1, 3] } }),
  node('Reshape', ['rows', 'join'], 'seen'),
]

const norm = (x: string, name: string, y: string) =>
  node('LayerNormalization', [x, name, `${name}_bias`], y, {
    epsilon: { float: 1e-5 },
    axis: { int: -1 },
  })

const linear = (x: string, name: string, y: string) => [
  node('MatMul', [x, name], `${y}_product`),
  node('Add', [`${y}_product`, `${name}_bias`], y),
]

const BLOCK: OnnxGraph = {
  nodes: [
    norm('x', 'norm1', 'a'),
    ...['q', 'k', 'v'].flatMap((name) => linear('a', name, `a_${name}`)),
    ...ATTENTION,
    ...linear('seen', 'out', 'o'),
    node('Add', ['x', 'o'], 'h'),
    norm('h', 'norm2', 'b'),
    ...linear('b', 'fc1', 'f'),
    node('Relu', ['f'], 'g'),
    ...linear('g', 'fc2', 'p'),
    node('Add', ['h', 'p'], 'y'),
  ],
  inputs: { x: 3 },
  outputs: { y: 3 },
}

/** What the block's graph needs besides the weights. */
function blockConstants({ batch: B, tokens: T, hidden: C, heads: H }: BlockShape): Buffer[] {
  const unseen = Float32Array.from({ length: T * T }, (_, i) => (i % T > i / T ? -1e30 : 0))
  return [
    tensorProto('split', [4], BigInt64Array.of(BigInt(B), BigInt(T), BigInt(H), BigInt(C / H))),
    tensorProto('join', [3], BigInt64Array.of(BigInt(B), BigInt(T), BigInt(C))),
    tensorProto('scale', [1], Float32Array.of((C / H) ** -0.5)),
    tensorProto('mask', [T, T], unseen),
  ]
}

/** The graph's bytes with initializers: a second part of field 7 is merged into the first. */
const modelOf = (graph: OnnxGraph, initializers: readonly Buffer[]) =>
  Buffer.concat([
    encodeModel(graph),
    field(7, Buffer.concat(initializers.map((each) => field(5, each)))),
  ])

const weightsOf = (operands: Operands) =>
  Object.entries(operands)
    .filter(([name]) => name !== 'x')
    .map(([name, { rows, cols, data }]) =>
      tensorProto(name, rows === 1 ? [cols] : [rows, cols], data),
    )

/** TensorProto (onnx.proto3): dims 1, data_type 2 (1 float, 7 int64), name 8, raw_data 9. */
function tensorProto(
  name: string,
  dims: readonly number[],
  data: Float32Array | BigInt64Array,
): Buffer {
  const type = data instanceof Float32Array ? 1 : 7
  const raw = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  const head = Buffer.from([...dims.flatMap((n) => [8, ...varint(n)]), 16, type])
  return Buffer.concat([head, field(8, Buffer.from(name)), field(9, raw)])
}

const field = (number: number, body: Buffer) =>
  Buffer.concat([Buffer.from([number * 8 + 2, ...varint(body.length)]), body])

function varint(n: number): number[] {
  const bytes: number[] = []
  for (; n > 127; n = Math.floor(n / 128)) bytes.push((n % 128) | 128)
  return [...bytes, n]
}
