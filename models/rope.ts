// Rotary position embeddings: from config.json, in the spellings of transformers 4 and 5, to the angles of a batch's
// rows. Formulas: transformers, modeling_rope_utils.py; calculated in f64 and rounded to f32 once. What
// rotates by them is the device's.

import { UserError } from '../src/util/errors.ts'
import { describe, excerpt } from '../src/util/untrusted.ts'
import { readCount, readFlag, readPositive, type Config } from './config.ts'

export interface Rope {
  /** [d/2] radians per position of the pairs (i, i + d/2) of a head's first d columns. */
  readonly frequencies: readonly number[]
  /** Those of texts of more than `after` tokens (longrope). */
  readonly long?: { readonly after: number; readonly frequencies: readonly number[] }
  /** Cosines and sines are multiplied with it (yarn, longrope). */
  readonly factor: number
}

/** What a model's own code knows. */
export interface RopeDefaults {
  readonly headSize: number
  /** rope_theta where config.json has none. */
  readonly theta: number
}

/**
 * The rope of a config.json. `part` names an entry of rope_parameters that has one for each type of layer.
 * @throws UserError for a type or a value that is not known, and for one whose angles depend on the batch
 */
export function readRope(config: Config, defaults: RopeDefaults, part?: string): Rope {
  const own = parametersOf(config, part)
  const parameters = { ...config, ...own }
  const theta = readPositive(parameters, 'rope_theta', defaults.theta)
  const d = rotatedColumns(parameters, defaults.headSize)
  const base = Array.from({ length: d / 2 }, (_, i) => theta ** ((-2 * i) / d))
  const type = typeOf(config, own)
  const variant = Object.hasOwn(VARIANTS, type) ? VARIANTS[type] : undefined
  if (!variant) {
    const why =
      type === 'dynamic' ? 'its angles depend on the other texts of a batch' : 'it is not known'
    throw new UserError(
      `config.json: rope_type ${excerpt(type)} is not supported: ${why}; supported: ${Object.keys(VARIANTS).join(', ')}`,
    )
  }
  return variant({ parameters, base, theta, d })
}

/** [rows, d]: of each row the cosines of its d/2 angles, then the sines. */
export function ropeTable(
  { frequencies, long, factor }: Rope,
  { positions, lengths }: { readonly positions: Uint32Array; readonly lengths?: Uint32Array },
): Float32Array {
  const half = frequencies.length
  const table = new Float32Array(positions.length * 2 * half)
  positions.forEach((position, row) => {
    const own = long && lengths![row]! > long.after ? long.frequencies : frequencies
    for (let i = 0; i < half; i++) {
      const angle = position * own[i]!
      table[row * 2 * half + i] = Math.cos(angle) * factor
      table[row * 2 * half + half + i] = Math.sin(angle) * factor
    }
  })
  return table
}

/** Tokens up to which texts have other angles than longer ones; undefined where all have the same. */
export const longAfter = (ropes: readonly Rope[] = []): number | undefined =>
  ropes.find(({ long }) => long)?.long!.after

/** The columns of the table. */
export const ropeCols = ({ frequencies }: Rope) => 2 * frequencies.length

/** `rope_scaling` (transformers 4) before `rope_parameters` (5), and of it the part of one type of layer. */
function parametersOf(config: Config, part?: string): Config {
  const record = (key: string, of: Config): Config | undefined => {
    const value = of[key]
    if (value === undefined || value === null) return undefined
    if (typeof value === 'object' && !Array.isArray(value)) return value as Config
    throw new UserError(`config.json: ${key} must be an object, found ${excerpt(value)}`)
  }
  const all = record('rope_scaling', config) ?? record('rope_parameters', config) ?? {}
  const parts = Object.keys(all).filter((key) => key.endsWith('_attention'))
  if (parts.length === 0) return all
  if (part !== undefined && parts.includes(part)) return record(part, all) ?? {}
  throw new UserError(
    `config.json: rope_parameters of ${excerpt(parts)} are not supported for model_type ${describe(config['model_type'])}`,
  )
}

/** "su", and in files of phi3 "yarn", are early names of longrope. */
function typeOf(config: Config, own: Config): string {
  const name = own['rope_type'] ?? own['type'] ?? 'default'
  if (typeof name !== 'string') {
    throw new UserError(`config.json: rope_type must be a name, found ${excerpt(name)}`)
  }
  const early = name === 'su' || (name === 'yarn' && config['model_type'] === 'phi3')
  return early ? 'longrope' : name
}

function rotatedColumns(parameters: Config, headSize: number): number {
  const part = readPositive(parameters, 'partial_rotary_factor', 1)
  const d = Math.floor(headSize * part)
  if (d <= headSize && d >= 2 && d % 2 === 0) return d
  throw new UserError(
    `config.json: partial_rotary_factor ${part} makes ${d} rotated columns of ${headSize}; expected an even number of them`,
  )
}

interface Variant {
  /** Those of the rope before those of the model. */
  readonly parameters: Config
  /** theta^(-2i/d). */
  readonly base: readonly number[]
  readonly theta: number
  readonly d: number
}

const VARIANTS: Readonly<Record<string, (of: Variant) => Rope>> = {
  default: ({ base }) => ({ frequencies: base, factor: 1 }),
  linear: ({ parameters, base }) => {
    const factor = readPositive(parameters, 'factor')
    return { frequencies: base.map((f) => f / factor), factor: 1 }
  },
  llama3,
  yarn,
  longrope,
}

const originalLength = (parameters: Config) =>
  readCount(
    parameters,
    'original_max_position_embeddings',
    readCount(parameters, 'max_position_embeddings'),
  )

/** How far positions were stretched: `factor`, else the ratio of the lengths. */
const stretch = (parameters: Config) =>
  readPositive(
    parameters,
    'factor',
    readCount(parameters, 'max_position_embeddings') / originalLength(parameters),
  )

function llama3({ parameters, base }: Variant): Rope {
  const factor = readPositive(parameters, 'factor')
  const low = readPositive(parameters, 'low_freq_factor')
  const high = readPositive(parameters, 'high_freq_factor')
  const original = originalLength(parameters)
  const frequencies = base.map((f) => {
    const turns = (original * f) / (2 * Math.PI)
    if (turns > high) return f
    if (turns < low) return f / factor
    const smooth = (turns - low) / (high - low)
    return f * ((1 - smooth) / factor + smooth)
  })
  return { frequencies, factor: 1 }
}

/** YaRN (Peng et al., arXiv 2309.00071). */
function yarn({ parameters, base, theta, d }: Variant): Rope {
  const factor = stretch(parameters)
  const original = originalLength(parameters)
  const columnOf = (turns: number) =>
    (d * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const whole = readFlag(parameters, 'truncate', true)
  const [first, last] = [
    columnOf(readPositive(parameters, 'beta_fast', 32)),
    columnOf(readPositive(parameters, 'beta_slow', 1)),
  ]
  const low = Math.max(whole ? Math.floor(first) : first, 0)
  const end = Math.min(whole ? Math.ceil(last) : last, d - 1)
  const high = end === low ? end + 0.001 : end
  const frequencies = base.map((f, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)))
    return f * (1 - ramp) + (f / factor) * ramp
  })
  const grown = (scale: number) => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1)
  const [one, all] = [parameters['mscale'], parameters['mscale_all_dim']].map(Number)
  const usual = one && all ? grown(one) / grown(all) : grown(1)
  return { frequencies, factor: readPositive(parameters, 'attention_factor', usual) }
}

/** LongRoPE (Ding et al., arXiv 2402.13753) as Phi-3 has it. */
function longrope({ parameters, base, d }: Variant): Rope {
  const stretched = (key: string) => {
    const factors = parameters[key]
    const fits =
      Array.isArray(factors) &&
      factors.length === d / 2 &&
      factors.every((f) => typeof f === 'number' && f > 0 && f < Infinity)
    if (!fits) {
      throw new UserError(
        `config.json: ${key} must be ${d / 2} positive numbers, found ${excerpt(factors)}`,
      )
    }
    return base.map((f, i) => f / (factors[i] as number))
  }
  const after = originalLength(parameters)
  const factor = stretch(parameters)
  const usual = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(after))
  return {
    frequencies: stretched('short_factor'),
    long: { after, frequencies: stretched('long_factor') },
    factor: readPositive(parameters, 'attention_factor', usual),
  }
}
