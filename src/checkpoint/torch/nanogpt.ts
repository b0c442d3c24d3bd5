// nanoGPT's ckpt.pt to a model folder and back. It is a pickled dictionary: `model` (a state dict,
// its names behind "_orig_mod." if the model was compiled), `model_args`, and what train.py and
// sample.py want beside them. Leaves pickles and archives to bin.ts and the writers.
// Source: karpathy/nanoGPT, train.py (the checkpoint's keys), sample.py.

import { basename, join } from 'node:path'
import { UserError } from '../../util/errors.ts'
import { writeAtomically, writeTextAtomically } from '../../io/atomic.ts'
import { openCheckpoint } from '../open.ts'
import { buildFolder, writeWeights } from '../convert.ts'
import { describe } from '../../util/untrusted.ts'
import { openFiles } from '../files.ts'
import { pickle, StoredTensor, Tuple, type PickleValue } from './pickle-writer.ts'
import { readTorchFile, stateTensors } from './bin.ts'
import type { TensorEntry } from '../types.ts'
import { createZipWriter } from './zip-writer.ts'

const WTE = 'transformer.wte.weight'
const HEAD = 'lm_head.weight'
const COMPILED = /^_orig_mod\./
const MODEL_ARGS = ['n_layer', 'n_head', 'n_embd', 'block_size', 'bias', 'vocab_size'] as const
const CHUNK_BYTES = 2 << 20

/** What a ckpt.pt tells beside its weights. */
interface NanogptCheckpoint {
  /** config.json of the folder. */
  readonly config: Readonly<Record<string, unknown>>
  readonly iterNum: number
  /** The plain values of the run's configuration, as `dataset`. */
  readonly runConfig: Readonly<Record<string, string | number | boolean | null>>
}

/**
 * Writes the model in a ckpt.pt as a folder `outDir` (absent or empty): config.json with model_type
 * "nanogpt" and safetensors in the file's dtype. Nothing of the file is executed; the optimizer is left.
 * @throws UserError for files that are no nanoGPT checkpoint
 */
export async function importNanogpt(path: string, outDir: string): Promise<NanogptCheckpoint> {
  const torch = await readTorchFile(path)
  const { value, file } = torch
  const state = value instanceof Map ? (value.get('model') as unknown) : undefined
  const args = value instanceof Map ? (value.get('model_args') as unknown) : undefined
  if (!(value instanceof Map) || !(state instanceof Map) || !(args instanceof Map)) {
    throw new UserError(
      `${file}: expected nanoGPT's checkpoint with model and model_args, found ${describe(value)} ` +
        `without them; give the ckpt.pt of its out_dir`,
    )
  }
  const shape = MODEL_ARGS.map((key) => [key, args.get(key) as unknown] as const)
  const config = { model_type: 'nanogpt', ...Object.fromEntries(shape), dropout: 0 }
  const named = new Map([...state].map(([name, v]) => [String(name).replace(COMPILED, ''), v]))
  // Masks of old PyTorch versions are no weights, whatever their type.
  const tensors = stateTensors(torch, named).tensors.filter(({ shape }) => shape.length <= 2)
  const entries = new Map(tensors.map((entry) => [entry.name, entry]))
  const files = await openFiles([file])
  try {
    await buildFolder(outDir, async (folder) => {
      await writeTextAtomically(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
      const checkpoint = { dir: folder, config, tensors: entries, files: [file] }
      await writeWeights({ ...checkpoint, format: 'torch-bin' }, files, folder, {})
    })
  } finally {
    await files.close()
  }
  const iterNum = value.get('iter_num') as unknown
  const run = value.get('config') as unknown
  const plain = (run instanceof Map ? [...run] : []).filter(([, v]) => Object(v) !== v)
  return {
    config,
    iterNum: typeof iterNum === 'number' ? iterNum : 0,
    runConfig: Object.fromEntries(plain) as NanogptCheckpoint['runConfig'],
  }
}

interface ExportNanogptOptions {
  readonly iterNum: number
  readonly bestValLoss: number
  /** The run's settings by nanoGPT's names; sample.py looks for `dataset`. */
  readonly runConfig: NanogptCheckpoint['runConfig']
}

/**
 * Writes the model folder `dir` (model_type "nanogpt") as a ckpt.pt for nanoGPT, whole or not at all.
 * Its optimizer is AdamW's before the first step, so that train.py can go on from it.
 * @throws UserError for folders of other models
 */
export async function exportNanogpt(
  dir: string,
  path: string,
  { iterNum, bestValLoss, runConfig }: ExportNanogptOptions,
): Promise<void> {
  const { config, tensors, files } = await openCheckpoint(dir)
  if (config['model_type'] !== 'nanogpt') {
    const found = describe(config['model_type'])
    throw new UserError(`${dir}: expected model_type "nanogpt" for a ckpt.pt, found ${found}`)
  }
  const entries = [...tensors.values()].filter(({ name }) => name !== HEAD)
  const state = new Map<string, PickleValue>(
    entries.map(({ name, dtype, shape }, i) => [name, new StoredTensor(String(i), dtype, shape)]),
  )
  const tied = state.get(WTE)
  if (tied !== undefined) state.set(HEAD, tied)
  const args = MODEL_ARGS.map((key) => [key, config[key] as PickleValue] as const)
  const value = {
    model: state,
    optimizer: newOptimizer(entries),
    model_args: { ...Object.fromEntries(args), dropout: 0 },
    iter_num: iterNum,
    best_val_loss: bestValLoss,
    config: runConfig,
  }
  const root = basename(path).replace(/\.[^.]*$/, '')
  const source = await openFiles(files)
  const total = entries.reduce((sum, { bytes }) => sum + bytes, 0)
  try {
    await writeAtomically(path, total, async (append) => {
      const zip = createZipWriter(append)
      await zip.add(`${root}/data.pkl`, (write) => write(pickle(value)))
      await zip.add(`${root}/byteorder`, (write) => write(Buffer.from('little')))
      const chunk = new Uint8Array(CHUNK_BYTES)
      for (const [i, entry] of entries.entries()) {
        await zip.add(`${root}/data/${i}`, async (write) => {
          for (let offset = 0; offset < entry.bytes; offset += chunk.length) {
            const part = chunk.subarray(0, Math.min(chunk.length, entry.bytes - offset))
            await source.read(entry, offset, part)
            await write(part)
          }
        })
      }
      await zip.add(`${root}/version`, (write) => write(Buffer.from('3\n')))
      await zip.finish()
    })
  } finally {
    await source.close()
  }
}

/** AdamW's state before a step, in nanoGPT's two groups: tensors that decay, and vectors. */
function newOptimizer(entries: readonly TensorEntry[]): PickleValue {
  const matrices = entries.filter(({ shape }) => shape.length >= 2).length
  const numbers = entries.map((_, i) => i)
  const group = (params: readonly number[], weight_decay: number) => {
    const betas = new Tuple([0.9, 0.95])
    return { params, lr: 6e-4, betas, eps: 1e-8, weight_decay, amsgrad: false }
  }
  const groups = [group(numbers.slice(0, matrices), 0.1), group(numbers.slice(matrices), 0)]
  return { state: {}, param_groups: groups }
}
