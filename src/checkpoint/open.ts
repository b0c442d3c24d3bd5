// A Hugging Face model folder: its config and where every tensor lies, from safetensors or PyTorch
// files, single or sharded. Only headers are read; all of them are checked before anything is used.
// Leaves file formats to safetensors.ts and src/checkpoint/torch/bin.ts, fetching to src/hub/resolve.ts, meaning to models/.
// Source: transformers' file names, looked for in its order; safetensors' convert.py for aliases.
import { stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { UserError } from '../util/errors.ts'
import { readJsonObject } from '../io/read.ts'
import { describe, isObject, quote } from '../util/untrusted.ts'
import { readSafetensorsHeader } from './safetensors.ts'
import { readTorchBin } from './torch/bin.ts'
import type { Checkpoint, TensorEntry } from './types.ts'

const MAX_CONFIG_BYTES = 16 << 20
const MAX_INDEX_BYTES = 64 << 20

/** Weight files by precedence. */
const CANDIDATES = [
  { file: 'model.safetensors', format: 'safetensors', isIndex: false },
  { file: 'model.safetensors.index.json', format: 'safetensors', isIndex: true },
  { file: 'pytorch_model.bin', format: 'torch-bin', isIndex: false },
  { file: 'pytorch_model.bin.index.json', format: 'torch-bin', isIndex: true },
] as const

/** Names of the one matrix that input embedding and head may share; an index may list both. */
const TIED = /(^|\.)(lm_head|embed_tokens|wte)\.weight$/

interface Weights {
  readonly tensors: Map<string, TensorEntry>
  /** Removed name -> kept name, as safetensors conversion notes it in `__metadata__`. */
  readonly aliases: [removed: string, kept: string][]
}

/**
 * Reads a model folder's config and weight headers. Throws UserError when the folder, its config or
 * its weights are missing or malformed.
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const folder = resolve(dir)
  if (!(await isThere(folder, 'directory'))) {
    throw new UserError(`${folder}: expected a model folder, found none; check the path`)
  }
  const configPath = join(folder, 'config.json')
  if (!(await isThere(configPath, 'file'))) {
    throw new UserError(
      `${folder}: expected a model folder with config.json, found no such file; check the path`,
    )
  }
  const config = await readJsonObject(configPath, MAX_CONFIG_BYTES)
  const { file, format, isIndex } = await pickWeights(folder)
  const weightMap = isIndex ? await readIndex(join(folder, file)) : undefined
  const names = weightMap === undefined ? [file] : [...new Set(weightMap.values())].sort()
  const weights: Weights = { tensors: new Map(), aliases: [] }
  for (const name of names) {
    const path = join(folder, name)
    if (!(await isThere(path, 'file'))) {
      throw new UserError(
        `${path}: expected this shard because ${file} names it, found no such file; download it`,
      )
    }
    await addFile(weights, path, format, weightMap)
  }
  addAliases(weights)
  if (weightMap !== undefined) checkComplete(folder, file, weightMap, weights.tensors)
  const files = names.map((name) => join(folder, name))
  return { dir: folder, config, format, tensors: weights.tensors, files }
}

async function isThere(path: string, kind: 'file' | 'directory'): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && (kind === 'file' ? found.isFile() : found.isDirectory())
}

async function pickWeights(folder: string): Promise<(typeof CANDIDATES)[number]> {
  for (const candidate of CANDIDATES) {
    if (await isThere(join(folder, candidate.file), 'file')) return candidate
  }
  const looked = CANDIDATES.map(({ file }) => file).join(', ')
  throw new UserError(
    `${folder}: expected weights in one of ${looked}, found none; download the model again`,
  )
}

/** Tensor name -> file name of a shard, which must lie in the folder itself. */
async function readIndex(path: string): Promise<Map<string, string>> {
  const { weight_map: map } = await readJsonObject(path, MAX_INDEX_BYTES)
  if (!isObject(map) || Object.keys(map).length === 0) {
    throw new UserError(
      `${path}: expected weight_map to name the shards, found ${describe(map)}; download it again`,
    )
  }
  const result = new Map<string, string>()
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== 'string' || !isPlainName(shard)) {
      throw new UserError(
        `${path}: expected a file name of this folder for ${quote(name)}, found ` +
          `${describe(shard)}; download it again`,
      )
    }
    result.set(name, shard)
  }
  return result
}

function isPlainName(name: string): boolean {
  return basename(name) === name && !/^\.{0,2}$|[/\\:\0]/.test(name)
}

async function addFile(
  weights: Weights,
  path: string,
  format: Checkpoint['format'],
  weightMap: ReadonlyMap<string, string> | undefined,
): Promise<void> {
  const { tensors, metadata } =
    format === 'safetensors'
      ? await readSafetensorsHeader(path)
      : { tensors: await readTorchBin(path), metadata: {} }
  for (const tensor of tensors) {
    // Where two shards hold one name, the index decides.
    const owner = weightMap?.get(tensor.name)
    if (owner !== undefined && owner !== basename(path)) continue
    const other = weights.tensors.get(tensor.name)
    if (other !== undefined) {
      throw new UserError(
        `${path}: expected ${quote(tensor.name)} in one shard only, found it in ` +
          `${other.file} too; download the index again`,
      )
    }
    weights.tensors.set(tensor.name, tensor)
  }
  for (const alias of Object.entries(metadata)) weights.aliases.push(alias)
}

function addAliases({ tensors, aliases }: Weights): void {
  // Looked up before any is added: an alias of an alias is no tensor of the files.
  const found = aliases.map(([removed, kept]) => [removed, tensors.get(kept)] as const)
  for (const [name, kept] of found) {
    if (kept !== undefined && !tensors.has(name)) tensors.set(name, { ...kept, name })
  }
}

/** Conversion drops one name of a tied pair from the shards but not from the index. */
function checkComplete(
  folder: string,
  index: string,
  weightMap: ReadonlyMap<string, string>,
  tensors: ReadonlyMap<string, TensorEntry>,
): void {
  const hasTied = [...tensors.keys()].some((name) => TIED.test(name))
  for (const [name, shard] of weightMap) {
    if (tensors.has(name) || (hasTied && TIED.test(name))) continue
    throw new UserError(
      `${join(folder, shard)}: expected tensor ${quote(name)} because ${index} lists it there, ` +
        `found none; download both files again`,
    )
  }
}
