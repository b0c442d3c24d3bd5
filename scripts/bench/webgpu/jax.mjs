// jax-js in the WebGPU bench: everything under jit, with its own dotProductAttention. Its arrays are
// counted: an operation takes its operands, `.ref` keeps them.

import { readFileSync } from 'node:fs'
import { provideNavigator } from './navigator.mjs'

/** Open (work.ts). */
export async function open(adapter) {
  provideNavigator(adapter)
  provideIteratorHelpers()
  const { blockUntilReady, defaultDevice, init, jit, nn, numpy: np } = await import('@jax-js/jax')
  if (!(await init('webgpu')).includes('webgpu')) throw new Error('jax-js: no webgpu backend')
  defaultDevice('webgpu')
  let held = []
  return {
    version: JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
      .dependencies['@jax-js/jax'],
    async prepare(shape, operands) {
      held.forEach((array) => array.dispose())
      const names = Object.keys(operands)
      held = names.map((name) => {
        const { rows, cols, data } = operands[name]
        return np.array(data, { shape: rows === 1 ? [cols] : [rows, cols] })
      })
      const made = shape.kind === 'gemm' ? (t) => np.matmul(t.x, t.w) : blockOf({ np, nn }, shape)
      const compiled = jit((...arrays) =>
        made(Object.fromEntries(names.map((name, i) => [name, arrays[i]]))),
      )
      const compute = () => compiled(...held.map((array) => array.ref))
      return {
        async run() {
          const y = await blockUntilReady(compute())
          y.dispose()
        },
        output: () => compute().data(),
      }
    },
    async close() {
      held.forEach((array) => array.dispose())
    },
  }
}

function blockOf({ np, nn }, { batch: B, tokens: T, hidden: C, heads: H }) {
  const D = C / H
  return (t) => {
    const norm = (x, name) =>
      np.add(
        np.multiply(nn.standardize(x, -1, { epsilon: 1e-5 }), t[name].ref),
        t[`${name}_bias`].ref,
      )
    const linear = (x, name) => np.add(np.matmul(x, t[name].ref), t[`${name}_bias`].ref)
    const split = (x) => x.reshape([B, T, H, D])
    const a = norm(t.x.ref, 'norm1')
    const [q, k, v] = ['q', 'k', 'v'].map((name) => split(linear(a.ref, name)))
    const seen = nn.dotProductAttention(q, k, v, { isCausal: true }).reshape([B * T, C])
    const h = np.add(t.x.ref, linear(seen, 'out'))
    const f = nn.relu(linear(norm(h.ref, 'norm2'), 'fc1'))
    return np.add(h, linear(f, 'fc2'))
  }
}

/** jax-js uses map, filter and toArray of iterators, which Node has from version 22 on. */
function provideIteratorHelpers() {
  const prototype = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()))
  prototype.map ??= function* (change) {
    for (const value of this) yield change(value)
  }
  prototype.filter ??= function* (wanted) {
    for (const value of this) if (wanted(value)) yield value
  }
  prototype.toArray ??= function () {
    return Array.from(this)
  }
}
