// `zo2 pretrain`: a run (run.ts) on a prepared text, as nanoGPT's train.py, from scratch or from a
// model. Batches and evaluations are windows of train.bin and val.bin, drawn by pure functions of
// seed and step; the model from scratch lies in init/ of the output folder, the best one so far in
// ckpt-<step>/.
// Source: karpathy/nanoGPT, train.py.

import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { createModel } from '../../models/index.ts'
import { nanogptConfig, PADDED_VOCAB } from '../../models/presets.ts'
import type { Notify } from './callbacks.ts'
import type { Config } from '../config/options.ts'
import {
  checkSameTokens,
  datasetDir,
  drawTexts,
  META_FILE,
  openTokenFile,
  readMeta,
  type Draw,
  type Meta,
  type TokenFile,
} from '../data/prepared.ts'
import { evenTexts, packTexts } from '../data/packing.ts'
import type { Engine } from '../engine/engine.ts'
import { shapeOf } from '../engine/split.ts'
import { UserError } from '../util/errors.ts'
import { evaluateTexts, type Evaluation } from './evaluate.ts'
import { exportModel } from '../export/folder.ts'
import { sampleHash } from '../run/fingerprint.ts'
import { MEAN_LOSS } from './objective.ts'
import type { Reporter } from '../util/console.ts'
import { discard, keptCheckpoints } from '../run/folder.ts'
import { readRunRecord } from '../config/record.ts'
import { loadModel, type LoadedModel } from '../engine/load.ts'
import { VERSION } from '../util/version.ts'
import { asUserError } from '../io/read.ts'
import { writeInitialModel } from '../checkpoint/init.ts'
import { importNanogpt } from '../checkpoint/torch/nanogpt.ts'
import type { Checkpoint } from '../checkpoint/types.ts'
import { claimRun, pinned, required, runTraining, type RunSetup, type RunSummary } from './run.ts'
import { type DataSource, stepsPerEpoch } from './source.ts'
import { copyOwn } from '../util/copy.ts'

/** Of train.bin, beside that of val.bin. */
type PretrainEvaluation = Evaluation & { readonly train_loss: number }

/** Evaluations of all runs see the same windows, so that their figures can be compared. */
const EVAL_SEED = 0

/** An opened data set. */
interface Dataset {
  readonly dir: string
  readonly meta: Meta
  readonly train: TokenFile
  readonly val: TokenFile
  close(): Promise<void>
}

/** Runs or resumes a pre-training run. UserError for everything a user can mend. */
export async function pretrain(
  given: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<RunSummary> {
  const dir = resolve(required(given.outputDir, '--output-dir (or --out_dir)'))
  const config = await settledStart(dir, given)
  const data = await openDataset(datasetDir(required(config.dataset, '--dataset')))
  try {
    report.line(`zo2 ${VERSION}  pretrain ${data.meta.dataset}  ${config.method}`)
    report.line(
      `data ${data.dir}: ${data.train.tokens} tokens to train on, ${data.val.tokens} held out`,
    )
    const run = await claimRun(dir, config)
    try {
      const base = await baseOf(dir, config, data, run.before !== null, report, stop)
      const loaded = await loadModel(base, pinned(config, run.before), report)
      checkModel(loaded, config, data)
      await checkSameTokens(loaded, data.meta)
      const setup: RunSetup = {
        command: 'pretrain',
        loaded,
        source: await tokenSource(config, data, loaded.model.vocabSize),
        objective: MEAN_LOSS,
        listen: (engine) =>
          keepCheckpoints({ dir, engine, config, layout: loaded.checkpoint, report, stop }),
      }
      return await runTraining(run, setup, config, report, stop)
    } finally {
      await run.release()
    }
  } finally {
    await data.close()
  }
}

async function openDataset(dir: string): Promise<Dataset> {
  const meta = await readMeta(dir)
  if (!meta) throw new UserError(`${dir}: no ${META_FILE} there; prepare the data with zo2 prepare`)
  const train = await openTokenFile(join(dir, 'train.bin'))
  try {
    const val = await openTokenFile(join(dir, 'val.bin'))
    const close = async () => {
      await train.close()
      await val.close()
    }
    return { dir, meta, train, val, close }
  } catch (error) {
    await train.close()
    throw error
  }
}

/** nanoGPT's gpt2, gpt2-medium, ... as the hub has them; every other name is as it is. */
export function hubName(source: string): string {
  return /^gpt2(-\w+)?$/.test(source) && !existsSync(source) ? `openai-community/${source}` : source
}

/** --init_from resume means what the run began with, and --resume. */
async function settledStart(dir: string, config: Config): Promise<Config> {
  if (config.initFrom !== 'resume' && !config.resume) return config
  const before = existsSync(dir) ? (await readRunRecord(dir))?.config.initFrom : undefined
  const initFrom = config.initFrom === 'resume' ? (before ?? 'scratch') : config.initFrom
  return { ...config, resume: true, initFrom }
}

/** The model to start from, made in init/ where it is not there yet. */
async function baseOf(
  dir: string,
  config: Config,
  { meta, dir: data }: Dataset,
  goesOn: boolean,
  report: Reporter,
  stop: AbortSignal,
): Promise<string> {
  const { initFrom, seed, maxLength: block_size } = config
  const isFile = initFrom.endsWith('.pt')
  if (initFrom !== 'scratch' && !isFile) return hubName(initFrom)
  const init = join(dir, 'init')
  if (!goesOn || !existsSync(init)) {
    await discard(init)
    if (isFile) await importNanogpt(initFrom, init)
    else {
      const { nLayer: n_layer = 12, nHead: n_head = 12, nEmbd: n_embd = 768, bias = false } = config
      const vocab_size = meta.tokenizer === 'char' ? meta.vocab_size : PADDED_VOCAB
      const shape = nanogptConfig({ n_layer, n_head, n_embd, block_size, bias, vocab_size })
      await writeInitialModel(init, shape, createModel(shape), {
        seed,
        onProgress: (done, total) => {
          stop.throwIfAborted()
          report.live(`writing init/ ${((100 * done) / total).toFixed(0)} %`)
        },
      })
    }
  }
  const copy = join(init, META_FILE)
  if (existsSync(copy)) return init // a resumed run's: its alphabet is not to be replaced
  await copyOwn(join(data, META_FILE), copy).catch((error: unknown) => {
    throw asUserError(error, `${copy}: cannot be written`)
  })
  return init
}

/** @throws UserError where options, data and model do not fit each other */
function checkModel({ source, model, checkpoint }: LoadedModel, config: Config, { meta }: Dataset) {
  const { nLayer, nHead, nEmbd, bias, maxLength } = config
  const shape = [
    ['--n-layer', nLayer, model.layers],
    ['--n-head', nHead, model.attention.heads],
    ['--n-embd', nEmbd, model.hidden],
    ['--bias', bias, checkpoint.config['bias'] ?? true],
  ] as const
  for (const [flag, asked, found] of shape) {
    if (asked === undefined || asked === found) continue
    throw new UserError(
      `${flag} ${asked}: ${basename(source)} has ${found}; leave it out, or start from scratch in a new folder`,
    )
  }
  if (maxLength > model.maxPositions) {
    throw new UserError(
      `--block-size ${maxLength}: ${source} has ${model.maxPositions} positions; expected at most that`,
    )
  }
  if (meta.vocab_size > model.vocabSize) {
    throw new UserError(
      `${meta.dataset} has a vocabulary of ${meta.vocab_size}, ${source} one of ${model.vocabSize}: take data of the model's tokenizer`,
    )
  }
}

/** Windows of the data set, as batches of a run. */
async function tokenSource(config: Config, data: Dataset, vocabSize: number): Promise<DataSource> {
  const { batchSize: batch, accumulate, maxLength: tokens, seed, evalIters } = config
  const shape = { batch, tokens, vocabSize }
  const draw = (split: 'train' | 'val', of: Omit<Draw, 'firstRow'>, i: number) => {
    const window = { ...of, firstRow: i * batch }
    return drawTexts(data[split], join(data.dir, `${split}.bin`), shape, window)
  }
  const evaluateSplit = async (
    engine: Engine,
    split: 'train' | 'val',
    tell: (done: number) => void,
  ) => {
    const of = { seed: EVAL_SEED, purpose: `eval ${split}`, step: 0 }
    const batches = await Promise.all(
      Array.from({ length: evalIters }, (_, i) => draw(split, of, i)),
    )
    return evaluateTexts(engine, batches.flat(), (done) => tell(done / batch))
  }
  return {
    sha256: await sampleHash(join(data.dir, 'train.bin')),
    stepsPerEpoch: stepsPerEpoch(data.train.tokens / tokens, config),
    largest: () => {
      const texts = evenTexts(batch, tokens + 1) // the last token is a label only
      return { shape: shapeOf(packTexts(texts), 1), texts }
    },
    batchesOf: async (step) => {
      const of = { seed, purpose: 'train', step }
      const all = Array.from({ length: accumulate }, (_, i) => draw('train', of, i))
      return (await Promise.all(all)).map((texts) => packTexts(texts))
    },
    evaluate: async (engine, onProgress): Promise<PretrainEvaluation> => {
      const tell = (first: number) => (done: number) =>
        onProgress(first + Math.floor(done), 2 * evalIters)
      const { loss: train_loss } = await evaluateSplit(engine, 'train', tell(0))
      return { ...(await evaluateSplit(engine, 'val', tell(evalIters))), train_loss }
    },
    line: (step, evaluation) => {
      const { train_loss, loss } = evaluation as PretrainEvaluation
      return `step ${step}: train loss ${train_loss.toFixed(4)}, val loss ${loss.toFixed(4)}`
    },
    test: null,
  }
}

interface Keeping {
  readonly dir: string
  readonly engine: Engine
  readonly config: Config
  readonly layout: Checkpoint
  readonly report: Reporter
  readonly stop: AbortSignal
}

/** Writes ckpt-<step>/ when val.bin's loss is the lowest so far, and removes the one before. */
function keepCheckpoints({ dir, engine, config, layout, report, stop }: Keeping): Notify {
  return async (event, { globalStep: step, bestGlobalStep }, _control, { metrics }) => {
    if (event !== 'onEvaluate' || step === 0) return
    if (bestGlobalStep !== step && !config.alwaysSaveCheckpoint) return
    const name = `ckpt-${step}`
    await discard(join(dir, name))
    await exportModel(engine, join(dir, name), {
      dtype: 'F32',
      layout,
      onProgress: () => stop.throwIfAborted(), // made again with --resume
      extra: (folder) =>
        writeFile(
          join(folder, 'zo2.json'),
          JSON.stringify({ step, val_loss: metrics?.['eval_loss'] }),
        ),
    })
    for (const other of await keptCheckpoints(dir)) {
      if (other.step !== step) await discard(other.dir)
    }
    report.line(`saved ${join(dir, name)}`)
  }
}
