// Conversations as training examples: the forms in which data sets hold them, and their token sequences
// with labels on what the assistant says. The text is the chat template's, which writes special tokens
// itself, so none are added to it.

import { UserError } from '../util/errors.ts'
import { excerpt, isObject, type Json } from '../util/untrusted.ts'
import type { ChatTemplate, Message, Span } from './chat-template.ts'
import { columnsOf, columnText, fitContext, labelled, type Maker } from './sequences.ts'
import { IGNORED, type Sequence, type Tokenizer } from './types.ts'
import type { SourceRecord } from './whole-file.ts'

/** Which tokens of a sequence are learned. */
export type LossOn = 'assistant' | 'all'

/** A conversation; the turns before `learnedFrom` are a prompt. */
interface Conversation {
  readonly messages: readonly Message[]
  readonly learnedFrom: number
}

type Read = (record: SourceRecord) => Conversation

/** How the columns of a file hold conversations, or undefined where they hold none. */
export function conversationReader(values: Json): Read | undefined {
  const has = (name: string) => Object.hasOwn(values, name)
  if (has('messages')) {
    return (record) => whole(messagesOf(record, 'messages'))
  }
  if (has('conversations')) {
    return (record) => whole(messagesOf(record, 'conversations'))
  }
  if (has('prompt') && has('completion') && Array.isArray(values['prompt'])) {
    return (record) => {
      const prompt = messagesOf(record, 'prompt')
      const messages = [...prompt, ...messagesOf(record, 'completion')]
      return { messages, learnedFrom: prompt.length }
    }
  }
  return undefined
}

const whole = (messages: readonly Message[]): Conversation => ({ messages, learnedFrom: 0 })

/** Whether the columns are those of Alpaca's form. */
export const isAlpaca = (values: Json): boolean =>
  Object.hasOwn(values, 'instruction') && Object.hasOwn(values, 'output')

/** Alpaca's instruction and input as what a user says, for models with a chat template. */
export const alpacaConversation: Read = (record) => {
  const { instruction, input, output } = alpacaFields(record)
  const content = input === '' ? instruction : `${instruction}\n\n${input}`
  return whole([
    { role: 'user', content },
    { role: 'assistant', content: output },
  ])
}

function alpacaFields(record: SourceRecord): Record<'instruction' | 'input' | 'output', string> {
  const has = (record.values['input'] ?? '') !== ''
  return {
    instruction: columnText(record, 'instruction'),
    input: has ? columnText(record, 'input') : '',
    output: columnText(record, 'output'),
  }
}

/** Alpaca's own prompt, for models without a chat template. */
export function alpacaPrompt(record: SourceRecord): { prompt: string; completion: string } {
  const { instruction, input, output } = alpacaFields(record)
  const paired = input === '' ? '' : ', paired with an input that provides further context'
  const context = input === '' ? '' : `### Input:\n${input}\n\n`
  const prompt =
    `Below is an instruction that describes a task${paired}. Write a response that appropriately ` +
    `completes the request.\n\n### Instruction:\n${instruction}\n\n${context}### Response:\n`
  return { prompt, completion: output }
}

const ROLES: Readonly<Record<string, string>> = {
  human: 'user',
  gpt: 'assistant',
  chatgpt: 'assistant',
  bot: 'assistant',
}

/** @throws UserError naming the turn that is none */
function messagesOf({ values, place }: SourceRecord, column: string): Message[] {
  const list: unknown = Object.hasOwn(values, column) ? values[column] : undefined
  if (!Array.isArray(list) || list.length === 0) {
    throw new UserError(
      `${place}: expected a list of messages in the column ${column}, but ` +
        (list === undefined
          ? `the columns are ${columnsOf(Object.keys(values))}`
          : `it is ${excerpt(list)}`),
    )
  }
  return list.map((turn: unknown, i) => {
    const { from, value, ...rest } = isObject(turn) ? turn : {}
    const role: unknown = rest['role'] ?? from
    const content = textOf(rest['content'] ?? value)
    if (typeof role !== 'string' || content === undefined) {
      throw new UserError(
        `${place}: message ${i + 1} of the column ${column} must have a role and a content of text ` +
          `(or from and value), found ${excerpt(turn)}`,
      )
    }
    return { ...rest, role: Object.hasOwn(ROLES, role) ? ROLES[role]! : role, content }
  })
}

/** The text of a message: itself, or parts of text together. Calls of tools have none. */
function textOf(content: unknown): string | undefined {
  if (content === undefined || content === null) return ''
  const text = Array.isArray(content)
    ? content.map((part: unknown) =>
        isObject(part) && part['type'] === 'text' ? part['text'] : undefined,
      )
    : [content]
  return text.every((part): part is string => typeof part === 'string') ? text.join('') : undefined
}

/** @throws UserError for a model without a chat template */
export async function chatTemplateOf(tokenizer: Tokenizer): Promise<ChatTemplate> {
  const template = await tokenizer.chatTemplate?.()
  if (template) return template
  throw new UserError(
    'this model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): ' +
      'continue texts with zo2 generate --prompt',
  )
}

/** The ids of a conversation that the assistant is to go on with; the template writes the special tokens itself. */
export const chatPrompt = (
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly Message[],
) => tokenizer.encode(template.render(messages, { addGenerationPrompt: true }), { bos: false })

/** Conversations as the chat template writes them. */
export function chatMaker(
  path: string,
  read: Read,
  template: ChatTemplate,
  tokenizer: Tokenizer,
  { maxLength, lossOn }: { maxLength: number; lossOn: LossOn },
): Maker {
  if (!tokenizer.locate) {
    throw new UserError(
      `${path} holds conversations: train a model with a tokenizer of words on it`,
    )
  }
  let truncated = 0
  let unlearned = 0
  return {
    kind: 'chat',
    make(record) {
      const { messages, learnedFrom } = read(record)
      const { text, spans } = atRecord(record, () =>
        spansOf(template, messages, learnedFrom, lossOn),
      )
      const { ids, mask } = maskedIds(tokenizer, text, spans)
      const inputIds = ids.slice(0, maxLength)
      if (inputIds.length < ids.length) truncated++
      const labels = inputIds.map((id, i) =>
        i > 0 && (lossOn === 'all' || mask[i]) ? id : IGNORED,
      )
      if (labels.some((label) => label !== IGNORED)) return [{ inputIds, labels }]
      unlearned++
      return []
    },
    truncated: () => truncated,
    notes: () =>
      unlearned === 0
        ? []
        : [
            `${path}: conversations with nothing to learn in their first ${maxLength} tokens were left ` +
              `out (${unlearned})`,
          ],
  }
}

function spansOf(
  template: ChatTemplate,
  messages: readonly Message[],
  learnedFrom: number,
  lossOn: LossOn,
): { text: string; spans: readonly Span[] } {
  if (lossOn === 'all') return { text: template.render(messages), spans: [] }
  const { text, spans } = template.renderSpans(messages)
  if (learnedFrom === 0) return { text, spans }
  const prompt = template.render(messages.slice(0, learnedFrom), { addGenerationPrompt: true })
  return { text, spans: spans.filter(({ start }) => start >= prompt.length) }
}

/** Says of which record a template complains. */
function atRecord<T>({ place }: SourceRecord, work: () => T): T {
  try {
    return work()
  } catch (cause) {
    if (!(cause instanceof UserError)) throw cause
    throw new UserError(`${place}: ${cause.message}`, { cause })
  }
}

/** The ids of a rendered text; of each, whether it holds a character of a span. */
export function maskedIds(
  tokenizer: Tokenizer,
  text: string,
  spans: readonly Span[],
): { ids: number[]; mask: boolean[] } {
  const places = spans.flatMap(({ start, end }) => [start, end - 1])
  const { ids, at } = tokenizer.locate!(text, places)
  const mask = ids.map(() => false)
  for (let i = 0; i < at.length; i += 2) mask.fill(true, at[i], at[i + 1]! + 1)
  return { ids, mask }
}

/** A prompt, and a completion that the end of text follows, in which all or the completion is learned. */
export function completionSequence(
  prompt: readonly number[],
  completion: readonly number[],
  keep: number,
  { maxLength, lossOn }: { maxLength: number; lossOn: LossOn },
): { sequence: Sequence; isCut: boolean } {
  // The prompt goes first, down to one token; only then does the completion lose its end.
  const answer = completion.slice(0, maxLength - Math.min(1, prompt.length))
  const context = fitContext(prompt, keep, maxLength - answer.length)
  const isCut = context.length + answer.length < prompt.length + completion.length
  const sequence = labelled(context, answer)
  if (lossOn === 'assistant') return { sequence, isCut }
  const labels = sequence.inputIds.map((id, i) => (i === 0 ? IGNORED : id))
  return { sequence: { ...sequence, labels }, isCut }
}
