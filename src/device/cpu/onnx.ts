// Writes small ONNX models in memory (protobuf, IR version 8, opset 17 plus com.microsoft 1), one for
// each operation of the cpu device. Every input and output is a graph value with free dimensions.
// Which operations there are is said in ops.ts. Source: onnx.proto3 of the ONNX project; the numbers
// below are its field numbers.

const ELEMENT = { f32: 1, int64: 7, f16: 10 } as const
const ATTRIBUTE = { float: 1, int: 2, ints: 7 } as const

type Attribute = { float: number } | { int: number } | { ints: readonly number[] }

export interface OnnxNode {
  readonly op: string
  /** 'com.microsoft' for ONNX Runtime's own operators. */
  readonly domain?: string
  /** Value names; '' leaves an optional input out. */
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes?: Readonly<Record<string, Attribute>>
}

export interface OnnxGraph {
  readonly nodes: readonly OnnxNode[]
  /** f32 values by name with their ranks. */
  readonly inputs: Readonly<Record<string, number>>
  /** Those among inputs and outputs that are f16 instead. */
  readonly halves?: readonly string[]
  /** Inputs that are lists of whole numbers. */
  readonly integers?: readonly string[]
  readonly outputs: Readonly<Record<string, number>>
}

/** A single f32. */
export const constant = (name: string, float: number): OnnxNode => ({
  op: 'Constant',
  inputs: [],
  outputs: [name],
  attributes: { value_float: { float } },
})

type Bytes = number[]

/** The serialized ModelProto of a graph. */
export function encodeModel(graph: OnnxGraph): Uint8Array {
  const values = (record: Readonly<Record<string, number>>, field: number) =>
    Object.entries(record).flatMap(([name, rank]) => {
      const type = graph.halves?.includes(name) ? 'f16' : 'f32'
      return message(field, value(name, rank, type))
    })
  const integers = (graph.integers ?? []).flatMap((name) => message(11, value(name, 1, 'int64')))
  const body = [
    ...graph.nodes.flatMap((n) => message(1, node(n))),
    ...text(2, 'graph'),
    ...values(graph.inputs, 11),
    ...integers,
    ...values(graph.outputs, 12),
  ]
  const opset = (domain: string, version: number) =>
    message(8, [...text(1, domain), ...int(2, version)])
  return Uint8Array.from([
    ...int(1, 8),
    ...message(7, body),
    ...opset('', 17),
    ...opset('com.microsoft', 1),
  ])
}

function node(n: OnnxNode): Bytes {
  return [
    ...n.inputs.flatMap((name) => text(1, name)),
    ...n.outputs.flatMap((name) => text(2, name)),
    ...text(4, n.op),
    ...Object.entries(n.attributes ?? {}).flatMap(([name, a]) => message(5, attribute(name, a))),
    ...text(7, n.domain ?? ''),
  ]
}

function attribute(name: string, a: Attribute): Bytes {
  if ('float' in a) {
    const bytes = new Uint8Array(Float32Array.of(a.float).buffer)
    return [...text(1, name), ...tag(2, 5), ...bytes, ...int(20, ATTRIBUTE.float)]
  }
  if ('int' in a) return [...text(1, name), ...int(3, a.int), ...int(20, ATTRIBUTE.int)]
  return [...text(1, name), ...a.ints.flatMap((i) => int(8, i)), ...int(20, ATTRIBUTE.ints)]
}

/** ValueInfoProto: a tensor whose dimensions have names of their own, hence are free. */
function value(name: string, rank: number, type: keyof typeof ELEMENT): Bytes {
  const dims = Array.from({ length: rank }, (_, i) => message(1, text(2, `${name}_${i}`))).flat()
  return [
    ...text(1, name),
    ...message(2, message(1, [...int(1, ELEMENT[type]), ...message(2, dims)])),
  ]
}

function varint(n: number): Bytes {
  const bytes: Bytes = []
  let rest = BigInt.asUintN(64, BigInt(n))
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128)
  return [...bytes, Number(rest)]
}

const tag = (field: number, wire: number): Bytes => varint(field * 8 + wire)
const int = (field: number, n: number): Bytes => [...tag(field, 0), ...varint(n)]
const message = (field: number, body: Bytes): Bytes => [
  ...tag(field, 2),
  ...varint(body.length),
  ...body,
]
const text = (field: number, s: string): Bytes => message(field, [...Buffer.from(s)])
