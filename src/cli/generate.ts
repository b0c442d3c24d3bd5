// The command that continues prompts: generate.
// Sampling and stopping are src/generate's.

import { Command } from 'commander'
import { trimAtStop, generate } from '../generate/generate.ts'
import { chatPrompt, chatTemplateOf } from '../data/chat-data.ts'
import type { Tokenizer } from '../data/types.ts'
import { UserError } from '../util/errors.ts'
import { addOptions, configOf, type ContextOf, type Flags } from './flags.ts'
import { withModel } from './model.ts'

export function generateCommand(contextOf: ContextOf): Command {
  const command = new Command('generate').description('continue a prompt').argument('<model>')
  addOptions(command, 'generate')
  return command.action(async (source: string, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const config = configOf(flags, 'generate')
    const { prompt: prompts, stop: strings, numReturnSequences } = config
    if (!prompts) {
      throw new UserError("required option '--prompt <text...>' not specified", { exitCode: 2 })
    }
    await withModel(source, config, report, async (engine, tokenizer) => {
      let count = 0
      const decode = (ids: readonly number[]) =>
        tokenizer.decode(ids, { skipSpecial: true, continues: !config.chat })
      const ids = await promptIds(tokenizer, prompts, config.chat)
      const tokens = await generate(engine, ids, {
        maxNewTokens: config.maxNewTokens,
        temperature: config.temperature,
        topK: config.topK,
        topP: config.topP,
        numBeams: config.numBeams,
        lengthPenalty: config.lengthPenalty,
        numReturnSequences,
        seed: config.seed,
        eosIds: tokenizer.eosIds,
        stop: { strings, decode },
        onToken: () => {
          stop.throwIfAborted()
          report.live(`${++count} tokens`)
        },
      })
      const texts = tokens.map((of) => trimAtStop(decode(of), strings))
      const promptOf = (i: number) =>
        config.chat ? '' : prompts[Math.floor(i / numReturnSequences)]!
      result({ prompts, texts, tokens }, () => texts.map((text, i) => promptOf(i) + text))
    })
  })
}

async function promptIds(tokenizer: Tokenizer, prompts: readonly string[], chat: boolean) {
  if (!chat) return prompts.map((prompt) => tokenizer.encode(prompt))
  const template = await chatTemplateOf(tokenizer)
  return prompts.map((content) => chatPrompt(tokenizer, template, [{ role: 'user', content }]))
}
