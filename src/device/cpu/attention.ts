// Attention of packed rows on the cpu device: which rows go through which call of the graph, and the mask of
// what each query sees. How queries are cut into calls is said in attention-plan.ts, how rows get
// there and back in frames.ts, the arithmetic in attention-graph.ts.

import { maxOf } from '../../util/extremes.ts'
import type { AttentionDims, QueryGroups } from '../packed.ts'
import {
  blocksAtOnce,
  callElements,
  FRAMED,
  planAttention,
  type AttentionPlan,
  type Block,
  type BlockClass,
  type CallShape,
  type LongGroup,
} from './attention-plan.ts'
import { loadFrame, memoryOf, resultOf, storeFrame, type Elements, type Frame } from './frames.ts'
import type { CpuOps } from './ops.ts'

/** Added to masked scores: their weight is exactly 0, and finite. */
const MASKED = -1e30

/** All rows of all probes, of one dtype, and what they see; memory.ts sets `scratch` aside. */
interface Attention {
  readonly ops: CpuOps
  readonly q: Elements
  readonly k: Elements
  readonly v: Elements
  readonly y: Elements
  readonly probes: number
  readonly sees: QueryGroups
  readonly dims: AttentionDims
  readonly scratch: Float32Array
}

/** A block of one probe. */
interface Item {
  readonly probe: number
  readonly block: Block
}

/** Keys and values of a call, and scratch that is left. */
interface Keys {
  readonly k: Float32Array
  readonly v: Float32Array
  readonly room: Float32Array
}

/** y = attention of all probes. */
export async function attend(a: Attention): Promise<void> {
  const plan = planOf(a.sees, a.dims)
  for (const blocks of plan.classes) await attendClass(a, blocks, plan.inPlace)
  for (const group of plan.long) {
    for (let probe = 0; probe < a.probes; probe++) await attendLong(a, group, probe)
  }
}

/** The layers of a pass share what their rows see. */
const plans = new WeakMap<QueryGroups, { of: string; plan: AttentionPlan }>()

function planOf(sees: QueryGroups, { heads, kvHeads, headSize }: AttentionDims): AttentionPlan {
  const of = `${heads} ${kvHeads} ${headSize}`
  const last = plans.get(sees)
  if (last?.of === of) return last.plan
  const plan = planAttention(sees, { heads, kvHeads, headSize })
  plans.set(sees, { of, plan })
  return plan
}

/** All heads of the class's blocks, as many blocks in a call as may be. */
async function attendClass(
  a: Attention,
  { queries, keys, blocks }: BlockClass,
  inPlace: AttentionPlan['inPlace'],
): Promise<void> {
  const probes = Array.from({ length: a.probes }, (_, probe) => probe)
  const items = probes.flatMap((probe) => blocks.map((block) => ({ probe, block })))
  const shape = shapeOf(a.dims, queries, keys)
  const f32 = a.q instanceof Float32Array
  const framed = { queries: !(f32 && inPlace.queries), keys: !(f32 && inPlace.keys) }
  const step = evenStep(items.length, blocksAtOnce(shape, framed))
  for (let first = 0; first < items.length; first += step) {
    const part = items.slice(first, first + step)
    const call = { ...shape, blocks: part.length }
    checkScratch(a, callElements(call, framed))
    const ofKeys = {
      stretches: part.map(({ probe, block }) => keysOf(a, probe, block)),
      each: keys,
      columns: keyColumns(a.dims),
      inPlace: inPlace.keys ? first * keys : undefined,
    }
    const place = inPlace.queries ? first * queries : undefined
    await attendBlocks(a, part, call, await loadKeys(a, ofKeys), 0, place)
  }
}

/** A few heads at a time: all keys and values once, of which each block sees the first. */
async function attendLong(a: Attention, group: LongGroup, probe: number): Promise<void> {
  const { spans, keys, classes } = group
  const queries = maxOf(classes.map((one) => one.queries))
  for (let head = 0; head < a.dims.kvHeads; head += group.kvHeads) {
    const kvHeads = Math.min(group.kvHeads, a.dims.kvHeads - head)
    checkScratch(a, callElements(shapeOf(a.dims, queries, keys, kvHeads), FRAMED))
    const columns = keyColumns(a.dims, head, kvHeads)
    const whole = { spans, seen: group.group.keys.length }
    const { k, v, room } = await loadKeys(a, {
      stretches: [keysOf(a, probe, whole)],
      each: keys,
      columns,
    })
    for (const one of classes) {
      const items = one.blocks.map((block) => ({ probe, block }))
      const [seenK, seenV] = [k, v].map((all) => all.subarray(0, one.keys * columns.count))
      const call = shapeOf(a.dims, one.queries, one.keys, kvHeads)
      await attendBlocks(a, items, call, { k: seenK!, v: seenV!, room }, head)
    }
  }
}

/** One call of the graph, with heads of keys from `head` on; its queries are rows from `inPlace` on, or frames. */
async function attendBlocks(
  a: Attention,
  items: readonly Item[],
  shape: CallShape,
  { k, v, room }: Keys,
  head: number,
  inPlace?: number,
): Promise<void> {
  const { blocks, queries, keys, kvHeads, shared, headSize } = shape
  const width = shared * headSize
  const frame = {
    stretches: items.map((item) => queriesOf(a, item)),
    each: queries,
    columns: { all: a.dims.heads * headSize, first: head * width, count: kvHeads * width },
    inPlace,
  }
  const [memory, behind] = cutAt(room, memoryOf(a.q, frame))
  const [mask, rest] = cutAt(behind, blocks * queries * keys)
  const q = await loadFrame(a.ops, a.q, frame, memory, rest)
  const y = resultOf(a.y, frame, memory)
  fillMask(mask, items, shape)
  await a.ops.attention({ q, k, v, mask, y }, shape, a.dims, rest)
  await storeFrame(a.ops, y, a.y, frame, rest)
}

async function loadKeys(a: Attention, frame: Frame): Promise<Keys> {
  const [ofK, behind] = cutAt(a.scratch, memoryOf(a.k, frame))
  const [ofV, room] = cutAt(behind, ofK.length)
  const k = await loadFrame(a.ops, a.k, frame, ofK, room)
  return { k, v: await loadFrame(a.ops, a.v, frame, ofV, room), room }
}

/** 0 where a query sees a key, MASKED elsewhere; queries of padding see what the last does. */
function fillMask(mask: Float32Array, items: readonly Item[], { queries, keys }: CallShape): void {
  mask.fill(MASKED)
  for (const [i, { block }] of items.entries()) {
    const { from, to } = block.group
    for (let query = 0; query < queries; query++) {
      const own = block.first + Math.min(query, block.queries - 1)
      const row = (i * queries + query) * keys
      mask.fill(0, row + from[own]!, row + to[own]!)
    }
  }
}

const queriesOf = ({ sees }: Attention, { probe, block }: Item) => ({
  spans: [{ row: block.group.query0 + block.first, count: block.queries }],
  offset: probe * sees.queries,
  count: block.queries,
})

const keysOf = (
  { sees }: Attention,
  probe: number,
  { spans, seen }: Pick<Block, 'spans' | 'seen'>,
) => ({
  spans,
  offset: probe * sees.keys,
  count: seen,
})

/** Columns of so many heads of keys from `head` on. */
const keyColumns = ({ kvHeads, headSize }: AttentionDims, head = 0, count = kvHeads) => ({
  all: kvHeads * headSize,
  first: head * headSize,
  count: count * headSize,
})

/** One block with so many heads of keys. */
const shapeOf = (dims: AttentionDims, queries: number, keys: number, kvHeads = dims.kvHeads) => ({
  blocks: 1,
  queries,
  keys,
  kvHeads,
  shared: dims.heads / dims.kvHeads,
  headSize: dims.headSize,
})

/** Lengths of about equal parts, none longer than `most`. */
const evenStep = (count: number, most: number) => Math.ceil(count / Math.ceil(count / most))

const cutAt = (room: Float32Array, elements: number) =>
  [room.subarray(0, elements), room.subarray(elements)] as const

function checkScratch({ scratch }: Attention, needed: number): void {
  if (needed <= scratch.length) return
  throw new Error('cpu device: attention is larger than what reserve() was told')
}
