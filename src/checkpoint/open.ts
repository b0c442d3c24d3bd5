// A model folder: its config and where every tensor lies, from safetensors or PyTorch files, single or sharded, or from
// GGUF alone. Only headers are read; all of them are checked before anything is used.
// Leaves file formats to safetensors.ts, src/checkpoint/torch/bin.ts and src/checkpoint/gguf/open.ts, fetching to src/hub/resolve.ts, meaning to models/.
// Source: transformers' file names, looked for in its order; safetensors' convert.py for aliases.
import { stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import {
  ADAPTER_FILE,
  CONFIG_FILE,
  INDEX_MAX_BYTES,
  WEIGHTS_LAYOUTS,
  type WeightsLayout,
} from '../hub/files.ts'
import { UserError } from '../util/errors.ts'
import { readJsonObject } from '../io/read.ts'
import { describe, isObject, quote } from '../util/untrusted.ts'
import { ggufIn, isGgufName, openGguf } from './gguf/open.ts'
import { readSafetensorsHeader } from './safetensors.ts'
import { readTorchBin } from './torch/bin.ts'
import type { Checkpoint, TensorEntry } from './types.ts'

/** Names of the one matrix that input embedding and head may share; an index may list both. */
const TIED = /(^|\.)(lm_head|embed_tokens|wte)\.weight$/

interface Weights {
  readonly tensors: Map<string, TensorEntry>
  readonly others: Map<string, string>
  /** Removed name -> kept name, as safetensors conversion notes it in `__metadata__`. */
  readonly aliases: [removed: string, kept: string][]
}

/**
 * Reads a model folder's config and weight headers. `weights` names one of its weight files (or an
 * index of some) where it is not the folder's own choice. Throws UserError when the folder, its config
 * or its weights are missing or malformed.
 */
export async function openCheckpoint(dir: string, weights?: string): Promise<Checkpoint> {
  const folder = resolve(dir)
  if (!(await isThere(folder, 'directory'))) {
    throw new UserError(`${folder}: expected a model folder, found none; check the path`)
  }
  if (weights !== undefined && isGgufName(weights)) return openGguf(join(folder, weights))
  const configPath = join(folder, CONFIG_FILE)
  if (!(await isThere(configPath, 'file'))) {
    const gguf = weights === undefined ? await ggufIn(folder) : undefined
    if (gguf !== undefined) return openGguf(gguf)
    await refuseAdapter(folder)
    throw new UserError(
      `${folder}: expected a model folder with config.json, found no such file; check the path`,
    )
  }
  const config = await readJsonObject(configPath)
  const { file, isIndex } = weights === undefined ? await pickWeights(folder) : named(weights)
  const format = file.includes('.safetensors') ? 'safetensors' : 'torch-bin'
  const weightMap = isIndex ? await readIndex(join(folder, file)) : undefined
  const names = weightMap === undefined ? [file] : [...new Set(weightMap.values())].sort()
  const found: Weights = { tensors: new Map(), others: new Map(), aliases: [] }
  for (const name of names) {
    const path = join(folder, name)
    if (!(await isThere(path, 'file'))) {
      throw new UserError(
        `${path}: expected this shard because ${file} names it, found no such file; download it`,
      )
    }
    await addFile(found, path, format, weightMap)
  }
  addAliases(found)
  if (weightMap !== undefined) checkComplete(folder, file, weightMap, found)
  const files = names.map((name) => join(folder, name))
  const { tensors, others } = found
  return { dir: folder, config, format, tensors, others, files }
}

async function isThere(path: string, kind: 'file' | 'directory'): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && (kind === 'file' ? found.isFile() : found.isDirectory())
}

async function pickWeights(folder: string): Promise<WeightsLayout> {
  for (const layout of WEIGHTS_LAYOUTS) {
    if (await isThere(join(folder, layout.file), 'file')) return layout
  }
  await refuseAdapter(folder)
  const looked = WEIGHTS_LAYOUTS.map(({ file }) => file).join(', ')
  throw new UserError(
    `${folder}: expected weights in one of ${looked}, found none; download the model again`,
  )
}

/** A weight file by its name: what is named is what is read. */
function named(file: string): WeightsLayout {
  if (/^adapter_model\./.test(file)) throw new UserError(`${file}: ${adapterAdvice()}`)
  if (/-\d{5}-of-\d{5}\.(safetensors|bin)$/.test(file)) {
    throw new UserError(
      `${file} is one of several shards and not a whole model: name the folder, or its .index.json`,
    )
  }
  return { file, isIndex: file.endsWith('.index.json') }
}

const adapterAdvice = (base?: string) =>
  `this is a PEFT adapter and no whole model; give its base model${base === undefined ? '' : ` (${quote(base)})`}, ` +
  `or merge the two in PEFT with merge_and_unload()`

/** @throws UserError if the folder holds an adapter, naming its base */
async function refuseAdapter(folder: string): Promise<void> {
  const path = join(folder, ADAPTER_FILE)
  if (!(await isThere(path, 'file'))) return
  const { base_model_name_or_path: base } = await readJsonObject(path)
  const name = typeof base === 'string' ? base : undefined
  throw new UserError(`${folder}: ${adapterAdvice(name)}`)
}

/** Tensor name -> file name of a shard, which must lie in the folder itself. */
async function readIndex(path: string): Promise<Map<string, string>> {
  const { weight_map: map } = await readJsonObject(path, INDEX_MAX_BYTES)
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
  return basename(name) === name && name.length <= 255 && !/^\.{0,2}$|[/\\:\0]/.test(name)
}

async function addFile(
  weights: Weights,
  path: string,
  format: Checkpoint['format'],
  weightMap: ReadonlyMap<string, string> | undefined,
): Promise<void> {
  const { tensors, others, metadata } =
    format === 'safetensors'
      ? await readSafetensorsHeader(path)
      : { ...(await readTorchBin(path)), metadata: {} }
  for (const { name, dtype } of others) weights.others.set(name, dtype)
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
  { tensors, others }: Weights,
): void {
  const hasTied = [...tensors.keys()].some((name) => TIED.test(name))
  for (const [name, shard] of weightMap) {
    if (tensors.has(name) || others.has(name) || (hasTied && TIED.test(name))) continue
    throw new UserError(
      `${join(folder, shard)}: expected tensor ${quote(name)} because ${index} lists it there, ` +
        `found none; download both files again`,
    )
  }
}
