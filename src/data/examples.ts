// From records to token sequences with labels. The kinds of data, recognised by their columns: {text}
// for language modelling, {prompt, completion}, conversations (chat-data.ts), and {text, label} with a
// template and label words (classification.ts). Labels are not shifted (types.ts); order, batches and padding come
// later. Over-long prompts lose their left end but keep BOS, as in MeZO's `encode_prompt`.

import { UserError } from '../util/errors.ts'
import type { Json } from '../util/untrusted.ts'
import {
  alpacaConversation,
  alpacaPrompt,
  chatMaker,
  completionSequence,
  conversationReader,
  isAlpaca,
  type LossOn,
} from './chat-data.ts'
import { atPlace } from './lost-characters.ts'
import { classificationMaker } from './classification.ts'
import { type SourceRecord } from './whole-file.ts'
import { readRecords } from './readers.ts'
import { columnText, columnsOf, type Maker } from './sequences.ts'
import { IGNORED, type DataKind, type Example, type Sequence, type Tokenizer } from './types.ts'

/** How to turn a file's records into examples. */
export interface ExampleOptions {
  /** Classification: the prompt, with {column} for a record's values. */
  template?: string | undefined
  /** Classification: the answer word of each class, class 0 first. */
  labelWords?: readonly string[] | undefined
  /** Tokens per sequence at most, BOS included; at least 2. */
  maxLength: number
  /** Positions that the model has, checked against maxLength. */
  maxPositions?: number | undefined
  /** Column of the text; `text` by default. */
  textColumn?: string | undefined
  /** Column of the class; `label` by default. */
  labelColumn?: string | undefined
  /** Conversations, prompts and completions: what is learned; `assistant` by default. */
  lossOn?: LossOn | undefined
}

/** A data file, tokenized. */
export interface ExampleSet {
  readonly kind: DataKind
  readonly examples: readonly Example[]
  /** Records that lost tokens to maxLength; texts of kind `lm` lose none, they are windowed. */
  readonly truncated: number
  /** Sentences the user should read, warnings among them. */
  readonly log: readonly string[]
}

/**
 * Reads and tokenizes a data file.
 * @throws UserError for a wrong option, or naming file and line for a record that does not fit
 */
export async function loadExamples(
  path: string,
  tokenizer: Tokenizer,
  options: ExampleOptions,
): Promise<ExampleSet> {
  checkLengths(options)
  const examples: Example[] = []
  let maker: Maker | undefined
  let records = 0
  for await (const record of readRecords(path)) {
    maker ??= await chooseMaker(path, record, tokenizer, options)
    for (const example of atPlace(record.place, () => maker!.make(record))) examples.push(example)
    records++
  }
  if (!maker || examples.length === 0) {
    throw new UserError(
      `${path} holds no text to train on: all of its ${records} records are empty`,
    )
  }
  const { kind, truncated } = maker
  const log = maker.notes(examples)
  if (truncated() > 0) {
    log.push(
      `${truncated()} of ${records} records in ${path} are longer than ` +
        `--max-length ${options.maxLength} and were cut`,
    )
  }
  return { kind, examples, truncated: truncated(), log }
}

function checkLengths({ maxLength, maxPositions }: ExampleOptions): void {
  if (!Number.isInteger(maxLength) || maxLength < 2) {
    throw new UserError(`--max-length must be an integer of at least 2, but it is ${maxLength}`)
  }
  if (maxPositions !== undefined && maxLength > maxPositions) {
    throw new UserError(
      `--max-length ${maxLength} makes sequences longer than the model's ${maxPositions} ` +
        `positions: give --max-length ${maxPositions} or less`,
    )
  }
}

async function chooseMaker(
  path: string,
  { values }: SourceRecord,
  tokenizer: Tokenizer,
  options: ExampleOptions,
): Promise<Maker> {
  const { template, labelWords, textColumn = 'text', labelColumn = 'label' } = options
  if (template !== undefined && labelWords !== undefined) {
    return classificationMaker(path, Object.keys(values), tokenizer, {
      template,
      labelWords,
      textColumn,
      labelColumn,
      maxLength: options.maxLength,
    })
  }
  if (template !== undefined || labelWords !== undefined) {
    const [given, missing] =
      template === undefined ? ['--label-words', '--template'] : ['--template', '--label-words']
    throw new UserError(`${given} needs ${missing} beside it: give both, or neither`)
  }
  const isText = Object.hasOwn(values, textColumn)
  if (options.textColumn === undefined && !isText) {
    const maker = await turnsMaker(path, values, tokenizer, options)
    if (maker) return maker
  }
  if (isText && options.lossOn === 'assistant') {
    throw new UserError(
      `${path} holds texts, in which no turn is the assistant's: leave out --loss-on assistant`,
    )
  }
  if (isText) {
    const hasLabels = Object.hasOwn(values, labelColumn)
    return textMaker(path, textColumn, hasLabels, tokenizer, options.maxLength)
  }
  throw new UserError(
    `${path} has the columns ${columnsOf(Object.keys(values))}, but expected ${textColumn}, prompt and ` +
      `completion, messages, conversations, or instruction and output: name the column of the text with --text-column`,
  )
}

/** Language modelling: every text is cut into windows. */
function textMaker(
  path: string,
  column: string,
  hasLabels: boolean,
  tokenizer: Tokenizer,
  maxLength: number,
): Maker {
  const prefix = tokenizer.encode('')
  let empty = 0
  let long = 0
  return {
    kind: 'lm',
    make(record) {
      const text = tokenizer.encode(columnText(record, column), { bos: false })
      const ids = text.length > 0 ? [...text, ...(tokenizer.suffix ?? [])] : text
      const parts = windows(ids, prefix, maxLength)
      if (parts.length === 0) empty++
      if (parts.length > 1) long++
      return parts
    },
    truncated: () => 0,
    notes(examples) {
      const log: string[] = []
      if (long > 0) {
        log.push(
          `${path}: texts longer than ${maxLength} tokens were cut into consecutive windows ` +
            `(texts cut: ${long}, sequences in all: ${examples.length})`,
        )
      }
      if (empty > 0) log.push(`${path}: empty texts were left out (${empty})`)
      if (hasLabels) {
        log.push(
          `${path} has a column of labels, which is not used: ` +
            `give --template and --label-words to train on it`,
        )
      }
      return log
    },
  }
}

/**
 * Consecutive windows of at most maxLength tokens, each of which starts with the prefix, so that
 * every token of the text is predicted once. A last window of fewer than 2 tokens is dropped.
 * @param ids a text's tokens without BOS
 * @param prefix [BOS], or nothing
 */
export function windows(
  ids: readonly number[],
  prefix: readonly number[],
  maxLength: number,
): Sequence[] {
  const room = maxLength - prefix.length
  const result: Sequence[] = []
  for (let start = 0; start < ids.length; start += room) {
    const inputIds = [...prefix, ...ids.slice(start, start + room)]
    if (inputIds.length < 2) break
    // labels[0] can never be predicted.
    result.push({ inputIds, labels: [IGNORED, ...inputIds.slice(1)] })
  }
  return result
}

/** Data in which one speaks and another answers, if the columns hold any. */
async function turnsMaker(
  path: string,
  values: Json,
  tokenizer: Tokenizer,
  { maxLength, lossOn = 'assistant' }: ExampleOptions,
): Promise<Maker | undefined> {
  const options = { maxLength, lossOn }
  const read = conversationReader(values)
  const template = read || isAlpaca(values) ? await tokenizer.chatTemplate?.() : undefined
  if (read) {
    if (template) return chatMaker(path, read, template, tokenizer, options)
    throw new UserError(
      `${path} holds conversations, but the model's folder has no chat template: take a model that is ` +
        `made for chat, or put a chat_template.jinja into its folder`,
    )
  }
  if (isAlpaca(values)) {
    if (template) return chatMaker(path, alpacaConversation, template, tokenizer, options)
    return completionMaker(tokenizer, options, alpacaPrompt, [tokenizer.eosId])
  }
  const isPlain = Object.hasOwn(values, 'prompt') && Object.hasOwn(values, 'completion')
  return isPlain ? completionMaker(tokenizer, options, columnsAsTurns, []) : undefined
}

const columnsAsTurns = (record: SourceRecord) => ({
  prompt: columnText(record, 'prompt'),
  completion: columnText(record, 'completion'),
})

/** Prompt and completion are tokenized apart, as they are when the model is used. */
function completionMaker(
  tokenizer: Tokenizer,
  options: { maxLength: number; lossOn: LossOn },
  turns: (record: SourceRecord) => { prompt: string; completion: string },
  end: readonly number[],
): Maker {
  const keep = tokenizer.encode('').length
  let truncated = 0
  return {
    kind: 'completion',
    make(record) {
      const text = turns(record)
      const prompt = tokenizer.encode(text.prompt)
      const completion = [...tokenizer.encode(text.completion, { bos: false }), ...end]
      const { sequence, isCut } = completionSequence(prompt, completion, keep, options)
      if (isCut) truncated++
      if (sequence.labels.every((label) => label === IGNORED)) {
        throw new UserError(
          `${record.place}: the completion has no token to learn: give it some text`,
        )
      }
      return [sequence]
    },
    truncated: () => truncated,
    notes: () => [],
  }
}
