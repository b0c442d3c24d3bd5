// The command that shows what a pre-trained model says: sample.
// Where the model lies and how it is read is src/generate/sample.ts's.

import { Command } from 'commander'
import type { Config } from '../config/options.ts'
import { importedModel, modelIn, sample, startTokens } from '../generate/sample.ts'
import { withScratchFolder } from '../io/scratch.ts'
import { hubName } from '../train/pretrain.ts'
import { addOptions, configOf, type Context, type ContextOf, type Flags } from './flags.ts'
import { withModel } from './model.ts'

/** What nanoGPT prints between two samples. */
const RULE = '---------------'

export function sampleCommand(contextOf: ContextOf): Command {
  const command = new Command('sample').description(
    "texts from a pre-training run or a model, as nanoGPT's sample.py",
  )
  addOptions(command, 'sample')
  return command.action(async (flags: Flags) => {
    const context = contextOf(flags)
    await withScratchFolder((scratch) => runSample(context, configOf(flags, 'sample'), scratch))
  })
}

async function runSample(
  { report, result, stop }: Context,
  config: Config,
  scratch: string,
): Promise<void> {
  const { start = '\n', numSamples, maxNewTokens, temperature, topK, seed } = config
  const source = await sourceOf(config, scratch)
  await withModel(source, config, report, async (engine, tokenizer) => {
    const prompt = await startTokens(start, tokenizer)
    let made = 0
    const onToken = () => {
      stop.throwIfAborted()
      report.live(`${++made} tokens`)
    }
    const options = { samples: numSamples, maxNewTokens, temperature, topK, seed, onToken }
    const tokens = await sample(engine, prompt, options)
    const texts = tokens.map((ids) => tokenizer.decode([...prompt, ...ids]))
    result({ start, samples: texts, tokens }, () => texts.flatMap((text) => [text, RULE]))
  })
}

async function sourceOf({ initFrom, outputDir }: Config, scratch: string): Promise<string> {
  if (initFrom === 'resume') return modelIn(outputDir!, scratch)
  if (initFrom.endsWith('.pt')) return importedModel(initFrom, scratch)
  return hubName(initFrom)
}
