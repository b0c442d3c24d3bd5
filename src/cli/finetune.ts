// The commands that run a model: finetune, eval, generate, plan.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import {
  addOptions,
  configOf,
  needed,
  ownFlag,
  type Context,
  type ContextOf,
  type Flags,
} from './flags.ts'
import { addSynthetic, sourceOf, SYNTHETIC } from './synthetic.ts'
import type { Config, OptionName } from '../config/options.ts'
import { loadExamples } from '../data/examples.ts'
import type { Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { checkedEvaluation, scoreExamples } from '../train/evaluate-answers.ts'
import { EVALUATION_KEYS } from '../config/evaluation.ts'
import { finetune } from '../train/finetune.ts'
import { cutAtStop, generate } from '../generate/generate.ts'
import { dataTokenizer } from '../data/model-tokenizer.ts'
import { count, finite, nonnegative, share, textList, whole } from '../config/values.ts'
import { METHOD_KEYS } from '../config/method.ts'
import { formatSeconds } from '../util/console.ts'
import { loadModel, openEngine } from '../engine/open.ts'
import { contextData } from '../train/task.ts'
import { evaluationLine } from '../train/loop.ts'
import { formatBytes } from '../util/units.ts'

export const DEVICE: OptionName[] = ['device', 'adapter', 'transfer', 'memory', 'slab', 'resident', 'activationDtype', 'threads', 'scratchDir'] // prettier-ignore
export const HUB: OptionName[] = ['revision', 'cacheDir']
const EXAMPLES: OptionName[] = ['maxLength', 'template', 'labelWords', 'textColumn', 'labelColumn', 'padding'] // prettier-ignore
const TASK: OptionName[] = ['task', 'dataDir', 'numTrain', 'numEval', 'trainSetSeed', 'sfc', 'maxNewTokens', 'mezoCompat'] // prettier-ignore
const AIM: OptionName[] = ['numDev', 'trainAsClassification', 'onlyTrainOption', 'objective']
const METHOD: OptionName[] = METHOD_KEYS
const SCHEDULE: OptionName[] = ['steps', 'lrSchedule', 'warmupSteps', 'minLr', 'lrDecaySteps', ...EVALUATION_KEYS, 'loggingSteps', 'maxSkipped'] // prettier-ignore
export const OUTPUT: OptionName[] = ['outputDir', 'resume', 'saveSteps', 'saveTotalLimit', 'saveModel', 'dtype', 'tensorboard', 'trace'] // prettier-ignore

export function runCommands(contextOf: ContextOf): Command[] {
  return [finetuneCommand(contextOf), evalCommand(contextOf), generateCommand(contextOf)] // prettier-ignore
}

function finetuneCommand(contextOf: ContextOf): Command {
  const command = new Command('finetune')
    .description('fine-tune a model; MODEL is a folder or a hub id')
    .argument('[model]')
  addSynthetic(command)
  addOptions(command, [
    ...METHOD,
    'train',
    'evalFile',
    'batchSize',
    'accumulate',
    ...EXAMPLES,
    ...TASK,
    ...AIM,
    ...SCHEDULE,
    ...DEVICE,
    'ram',
    ...OUTPUT,
    ...HUB,
  ])
  return command.action(async (model: string | undefined, flags: Flags) => {
    const context = contextOf(flags)
    const started = performance.now()
    const source = sourceOf(model, flags)
    // Nobody wants model/ of a synthetic model unless it is asked for.
    const given = model === undefined ? { saveModel: 'no', ...flags } : flags
    const config = configOf(given, SYNTHETIC)
    const summary = await finetune(source, config, context.report, context.stop)
    const seconds = (performance.now() - started) / 1000
    context.result({ ...snakeCase(summary), seconds }, () => [
      `${summary.stopped ? 'stopped' : summary.stoppedEarly ? 'stopped early' : 'done'} after ${summary.steps} steps in ${formatSeconds(seconds)}` +
        `  device peak ${formatBytes(summary.devicePeakBytes)} (planned ${formatBytes(summary.plannedPeakBytes)})` +
        `  process peak ${formatBytes(summary.rssPeakBytes)}`,
      summary.modelDir
        ? `${config.prefixTokens === undefined ? 'model' : 'adapter'}: ${summary.modelDir}${summary.modelStep === summary.steps ? '' : ` (weights of step ${summary.modelStep}, the best)`}`
        : `${summary.stopped ? 'continue with --resume; ' : ''}write the model with: zo2 export ${summary.outputDir} OUT`,
    ])
  })
}

function evalCommand(contextOf: ContextOf): Command {
  const command = new Command('eval')
    .description('mean loss, and accuracy or F1, of a model on a file or a task')
    .argument('<model>')
  addOptions(command, ['evalFile', ...TASK, 'iclSfc', 'evalSamples', 'batchSize', ...EXAMPLES, ...DEVICE, 'trace', ...HUB]) // prettier-ignore
  return command.action(async (source: string, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const config = configOf(flags)
    if (config.task === undefined) needed(config.evalFile, '--eval-file (or --task)')
    await withEngine(source, config, report, async (engine, tokenizer) => {
      const all =
        config.task === undefined
          ? await fileExamples(engine, config, tokenizer, report)
          : await contextData(engine, config, tokenizer, report, stop)
      const { evalSamples, batchSize, padding, maxNewTokens } = config
      const examples = evalSamples > 0 ? all.slice(0, evalSamples) : all
      const scored = await scoreExamples(engine, examples, {
        ...{ batchSize, tokenizer, maxNewTokens, padId: tokenizer.padId, padTo: padding },
        onProgress: (done, total) => {
          stop.throwIfAborted()
          report.live(`evaluating ${done}/${total}`)
        },
      })
      const evaluation = checkedEvaluation(engine, scored)
      result({ ...evaluation, examples: examples.length }, () => [
        evaluationLine(config.task ?? 'eval', evaluation),
      ])
    })
  })
}

/** The examples of --eval-file. */
async function fileExamples(
  { model: { maxPositions } }: Engine,
  config: Config,
  tokenizer: Tokenizer,
  report: Context['report'],
) {
  const { template, labelWords, maxLength, textColumn, labelColumn } = config
  const set = await loadExamples(config.evalFile!, tokenizer, { template, labelWords, maxLength, maxPositions, textColumn, labelColumn }) // prettier-ignore
  set.log.forEach((line) => report.line(line))
  return set.examples
}

function generateCommand(contextOf: ContextOf): Command {
  const command = new Command('generate')
    .description('continue a prompt')
    .argument('<model>')
    .requiredOption('--prompt <text...>', 'prompt; several make one batch')
    .option('--max-new-tokens <n>', 'tokens to add at most (default: 64)')
    .option('--temperature <x>', '0: greedy (default: 0)')
    .option('--top-k <k>', 'sample among the k most probable; 0: all (default: 0)')
    .option('--top-p <p>', 'sample within this probability; 1: all (default: 1)')
    .option('--num-beams <n>', 'beam search that keeps n texts; 1: none (default: 1)')
    .option('--length-penalty <x>', 'beam scores are divided by length^x (default: 1)')
    .option(
      '--num-return-sequences <n>',
      'texts for each prompt: samples, or the best beams (default: 1)',
    )
    .option('--stop <text...>', 'end a text before any of these')
  addOptions(command, ['seed', ...DEVICE, 'trace', ...HUB])
  const own = ['prompt', 'maxNewTokens', 'temperature', 'topK', 'topP', 'numBeams', 'lengthPenalty', 'numReturnSequences', 'stop'] // prettier-ignore
  return command.action(async (source: string, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const config = configOf(flags, own)
    const prompts = flags['prompt'] as string[]
    const strings = ownFlag(flags, 'stop', textList, [])
    const sampling = {
      maxNewTokens: ownFlag(flags, 'max-new-tokens', count, 64),
      temperature: ownFlag(flags, 'temperature', nonnegative, 0),
      topK: ownFlag(flags, 'top-k', whole, 0),
      topP: ownFlag(flags, 'top-p', share, 1),
      numBeams: ownFlag(flags, 'num-beams', count, 1),
      lengthPenalty: ownFlag(flags, 'length-penalty', finite, 1),
      numReturnSequences: ownFlag(flags, 'num-return-sequences', count, 1),
    }
    await withEngine(source, config, report, async (engine, tokenizer) => {
      let count = 0
      const decode = (ids: readonly number[]) => tokenizer.decode(ids, { skipSpecial: true })
      const tokens = await generate(
        engine,
        prompts.map((p) => tokenizer.encode(p)),
        {
          ...sampling,
          seed: config.seed,
          padId: tokenizer.padId,
          eosIds: tokenizer.eosIds,
          stop: { strings, decode },
          onToken: () => {
            stop.throwIfAborted()
            report.live(`${++count} tokens`)
          },
        },
      )
      const texts = tokens.map((ids) => cutAtStop(decode(ids), strings))
      const promptOf = (i: number) => prompts[Math.floor(i / sampling.numReturnSequences)]!
      result({ prompts, texts, tokens }, () => texts.map((text, i) => promptOf(i) + text))
    })
  })
}

/** Opens a model for evaluation, with a scratch folder of its own, and closes everything again. */
export async function withEngine(
  source: string,
  config: Config,
  report: Context['report'],
  use: (engine: Engine, tokenizer: Tokenizer) => Promise<void>,
): Promise<void> {
  report.line(`loading ${source}`)
  const loaded = await loadModel(source, config, report)
  const tokenizer = await dataTokenizer(loaded, config)
  const scratchDir = await mkdtemp(join(tmpdir(), 'zo2-'))
  try {
    const opened = await openEngine(loaded, config, { updates: [], folded: 0, trains: false, scratchDir }) // prettier-ignore
    try {
      const { kind, name, detail } = opened.device.info
      report.line(`device ${kind}: ${name} (${detail})`)
      await use(opened.engine, tokenizer)
    } finally {
      await opened.close()
    }
  } finally {
    await rm(scratchDir, { recursive: true, force: true })
  }
}

/** Keys of a summary as JSON users expect them: output_dir, device_peak_bytes. */
export function snakeCase(value: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(value).map(([k, v]) => [k.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`), v]),
  )
}
