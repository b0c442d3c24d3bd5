// Any checkpoint folder -> a safetensors Hugging Face folder, in bounded memory, optionally in
// another dtype. The folder appears whole or not at all. Leaves formats to safetensors.ts and
// src/checkpoint/torch/bin.ts, element conversion to src/util/dtypes.ts, and folding a run's updates to the exporter,
// which reuses these parts.
// Source: safetensors' convert.py (tied names and the `__metadata__` note that it leaves of
// them).
import { access, mkdir, open, readdir, rename, rm, rmdir } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { UserError } from '../util/errors.ts'
import { CONFIG_FILE, SMALL_FILES } from '../hub/files.ts'
import { syncDirectory, temporaryBeside, writeTextAtomically } from '../io/atomic.ts'
import { ggufTokenizer } from './gguf/tokenizer.ts'
import { openCheckpoint } from './open.ts'
import { convertElements, type DType } from '../util/dtypes.ts'
import { asUserError, readJsonObject } from '../io/read.ts'
import { quote } from '../util/untrusted.ts'
import { openFiles, type WeightFiles } from './files.ts'
import { writeShardedSafetensors, type TensorSink } from './safetensors-writer.ts'
import { parseSynthetic, syntheticConfig } from './synthetic.ts'
import { type Checkpoint, type TensorEntry } from './types.ts'
import { copyOwn } from '../util/copy.ts'
import { maxOf } from '../util/extremes.ts'

/** A multiple of every element size. */
const CHUNK_BYTES = 2 << 20

const TORCH_DTYPES: Readonly<Record<DType, string>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
}

/** Options of a conversion. */
interface ConvertOptions {
  /** Element type of every tensor written; as in the source if left out. */
  readonly dtype?: DType | undefined
  readonly maxShardBytes?: number | undefined
  /** Called after each chunk with source bytes. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined
}

/**
 * Writes `source`, a folder or what was read of one, as a safetensors folder `outDir`, which must be absent or empty. A head tied to
 * the embedding is written once. Throws UserError for bad sources, full disks, values that `dtype`
 * cannot hold.
 */
export async function convertCheckpoint(
  source: string | Checkpoint,
  outDir: string,
  options: ConvertOptions = {},
): Promise<void> {
  const checkpoint = typeof source === 'string' ? await openCheckpoint(source) : source
  await buildFolder(outDir, async (folder) => {
    await copyModelFiles(checkpoint, folder)
    if (options.dtype !== undefined) await setConfigDtype(folder, options.dtype)
    const files = await openFiles(checkpoint.files)
    try {
      await writeWeights(checkpoint, files, folder, options)
    } finally {
      await files.close()
    }
  })
}

/**
 * Fills a new folder beside `outDir` and renames it into place when `fill` is done; on any error
 * it is removed. Throws UserError if `outDir` exists and is not an empty folder.
 */
export async function buildFolder(
  outDir: string,
  fill: (folder: string) => Promise<void>,
): Promise<void> {
  const target = resolve(outDir)
  await checkAbsentOrEmpty(target)
  const parent = dirname(target)
  const temporary = await temporaryBeside(target)
  let place = temporary
  try {
    await mkdir(parent, { recursive: true })
    await mkdir(temporary)
    await fill(temporary)
    await syncDirectory(temporary)
    // An empty folder in the way goes first: not every system renames over one.
    await rmdir(target).catch(ignoreAbsent)
    await rename(temporary, target)
    place = target
    await syncDirectory(parent)
  } catch (error) {
    await rm(place, { recursive: true, force: true })
    const told = asUserError(error, `${target}: cannot be written`)
    // The hidden name means nothing to its reader.
    if (!(told instanceof UserError) || !told.message.includes(temporary)) throw told
    throw new UserError(told.message.replaceAll(temporary, target), {
      exitCode: told.exitCode,
      cause: error,
    })
  }
}

/**
 * Copies config, generation config and tokenizer files, those that are there, and syncs them. A
 * synthetic model has a config only; a GGUF file's are made from its metadata.
 */
export async function copyModelFiles(
  checkpoint: Pick<Checkpoint, 'dir' | 'config' | 'gguf' | 'files'>,
  outDir: string,
): Promise<void> {
  const { dir: srcDir, gguf } = checkpoint
  if (gguf) return writeMadeFiles({ ...checkpoint, gguf }, outDir)
  const synthetic = parseSynthetic(srcDir)
  if (synthetic) {
    const config = JSON.stringify(syntheticConfig(synthetic), null, 2)
    return writeTextAtomically(join(outDir, 'config.json'), `${config}\n`)
  }
  for (const name of SMALL_FILES) {
    const source = join(srcDir, name)
    const isThere = await access(source).then(
      () => true,
      () => false,
    )
    if (!isThere) continue
    const copy = join(outDir, name)
    try {
      await copyOwn(source, copy, { exclusive: true })
      const handle = await open(copy, 'r+')
      await handle.sync().finally(() => handle.close())
    } catch (error) {
      throw asUserError(error, `${source}: cannot be copied to ${copy}`)
    }
  }
}

async function writeMadeFiles(
  {
    config,
    gguf,
    files,
  }: Pick<Checkpoint, 'config' | 'files'> & Required<Pick<Checkpoint, 'gguf'>>,
  outDir: string,
): Promise<void> {
  const write = (name: string, value: object) =>
    writeTextAtomically(join(outDir, name), `${JSON.stringify(value, null, 2)}\n`)
  await write(CONFIG_FILE, config)
  // A model of ids alone is one too.
  if (!gguf.has('tokenizer.ggml.tokens')) return
  const { tokenizer, settings, ends } = ggufTokenizer(files[0]!, gguf)
  await write('tokenizer.json', tokenizer)
  await write('tokenizer_config.json', settings)
  if (ends.length > 1) await write('generation_config.json', { eos_token_id: ends })
}

/** The tensors to write, each range once where that loses nothing, and the names left out. */
export function withoutTiedHead(checkpoint: Checkpoint): {
  entries: TensorEntry[]
  metadata: Record<string, string>
} {
  const entries = [...checkpoint.tensors.values()]
  const head = checkpoint.tensors.get('lm_head.weight')
  // An untied config makes transformers look for both names, even if the file shared their bytes.
  const embedding =
    head === undefined || checkpoint.config['tie_word_embeddings'] === false
      ? undefined
      : entries.find((entry) => entry !== head && isSameRange(entry, head))
  if (embedding === undefined) return { entries, metadata: { format: 'pt' } }
  return {
    entries: entries.filter((entry) => entry !== head),
    metadata: { format: 'pt', 'lm_head.weight': embedding.name },
  }
}

function isSameRange(a: TensorEntry, b: TensorEntry): boolean {
  return (
    a.file === b.file &&
    a.offsetBytes === b.offsetBytes &&
    a.dtype === b.dtype &&
    a.shape.join() === b.shape.join()
  )
}

/** Writes the tensors of a checkpoint whose `files` are open into `folder`. */
export async function writeWeights(
  checkpoint: Checkpoint,
  files: WeightFiles,
  folder: string,
  { dtype, maxShardBytes, onProgress }: ConvertOptions,
): Promise<void> {
  const { entries, metadata } = withoutTiedHead(checkpoint)
  const specs = entries.map((entry) => {
    return { name: entry.name, dtype: dtype ?? entry.dtype, shape: entry.shape }
  })
  const totalBytes = entries.reduce((sum, entry) => sum + entry.bytes, 0)
  const chunk = new Uint8Array(
    Math.min(
      CHUNK_BYTES,
      maxOf(
        entries.map(({ bytes }) => bytes),
        0,
      ),
    ),
  )
  let doneBytes = 0
  const fill = async (index: number, sink: TensorSink): Promise<void> => {
    const entry = entries[index]!
    for (let offset = 0; offset < entry.bytes; offset += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, entry.bytes - offset))
      await files.read(entry, offset, part)
      await sink.write(convertChecked(part, entry, specs[index]!.dtype))
      doneBytes += part.length
      onProgress?.(doneBytes, totalBytes)
    }
  }
  await writeShardedSafetensors(folder, specs, fill, { maxShardBytes, metadata })
}

/**
 * convertElements for a chunk of `entry` (its dtype, whole elements), but UserError for a finite
 * value that `to` can hold only as infinity: that would silently spoil the model.
 */
export function convertChecked(part: Uint8Array, entry: TensorEntry, to: DType): Uint8Array {
  const result = convertElements(part, entry.dtype, to)
  if (to === entry.dtype || to === 'F32') return result
  const narrow = new Uint16Array(result.buffer)
  const infinity = to === 'F16' ? 0x7c00 : 0x7f80
  const view = new DataView(part.buffer, part.byteOffset, part.byteLength)
  for (let i = 0; i < narrow.length; i++) {
    if ((narrow[i]! & 0x7fff) === infinity && !isInfinite(view, i, entry.dtype)) {
      throw new UserError(
        `${entry.file}: expected values that ${to} can hold, found a larger one in ` +
          `${quote(entry.name)}; convert to F32${to === 'F16' ? ' or BF16' : ''}`,
      )
    }
  }
  return result
}

function isInfinite(view: DataView, index: number, dtype: DType): boolean {
  if (dtype === 'F32') return (view.getUint32(index * 4, true) & 0x7fffffff) === 0x7f800000
  return (view.getUint16(index * 2, true) & 0x7fff) === (dtype === 'F16' ? 0x7c00 : 0x7f80)
}

/** Names the element type in the config.json of `folder`. */
export async function setConfigDtype(folder: string, dtype: DType): Promise<void> {
  const path = join(folder, 'config.json')
  const config = await readJsonObject(path)
  // transformers 5 writes `dtype`, older ones `torch_dtype`, and each prefers its own.
  const keys = ['dtype', 'torch_dtype'].filter((key) => Object.hasOwn(config, key))
  for (const key of keys.length > 0 ? keys : ['torch_dtype']) config[key] = TORCH_DTYPES[dtype]
  await writeTextAtomically(path, `${JSON.stringify(config, null, 2)}\n`)
}

async function checkAbsentOrEmpty(target: string): Promise<void> {
  let found: string[]
  try {
    found = await readdir(target)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw asUserError(error, `${target}: expected a new or empty folder to write to`)
  }
  if (found.length > 0) {
    throw new UserError(
      `${target}: expected a new or empty folder to write to, found ${found.length} entries in ` +
        `it; choose another`,
    )
  }
}

function ignoreAbsent(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
  throw error
}
