// The command that talks with a model: chat. A line of standard input is a turn of the user's; the answer is
// printed as it is made. What the model reads is the conversation in its own chat template
// (src/data/chat-template.ts), from the beginning at every turn.

import { createInterface } from 'node:readline'
import { Command } from 'commander'
import type { Config } from '../config/options.ts'
import { chatPrompt, chatTemplateOf } from '../data/chat-data.ts'
import type { ChatTemplate, Message } from '../data/chat-template.ts'
import type { Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { generate } from '../generate/generate.ts'
import { addOptions, configOf, type Context, type ContextOf, type Flags } from './flags.ts'
import { withModel } from './model.ts'

/** What begins the conversation anew. */
const NEW = '/new'

export function chatCommand(contextOf: ContextOf): Command {
  const command = new Command('chat')
    .description(`talk with a model, a line a turn; ${NEW} begins again, the end of input ends`)
    .argument('<model>')
  addOptions(command, 'chat')
  return command.action(async (source: string, flags: Flags) => {
    const context = contextOf(flags)
    const config = configOf(flags, 'chat')
    await withModel(source, config, context.report, (engine, tokenizer) =>
      talk({ engine, tokenizer, config, context, quiet: flags['json'] === true }),
    )
  })
}

interface Talk {
  readonly engine: Engine
  readonly tokenizer: Tokenizer
  readonly config: Config
  readonly context: Context
  /** Answers are in the result alone (--json). */
  readonly quiet: boolean
}

async function talk(of: Talk): Promise<void> {
  const { tokenizer, config, context } = of
  const template = await chatTemplateOf(tokenizer)
  const system = config.system === undefined ? [] : [{ role: 'system', content: config.system }]
  const input = createInterface({ input: process.stdin })
  const ask = () => {
    if (process.stdin.isTTY) process.stdout.write('> ')
  }
  let messages: Message[] = [...system]
  try {
    ask()
    for await (const line of input) {
      context.stop.throwIfAborted()
      if (line.trim() === NEW) messages = [...system]
      else if (line.trim() !== '') {
        messages = fitting(of, template, [...messages, { role: 'user', content: line }])
        const content = await answer(of, template, messages)
        messages.push({ role: 'assistant', content })
      }
      ask()
    }
  } finally {
    input.close()
  }
  context.result({ messages }, () => [])
}

/** The conversation without its oldest turns where it is longer than the model reads. */
function fitting(of: Talk, template: ChatTemplate, messages: Message[]): Message[] {
  const { engine, tokenizer, config, context } = of
  const room = engine.model.maxPositions - config.maxNewTokens
  const first = messages.findIndex(({ role }) => role !== 'system')
  const fits = (some: Message[]) => chatPrompt(tokenizer, template, some).length <= room
  let left = messages
  while (!fits(left) && left.length > first + 2) {
    left = [...left.slice(0, first), ...left.slice(first + 2)]
  }
  if (left.length < messages.length) {
    context.report.line(`${messages.length - left.length} oldest turns are left out: no room`)
  }
  return left
}

async function answer(of: Talk, template: ChatTemplate, messages: readonly Message[]) {
  const { engine, tokenizer, config, context, quiet } = of
  const decode = (ids: readonly number[]) => tokenizer.decode(ids, { skipSpecial: true })
  const write = (text: string) => {
    if (!quiet) process.stdout.write(text)
  }
  const show = whileMade(decode, write)
  const prompt = chatPrompt(tokenizer, template, messages)
  const [made] = await generate(engine, [prompt], {
    maxNewTokens: config.maxNewTokens,
    temperature: config.temperature,
    topK: config.topK,
    topP: config.topP,
    seed: config.seed + messages.length,
    eosIds: tokenizer.eosIds,
    onToken: ([token]) => {
      context.stop.throwIfAborted()
      if (token !== null && !tokenizer.eosIds.includes(token!)) show(token!)
    },
  })
  write('\n')
  return decode(made!)
}

/** Writes a text as its tokens come; what is not a whole character yet waits for the next. */
function whileMade(decode: (ids: readonly number[]) => string, write: (text: string) => void) {
  const ids: number[] = []
  let shown = 0
  return (token: number) => {
    ids.push(token)
    const text = decode(ids)
    if (text.endsWith('\ufffd')) return
    write(text.slice(shown))
    shown = text.length
  }
}
