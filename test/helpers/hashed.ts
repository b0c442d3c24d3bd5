// Checkpoints whose weights are a formula of name and index, so that none are stored: scripts/fixtures/decoders.py
// has the same formula and says what the numbers are.

import { readdirSync, readFileSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Config } from '../../models/config.ts'
import { createModel } from '../../models/index.ts'
import { distinctMatrices } from '../../models/model.ts'
import { writeSafetensors } from '../../src/checkpoint/safetensors-writer.ts'
import { temporaryFolder } from './hostile.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
export const DECODERS = join(FIXTURES, 'decoders')

/** The folder of a model of test/fixtures by its path there; decoders/VARIANT is made. */
export const fixtureModel = async (name: string): Promise<string> =>
  name.startsWith('decoders/') ? hashedModel(name.slice('decoders/'.length)) : join(FIXTURES, name)

export const DECODER_VARIANTS = readdirSync(DECODERS).map((file) => file.replace('.json', ''))

/** A variant's config.json. */
export function decoderConfig(variant: string): Config {
  const text = readFileSync(join(DECODERS, `${variant}.json`), 'utf8')
  return (JSON.parse(text) as { config: Config }).config
}

const folder = temporaryFolder()
const written = new Map<string, Promise<string>>()

/** The folder of a variant of test/fixtures/decoders, written once for each test file. */
export function hashedModel(variant: string): Promise<string> {
  const write = async () => {
    const dir = join(folder, variant)
    await writeHashed(dir, decoderConfig(variant))
    return dir
  }
  let dir = written.get(variant)
  if (!dir) written.set(variant, (dir = write()))
  return dir
}

/** The finalizer of MurmurHash3. */
export function mixed(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}

export function hashedValues(name: string, shape: readonly number[], gemma = false): Float32Array {
  let start = 2166136261
  for (const byte of Buffer.from(name)) start = Math.imul(start ^ byte, 16777619)
  const bits = (n: number) => 32 - Math.clz32(n)
  const norm = name.includes('norm')
  const scale = norm
    ? 0.25
    : shape.length === 1 || name.includes('embed')
      ? 0.5
      : 2 ** -(Math.floor(bits(shape[1]!) / 2) - 1)
  const base = norm && !gemma ? 1 : 0
  const count = shape.reduce((product, d) => product * d, 1)
  return Float32Array.from({ length: count }, (_, i) => {
    const unit = ((mixed(start + Math.imul(i, 0x9e3779b9)) >>> 8) - 2 ** 23) / 2 ** 23
    return unit * scale + base
  })
}

/** Writes config.json and model.safetensors of the config's model to `dir`. */
export async function writeHashed(dir: string, config: Config): Promise<void> {
  const model = createModel(config)
  const gemma = model.modelType.startsWith('gemma')
  const tensors = [
    ...distinctMatrices(model).map(({ name, rows, cols }) => ({ name, shape: [rows, cols] })),
    ...model.vectors.map(({ name, size }) => ({ name, shape: [size] })),
  ]
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'config.json'), JSON.stringify(config))
  await writeSafetensors(
    join(dir, 'model.safetensors'),
    { tensors: tensors.map((tensor) => ({ ...tensor, dtype: 'F32' as const })) },
    async (index, sink) => {
      const { name, shape } = tensors[index]!
      await sink.write(new Uint8Array(hashedValues(name, shape, gemma).buffer))
    },
  )
}
