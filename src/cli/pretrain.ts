// The commands of pre-training: prepare, pretrain, sample. Options have nanoGPT's names beside ours;
// a configuration of nanoGPT's is a file of options here, never a program.

import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, extname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Argument, Command } from 'commander'
import { addOptions, configOf, ownFlag, type Context, type ContextOf, type Flags } from './flags.ts'
import { DEVICE, HUB, OUTPUT, snakeCase, withEngine } from './finetune.ts'
import { readConfigFile } from '../config/file.ts'
import type { OptionName } from '../config/options.ts'
import { prepare, PREPARED_SETS, type PreparedSet } from '../data/prepare.ts'
import { UserError } from '../util/errors.ts'
import { METHOD_KEYS } from '../config/method.ts'
import { count, nonnegative, path, whole, wholeAtMost } from '../config/values.ts'
import { DECAY_OPTIONS, PRETRAIN_OPTIONS } from '../config/pretrain.ts'
import { hubName, pretrain } from '../train/pretrain.ts'
import { keptCheckpoints } from '../run/folder.ts'
import { formatSeconds } from '../util/console.ts'
import { importedModel, modelIn, sample, startTokens } from '../generate/sample.ts'
import { formatBytes } from '../util/units.ts'
import { PACKAGE_ROOT } from '../util/version.ts'

const DATA: OptionName[] = ['batchSize', 'accumulate', 'maxLength']
const PRETRAIN = Object.keys(PRETRAIN_OPTIONS) as OptionName[]
const SCHEDULE: OptionName[] = ['steps', 'lrSchedule', 'warmupSteps', ...(Object.keys(DECAY_OPTIONS) as OptionName[]), 'evalSteps', 'evalOnStart', 'loadBestModelAtEnd', 'earlyStoppingPatience', 'earlyStoppingThreshold', 'loggingSteps', 'maxSkipped'] // prettier-ignore
/** What nanoGPT prints between two samples. */
const RULE = '---------------'

export function pretrainCommands(contextOf: ContextOf): Command[] {
  return [prepareCommand(contextOf), pretrainCommand(contextOf), sampleCommand(contextOf)]
}

function prepareCommand(contextOf: ContextOf): Command {
  return new Command('prepare')
    .description('text to train.bin, val.bin and meta.json, as nanoGPT prepares it')
    .addArgument(new Argument('<set>', 'which of its data sets').choices(PREPARED_SETS))
    .option(
      '--input <file...>',
      'shakespeare*: text files, taken as one text; openwebtext: data files with "text" (default: shakespeare of the package)',
    ) // prettier-ignore
    .option('--output-dir <dir>', 'new folder (default: data/SET)')
    .action(async (set: PreparedSet, flags: Flags) => {
      const { report, result, stop } = contextOf(flags)
      const inputs = (flags['input'] as string[] | undefined) ?? shippedText(set)
      const outputDir = ownFlag(flags, 'output-dir', path, join('data', set))
      const onProgress = (tokens: number) => {
        stop.throwIfAborted()
        report.live(`${tokens} tokens`)
      }
      const meta = await prepare(set, { inputs, outputDir, onProgress })
      // The alphabet is in meta.json.
      result({ ...meta, itos: undefined, output_dir: resolve(outputDir) }, () => [
        `wrote ${outputDir}: train.bin ${meta.train_tokens} tokens, val.bin ${meta.val_tokens}, vocabulary ${meta.vocab_size}`,
      ])
    })
}

/** Shakespeare lies in the package; OpenWebText is the user's to fetch. */
function shippedText(set: PreparedSet): string[] {
  const files = ['train.txt', 'val.txt'].map((name) =>
    fileURLToPath(new URL(`examples/tinyshakespeare/${name}`, PACKAGE_ROOT)),
  )
  if (set !== 'openwebtext' && files.every((file) => existsSync(file))) return files
  throw new UserError(`zo2 prepare ${set} needs --input FILE`, { exitCode: 2 })
}

function pretrainCommand(contextOf: ContextOf): Command {
  const command = new Command('pretrain')
    .description(
      "train a GPT from scratch (or on from one) on a prepared text, as nanoGPT's train.py",
    )
    .argument('[config]', 'file of options (.yaml, .toml, .json), or a shipped one by its name')
  addOptions(command, [...PRETRAIN, ...METHOD_KEYS, ...DATA, ...SCHEDULE, ...DEVICE, 'ram', ...OUTPUT, ...HUB]) // prettier-ignore
  return command.action(async (file: string | undefined, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const started = performance.now()
    const values = file === undefined ? {} : readConfigFile(configPath(file)).values
    const summary = await pretrain(configOf({ ...values, ...flags }), report, stop)
    const seconds = (performance.now() - started) / 1000
    const [kept] = await keptCheckpoints(summary.outputDir)
    const ckptDir = kept?.dir ?? null
    result({ ...snakeCase(summary), ckpt_dir: ckptDir, seconds }, () => [
      `${summary.stopped ? 'stopped' : 'done'} after ${summary.steps} steps in ${formatSeconds(seconds)}` +
        `  device peak ${formatBytes(summary.devicePeakBytes)} (planned ${formatBytes(summary.plannedPeakBytes)})` +
        `  process peak ${formatBytes(summary.rssPeakBytes)}`,
      ...(ckptDir === null ? [] : [`checkpoint: ${ckptDir}`]),
      summary.stopped ? 'continue with --resume' : `model: ${summary.modelDir ?? 'not written'}`,
    ])
  })
}

/** nanoGPT's `config/NAME` here or in the package, with or without its ending. */
function configPath(name: string): string {
  const endings = extname(name) === '' ? ['.yaml', '.toml', '.json'] : ['']
  const here = endings.map((ending) => name + ending)
  const shipped = here.map((file) =>
    fileURLToPath(new URL(`config/${basename(file)}`, PACKAGE_ROOT)),
  )
  return [...here, ...shipped].find((file) => existsSync(file)) ?? here[0]!
}

function sampleCommand(contextOf: ContextOf): Command {
  const command = new Command('sample')
    .description("texts from a pre-training run or a model, as nanoGPT's sample.py")
    .option(
      '--output-dir <dir>',
      'also --out_dir: output folder of zo2 pretrain, or one with a ckpt.pt (default: out)',
    )
    .option(
      '--init-from <source>',
      'resume (--out_dir), a model folder or hub id, gpt2, or a ckpt.pt (default: resume)',
    ) // prettier-ignore
    .option('--start <text>', 'text to begin with, or FILE:path (default: a line end)')
    .option('--num-samples <n>', 'texts, all in one batch (default: 10)')
    .option('--max-new-tokens <n>', 'tokens of each (default: 500)')
    .option('--temperature <x>', '0: greedy (default: 0.8)')
    .option('--top-k <k>', 'sample among the k most probable; 0: all (default: 200)')
    .option('--seed <n>', 'of the sampling (default: 1337)')
  addOptions(command, [...DEVICE, ...HUB])
  const own = ['outputDir', 'initFrom', 'start', 'numSamples', 'maxNewTokens', 'temperature', 'topK', 'seed'] // prettier-ignore
  return command.action(async (flags: Flags) => {
    const context = contextOf(flags)
    const scratch = await mkdtemp(join(tmpdir(), 'zo2-sample-'))
    try {
      await runSample(context, flags, configOf(flags, own), scratch)
    } finally {
      await rm(scratch, { recursive: true, force: true })
    }
  })
}

async function runSample(
  { report, result, stop }: Context,
  flags: Flags,
  config: ReturnType<typeof configOf>,
  scratch: string,
): Promise<void> {
  const start = (flags['start'] as string | undefined) ?? '\n'
  const options = {
    samples: ownFlag(flags, 'num-samples', count, 10),
    maxNewTokens: ownFlag(flags, 'max-new-tokens', count, 500),
    temperature: ownFlag(flags, 'temperature', nonnegative, 0.8),
    topK: ownFlag(flags, 'top-k', whole, 200),
    seed: ownFlag(flags, 'seed', wholeAtMost(2 ** 32 - 1), 1337),
  }
  const outDir = ownFlag(flags, 'output-dir', path, 'out')
  const source = await sourceOf(ownFlag(flags, 'init-from', path, 'resume'), outDir, scratch)
  await withEngine(source, config, report, async (engine, tokenizer) => {
    const prompt = await startTokens(start, tokenizer)
    let made = 0
    const onToken = () => {
      stop.throwIfAborted()
      report.live(`${++made} tokens`)
    }
    const tokens = await sample(engine, prompt, { ...options, onToken })
    const texts = tokens.map((ids) => tokenizer.decode([...prompt, ...ids]))
    result({ start, samples: texts, tokens }, () => texts.flatMap((text) => [text, RULE]))
  })
}

async function sourceOf(initFrom: string, outDir: string, scratch: string): Promise<string> {
  if (initFrom === 'resume') return modelIn(outDir, scratch)
  if (initFrom.endsWith('.pt')) return importedModel(initFrom, scratch)
  return hubName(initFrom)
}
