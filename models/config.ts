// Reading config.json: the checks that every model makes of its keys. Which keys, what they mean and
// their defaults is each model's own.

import type { Activation } from '../src/device/device.ts'
import type { AttentionDims } from '../src/device/packed.ts'
import { UserError } from '../src/util/errors.ts'
import { describe, excerpt } from '../src/util/untrusted.ts'

export type Config = Readonly<Record<string, unknown>>

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  relu: 'relu',
  gelu: 'gelu',
  gelu_new: 'gelu_new',
  gelu_pytorch_tanh: 'gelu_new',
  silu: 'silu',
  swish: 'silu',
}

/** A size: a positive integer; null or absent is `fallback`. */
export function readCount(config: Config, key: string, fallback?: number): number {
  const value = config[key] ?? fallback
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1 || value > 2 ** 31) {
    throw new UserError(
      `config.json: ${key} must be a positive integer, found ${excerpt(value)}; is this checkpoint of model_type ${describe(config['model_type'])}?`,
    )
  }
  return value
}

/** Lists are as long as a model is deep: far above any there is, a claim is a mistake or an attack. */
const MOST_LAYERS = 4096

/** The number of transformer blocks. */
export function readLayers(config: Config, key: string): number {
  const layers = readCount(config, key)
  if (layers <= MOST_LAYERS) return layers
  throw new UserError(`config.json: ${key} must be at most ${MOST_LAYERS}, found ${layers}`)
}

/** A small positive number; null or absent is `fallback`. */
export function readPositive(config: Config, key: string, fallback?: number): number {
  const value = config[key] ?? fallback
  if (typeof value !== 'number' || !(value > 0 && value < Infinity)) {
    throw new UserError(`config.json: ${key} must be a positive number, found ${excerpt(value)}`)
  }
  return value
}

export function readFlag(config: Config, key: string, fallback: boolean): boolean {
  const value = config[key] ?? fallback
  if (typeof value === 'boolean') return value
  throw new UserError(`config.json: ${key} must be true or false, found ${excerpt(value)}`)
}

export function readActivation(config: Config, fallback: Activation, key = 'activation_function') {
  const name = config[key] ?? fallback
  const known = typeof name === 'string' && Object.hasOwn(ACTIVATIONS, name)
  const activation = known ? ACTIVATIONS[name] : undefined
  if (!activation) {
    throw new UserError(
      `config.json: ${key} ${excerpt(name)} is not supported; known: ${Object.keys(ACTIVATIONS).join(', ')}`,
    )
  }
  return activation
}

/** Throws unless heads of one whole size make up the hidden size. */
export function checkHeads(hiddenKey: string, hidden: number, headsKey: string, heads: number) {
  if (hidden % heads !== 0) {
    throw new UserError(
      `config.json: ${hiddenKey} ${hidden} is not a multiple of ${headsKey} ${heads}`,
    )
  }
}

/** As many heads of keys and values as of queries, which share the hidden columns. */
export function ownHeads(hidden: number, heads: number): AttentionDims {
  const headSize = hidden / heads
  return { heads, kvHeads: heads, headSize, scale: headSize ** -0.5 }
}
