// OPT's training loss in plain f64 loops, written from HF's modeling_opt.py and for tests only:
// pre-norm, ReLU, tied or untied head, as every OPT but 350m. Knows nothing of devices, slabs or
// probes: it takes all parameters by name and gives a number.

import type { Batch } from '../../src/data/types.ts'
import type { Checkpoint } from '../../src/checkpoint/types.ts'
import { openFiles } from '../../src/checkpoint/files.ts'
import { convertElements } from '../../src/util/dtypes.ts'

/** Every trained tensor once, by its HF name. */
export type Parameters = Map<string, Float64Array>

/** All tensors of a checkpoint widened to f64; a tied head is the token table. */
export async function readParameters(checkpoint: Checkpoint): Promise<Parameters> {
  const files = await openFiles(checkpoint.files)
  try {
    const parameters: Parameters = new Map()
    const { model_type: type, tie_word_embeddings: tied = type === 'opt' } = checkpoint.config
    for (const entry of checkpoint.tensors.values()) {
      if (entry.name === 'lm_head.weight' && tied) continue
      const raw = new Uint8Array(entry.bytes)
      await files.read(entry, 0, raw)
      const f32 = new Float32Array(convertElements(raw, entry.dtype, 'F32').slice().buffer)
      parameters.set(entry.name, Float64Array.from(f32))
    }
    return parameters
  } finally {
    await files.close()
  }
}

/** Keys and values [n][C] of one layer's prefix. */
export interface LayerPrefix {
  readonly keys: readonly Float64Array[]
  readonly values: readonly Float64Array[]
}

/** Mean of -log p(label) over the labelled tokens of the batch; every sequence is behind the prefix. */
export function meanLoss(
  theta: Parameters,
  config: Readonly<Record<string, unknown>>,
  batch: Batch,
  prefix: readonly LayerPrefix[] = [],
): number {
  let [sum, count] = [0, 0]
  batch.inputIds.forEach((ids, b) => {
    const { hidden } = decode(theta, config, ids, batch.attentionMask[b]!, prefix)
    for (let t = 1; t < ids.length; t++) {
      const label = batch.labels[b]![t]!
      if (label === -100) continue
      const head = theta.get('lm_head.weight') ?? theta.get('model.decoder.embed_tokens.weight')!
      const logits = times(hidden[t - 1]!, head, null)
      const top = Math.max(...logits)
      const lse = top + Math.log(logits.reduce((s, v) => s + Math.exp(v - top), 0))
      sum += lse - logits[label]!
      count++
    }
  })
  return sum / count
}

/** The final hidden state [T][C] of one sequence, and keys and values [T][C] of every layer. */
export function decode(
  theta: Parameters,
  config: Readonly<Record<string, unknown>>,
  ids: readonly number[],
  mask: readonly number[],
  prefix: readonly LayerPrefix[] = [],
): { hidden: Float64Array[]; layers: LayerPrefix[] } {
  const layers: LayerPrefix[] = []
  const before = (prefix[0]?.keys ?? []).map(() => 1)
  const C = Number(config['hidden_size'])
  const heads = Number(config['num_attention_heads'])
  const at = (name: string) => theta.get(`model.decoder.${name}`)!
  const linear = (x: Float64Array, name: string) =>
    times(x, at(`${name}.weight`), at(`${name}.bias`))
  const norm = (x: Float64Array, name: string) =>
    layerNorm(x, at(`${name}.weight`), at(`${name}.bias`))
  let seen = before.length
  let h = ids.map((id, t) => {
    seen += mask[t]!
    const position = seen * mask[t]! - 1 + 2
    const token = at('embed_tokens.weight').subarray(id * C, (id + 1) * C)
    const row = at('embed_positions.weight').subarray(position * C, (position + 1) * C)
    return token.map((v, c) => v + row[c]!)
  })
  for (let i = 0; i < Number(config['num_hidden_layers']); i++) {
    const layer = `layers.${i}`
    const a = h.map((x) => norm(x, `${layer}.self_attn_layer_norm`))
    const [q, k, v] = ['q', 'k', 'v'].map((p) =>
      a.map((x) => linear(x, `${layer}.self_attn.${p}_proj`)),
    ) as [Float64Array[], Float64Array[], Float64Array[]]
    layers.push({ keys: k, values: v })
    const { keys, values } = prefix[i] ?? { keys: [], values: [] }
    const mixed = attend(q, [...keys, ...k], [...values, ...v], [...before, ...mask], heads)
    h = h.map((x, t) => plus(x, linear(mixed[t]!, `${layer}.self_attn.out_proj`)))
    h = h.map((x) => {
      const f = linear(norm(x, `${layer}.final_layer_norm`), `${layer}.fc1`)
      const relu = f.map((u) => Math.max(0, u))
      return plus(x, linear(relu, `${layer}.fc2`))
    })
  }
  return { hidden: h.map((x) => norm(x, 'final_layer_norm')), layers }
}

const plus = (x: Float64Array, y: Float64Array) => x.map((v, i) => v + y[i]!)

/** x W^T + b with W [n, x.length]. */
function times(x: Float64Array, w: Float64Array, bias: Float64Array | null): Float64Array {
  const y = new Float64Array(w.length / x.length)
  for (let n = 0; n < y.length; n++) {
    let sum = bias ? bias[n]! : 0
    for (let k = 0; k < x.length; k++) sum += x[k]! * w[n * x.length + k]!
    y[n] = sum
  }
  return y
}

function layerNorm(x: Float64Array, scale: Float64Array, bias: Float64Array): Float64Array {
  const mean = x.reduce((s, v) => s + v, 0) / x.length
  const variance = x.reduce((s, v) => s + (v - mean) ** 2, 0) / x.length
  return x.map((v, i) => ((v - mean) / Math.sqrt(variance + 1e-5)) * scale[i]! + bias[i]!)
}

/** Causal attention of the last [T][C] of [S][C]; padded keys get no weight, a row that sees none gets the mean. */
function attend(
  q: Float64Array[],
  k: Float64Array[],
  v: Float64Array[],
  mask: readonly number[],
  heads: number,
): Float64Array[] {
  const C = q[0]!.length
  const D = C / heads
  return q.map((query, t) => {
    const y = new Float64Array(C)
    for (let head = 0; head < heads; head++) {
      const score = (j: number) => {
        let dot = 0
        for (let d = head * D; d < (head + 1) * D; d++) dot += query[d]! * k[j]![d]!
        return Math.exp(dot / Math.sqrt(D))
      }
      const own = [...Array(k.length - q.length + t + 1).keys()].filter((j) => mask[j] === 1)
      const keys = own.length > 0 ? own : [...k.keys()]
      const weights = own.length > 0 ? keys.map(score) : keys.map(() => 1)
      const sum = weights.reduce((s, w) => s + w, 0)
      for (let d = head * D; d < (head + 1) * D; d++) {
        keys.forEach((j, i) => (y[d]! += (weights[i]! / sum) * v[j]![d]!))
      }
    }
    return y
  })
}
