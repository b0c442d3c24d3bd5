// Reading config.json: the checks that every model makes of its keys. Which keys, what they mean and
// their defaults is each model's own.

import type { Activation } from '../src/device/device.ts'
import { UserError } from '../src/util/errors.ts'

export type Config = Readonly<Record<string, unknown>>

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  relu: 'relu',
  gelu: 'gelu',
  gelu_new: 'gelu_new',
  gelu_pytorch_tanh: 'gelu_new',
}

/** A size: a positive integer; null or absent is `fallback`. */
export function readCount(config: Config, key: string, fallback?: number): number {
  const value = config[key] ?? fallback
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1 || value > 2 ** 31) {
    throw new UserError(
      `config.json: ${key} must be a positive integer, found ${JSON.stringify(value)}; is this checkpoint of model_type "${String(config['model_type'])}"?`,
    )
  }
  return value
}

/** A small positive number; null or absent is `fallback`. */
export function readPositive(config: Config, key: string, fallback: number): number {
  const value = config[key] ?? fallback
  if (typeof value !== 'number' || !(value > 0 && value < Infinity)) {
    throw new UserError(
      `config.json: ${key} must be a positive number, found ${JSON.stringify(value)}`,
    )
  }
  return value
}

export function readFlag(config: Config, key: string, fallback: boolean): boolean {
  return (config[key] ?? fallback) === true
}

export function readActivation(config: Config, fallback: Activation): Activation {
  const name = String(config['activation_function'] ?? fallback)
  const activation = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined
  if (!activation) {
    throw new UserError(
      `config.json: activation_function "${name}" is not supported; known: ${Object.keys(ACTIVATIONS).join(', ')}`,
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
