// From records to token sequences with labels. Three kinds of data, recognised by their columns:
// {text} for language modelling, {prompt, completion}, and {text, label} with a template and label
// words (classification.ts). Labels are not shifted (types.ts); order, batches and padding come
// later. Over-long prompts lose their left end but keep BOS, as in MeZO's `encode_prompt`.

import { UserError } from '../util/errors.ts'
import { atPlace } from './lost-characters.ts'
import { classificationMaker } from './classification.ts'
import { type SourceRecord } from './whole-file.ts'
import { readRecords } from './readers.ts'
import { columnText, columnsOf, fitContext, labelled, type Maker } from './sequences.ts'
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
    maker ??= chooseMaker(path, record, tokenizer, options)
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

function chooseMaker(
  path: string,
  { values }: SourceRecord,
  tokenizer: Tokenizer,
  options: ExampleOptions,
): Maker {
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
  if (
    options.textColumn === undefined &&
    !isText &&
    Object.hasOwn(values, 'prompt') &&
    Object.hasOwn(values, 'completion')
  ) {
    return completionMaker(tokenizer, options.maxLength)
  }
  if (isText)
    return textMaker(
      path,
      textColumn,
      Object.hasOwn(values, labelColumn),
      tokenizer,
      options.maxLength,
    )
  throw new UserError(
    `${path} has the columns ${columnsOf(Object.keys(values))}, but expected ${textColumn}, or prompt and ` +
      `completion: name the column of the text with --text-column`,
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
      const ids = tokenizer.encode(columnText(record, column), { bos: false })
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

/** Prompt and completion are tokenized apart, as they are when the model is used. */
function completionMaker(tokenizer: Tokenizer, maxLength: number): Maker {
  const keep = tokenizer.encode('').length
  let truncated = 0
  return {
    kind: 'completion',
    make(record) {
      const prompt = tokenizer.encode(columnText(record, 'prompt'))
      const full = tokenizer.encode(columnText(record, 'completion'), { bos: false })
      // The prompt goes first, down to one token; only then does the completion lose its end.
      const completion = full.slice(0, maxLength - Math.min(1, prompt.length))
      const context = fitContext(prompt, keep, maxLength - completion.length)
      if (context.length + completion.length < prompt.length + full.length) truncated++
      const sequence = labelled(context, completion)
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
