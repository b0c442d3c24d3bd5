// The command that scores a model: eval.
// Figures are src/train/evaluate.ts's.

import { Command } from 'commander'
import type { Config } from '../config/options.ts'
import type { Example, Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { checkedEvaluation, evaluateExamples, evaluationLine } from '../train/evaluate.ts'
import { fileExamples } from '../train/finetune.ts'
import { required } from '../train/run.ts'
import { contextData } from '../train/task.ts'
import { addOptions, configOf, type Context, type ContextOf, type Flags } from './flags.ts'
import { withModel } from './model.ts'

export function evalCommand(contextOf: ContextOf): Command {
  const command = new Command('eval')
    .description('mean loss, and accuracy or F1, of a model on a file or a task')
    .argument('<model>')
  addOptions(command, 'eval')
  return command.action(async (source: string, flags: Flags) => {
    const context = contextOf(flags)
    const { report, result, stop } = context
    const config = configOf(flags, 'eval')
    if (config.task === undefined) required(config.evalFile, '--eval-file (or --task)')
    await withModel(source, config, report, async (engine, tokenizer) => {
      const all = await examplesOf(engine, config, tokenizer, context)
      const examples = config.evalSamples > 0 ? all.slice(0, config.evalSamples) : all
      const scored = await evaluateExamples(engine, examples, {
        answers: {
          tokenizer: () => Promise.resolve(tokenizer),
          maxNewTokens: config.maxNewTokens,
        },
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

/** The examples of --eval-file, or of --task. */
async function examplesOf(
  engine: Engine,
  config: Config,
  tokenizer: Tokenizer,
  { report, stop }: Context,
): Promise<readonly Example[]> {
  if (config.task !== undefined) return contextData(engine, config, tokenizer, report, stop)
  const set = await fileExamples(config.evalFile!, engine, config, tokenizer)
  set.log.forEach((line) => report.line(line))
  return set.examples
}
