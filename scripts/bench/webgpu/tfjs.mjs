// TensorFlow.js in the WebGPU bench: fused matmuls with bias and relu, attention from its parts.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { provideNavigator } from './navigator.mjs'

/** Open (work.ts). */
export async function open(adapter) {
  provideNavigator(adapter)
  const require = createRequire(import.meta.url)
  const tf = require('@tensorflow/tfjs-core')
  require('@tensorflow/tfjs-backend-webgpu')
  if (!(await tf.setBackend('webgpu'))) throw new Error('tfjs: no webgpu backend')
  await tf.ready()
  // One value is fetched: it arrives after everything before it.
  const done = async (y) => {
    const value = tf.tidy(() => tf.slice(y, [0, 0], [1, 1]))
    await value.data()
    value.dispose()
  }
  return {
    version: versionOf(require.resolve('@tensorflow/tfjs-backend-webgpu/package.json')),
    async prepare(shape, operands) {
      tf.disposeVariables()
      const t = Object.fromEntries(
        Object.entries(operands).map(([name, { rows, cols, data }]) => [
          name,
          name.endsWith('_bias') || name.startsWith('norm')
            ? tf.tensor1d(data)
            : tf.tensor2d(data, [rows, cols]),
        ]),
      )
      const work = shape.kind === 'gemm' ? () => tf.matMul(t.x, t.w) : blockOf(tf, shape, t)
      const compute = () => tf.tidy(work)
      return {
        async run() {
          const y = compute()
          await done(y)
          y.dispose()
        },
        async output() {
          const y = compute()
          const data = await y.data()
          y.dispose()
          return data
        },
      }
    },
    async close() {
      tf.backend().dispose()
    },
  }
}

const versionOf = (path) => JSON.parse(readFileSync(path, 'utf8')).version

function blockOf(tf, { batch: B, tokens: T, hidden: C, heads: H }, t) {
  const D = C / H
  const unseen = Float32Array.from({ length: T * T }, (_, i) => (i % T > i / T ? -1e30 : 0))
  const mask = tf.tensor3d(unseen, [1, T, T])
  const norm = (x, name) => {
    const { mean, variance } = tf.moments(x, 1, true)
    const scaled = tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-5)))
    return tf.add(tf.mul(scaled, t[name]), t[`${name}_bias`])
  }
  const linear = (a, name, activation) =>
    tf.fused.matMul({ a, b: t[name], bias: t[`${name}_bias`], activation })
  const swap = (x, shape) => tf.transpose(tf.reshape(x, shape), [0, 2, 1, 3])
  const split = (x) => tf.reshape(swap(x, [B, T, H, D]), [B * H, T, D])
  return () => {
    const a = norm(t.x, 'norm1')
    const [q, k, v] = ['q', 'k', 'v'].map((name) => split(linear(a, name)))
    const scores = tf.mul(tf.matMul(q, k, false, true), D ** -0.5)
    const seen = tf.matMul(tf.softmax(tf.add(scores, mask)), v)
    const joined = tf.reshape(swap(seen, [B, H, T, D]), [B * T, C])
    const h = tf.add(t.x, linear(joined, 'out'))
    const f = linear(norm(h, 'norm2'), 'fc1', 'relu')
    return tf.add(h, linear(f, 'fc2'))
  }
}
