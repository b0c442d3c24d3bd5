// The training loss of a Llama or Qwen3 in plain f64 loops, written from HF's modeling_llama.py and
// modeling_qwen3.py and for tests only: default rotary positions, grouped heads, norms of heads if there are any.
// As opt.ts beside it, it takes all parameters by name and gives a number.

import type { Batch } from '../../src/data/types.ts'
import type { Parameters } from './opt.ts'

type Row = Float64Array

/** Mean of -log p(label) over the labelled tokens of the batch. */
export function meanLoss(
  theta: Parameters,
  config: Readonly<Record<string, unknown>>,
  batch: Batch,
): number {
  let [sum, count] = [0, 0]
  batch.inputIds.forEach((ids, b) => {
    const real = ids.filter((_, t) => batch.attentionMask[b]![t] === 1)
    const labels = batch.labels[b]!.filter((_, t) => batch.attentionMask[b]![t] === 1)
    const hidden = decode(theta, config, real)
    const head = theta.get('lm_head.weight') ?? theta.get('model.embed_tokens.weight')!
    for (let t = 1; t < real.length; t++) {
      if (labels[t] === -100) continue
      const logits = times(hidden[t - 1]!, head)
      const top = Math.max(...logits)
      sum += top + Math.log(logits.reduce((s, v) => s + Math.exp(v - top), 0)) - logits[labels[t]!]!
      count++
    }
  })
  return sum / count
}

function decode(
  theta: Parameters,
  config: Readonly<Record<string, unknown>>,
  ids: readonly number[],
): Row[] {
  const number = (key: string) => Number(config[key])
  const [C, eps] = [number('hidden_size'), Number(config['rms_norm_eps'] ?? 1e-6)]
  const [heads, kvHeads] = [number('num_attention_heads'), number('num_key_value_heads')]
  const D = Number(config['head_dim'] ?? C / heads)
  const rotate = (x: Row, t: number) => rotated(x, t, D, Number(config['rope_theta']))
  let h = ids.map((id) => theta.get('model.embed_tokens.weight')!.slice(id * C, (id + 1) * C))
  for (let i = 0; i < number('num_hidden_layers'); i++) {
    const at = (name: string) => theta.get(`model.layers.${i}.${name}.weight`)
    const linear = (x: Row, name: string) => times(x, at(name)!)
    const headNorm = (x: Row, name: string) => {
      const scale = at(`self_attn.${name}`)
      return scale ? byHead(x, D, (part) => rmsNorm(part, scale, eps)) : x
    }
    const a = h.map((x) => rmsNorm(x, at('input_layernorm')!, eps))
    const q = a.map((x, t) => rotate(headNorm(linear(x, 'self_attn.q_proj'), 'q_norm'), t))
    const k = a.map((x, t) => rotate(headNorm(linear(x, 'self_attn.k_proj'), 'k_norm'), t))
    const v = a.map((x) => linear(x, 'self_attn.v_proj'))
    const mixed = q.map((query, t) => attend(query, k.slice(0, t + 1), v, heads / kvHeads, D))
    h = h.map((x, t) => plus(x, linear(mixed[t]!, 'self_attn.o_proj')))
    h = h.map((x) => {
      const m = rmsNorm(x, at('post_attention_layernorm')!, eps)
      const [gate, up] = [linear(m, 'mlp.gate_proj'), linear(m, 'mlp.up_proj')]
      const gated = gate.map((g, c) => (g / (1 + Math.exp(-g))) * up[c]!)
      return plus(x, linear(gated, 'mlp.down_proj'))
    })
  }
  return h.map((x) => rmsNorm(x, theta.get('model.norm.weight')!, eps))
}

const plus = (x: Row, y: Row) => x.map((v, i) => v + y[i]!)

/** x W^T with W [n, x.length]. */
function times(x: Row, w: Row): Row {
  return new Float64Array(w.length / x.length).map((_, n) =>
    x.reduce((sum, v, k) => sum + v * w[n * x.length + k]!, 0),
  )
}

function rmsNorm(x: Row, scale: Row, eps: number): Row {
  const size = Math.sqrt(x.reduce((s, v) => s + v * v, 0) / x.length + eps)
  return x.map((v, i) => (v / size) * scale[i]!)
}

function byHead(x: Row, D: number, f: (part: Row) => Row): Row {
  const y = new Float64Array(x.length)
  for (let at = 0; at < x.length; at += D) y.set(f(x.subarray(at, at + D)), at)
  return y
}

/** The pairs (i, i + D/2) as complex numbers times exp(i * t * theta^(-2i/D)). */
const rotated = (x: Row, t: number, D: number, theta: number): Row =>
  byHead(x, D, (part) => {
    const half = D / 2
    return part.map((value, d) => {
      const angle = t * theta ** ((-2 * (d % half)) / D)
      const other = d < half ? -part[d + half]! : part[d - half]!
      return value * Math.cos(angle) + other * Math.sin(angle)
    })
  })

/** One query over keys and values [S][kvHeads*D]; `shared` query heads have one head of these. */
function attend(q: Row, k: readonly Row[], v: readonly Row[], shared: number, D: number): Row {
  const y = new Float64Array(q.length)
  for (let head = 0; head < q.length / D; head++) {
    const from = Math.floor(head / shared) * D
    const weights = k.map((key) => {
      let dot = 0
      for (let d = 0; d < D; d++) dot += q[head * D + d]! * key[from + d]!
      return Math.exp(dot / Math.sqrt(D))
    })
    const sum = weights.reduce((s, w) => s + w, 0)
    k.forEach((_, j) => {
      for (let d = 0; d < D; d++) y[head * D + d]! += (weights[j]! / sum) * v[j]![from + d]!
    })
  }
  return y
}
