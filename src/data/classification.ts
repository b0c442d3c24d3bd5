// {text, label} records as prompts with an answer word: MeZO's verbalizers. The prompt is the
// filled template, the answer ` word`; each label word gives one sequence, to be scored by the mean
// log-probability of its answer tokens, and the right one's sequence is trained on.
// Source: princeton-nlp/MeZO, large_models/{templates,utils}.py.

import { UserError } from '../util/errors.ts'
import { type SourceRecord } from './whole-file.ts'
import { excerpt } from '../util/untrusted.ts'
import { columnText, columnsOf, fitContext, labelled, type Maker } from './sequences.ts'
import type { Tokenizer } from './types.ts'
import { maxOf } from '../util/extremes.ts'

interface ClassificationOptions {
  template: string
  labelWords: readonly string[]
  textColumn: string
  labelColumn: string
  maxLength: number
}

/**
 * @param columns of the file's first record, for the check of the template
 * @throws UserError where template or label words cannot be used with this file
 */
export function classificationMaker(
  path: string,
  columns: readonly string[],
  tokenizer: Tokenizer,
  options: ClassificationOptions,
): Maker {
  const { labelColumn, maxLength } = options
  checkColumns(path, columns, options)
  // The answer brings its own space along.
  const template = options.template.replace(/ +$/, '')
  const words = checkWords(options.labelWords)
  const answers = words.map((word) => tokenizer.encode(` ${word}`, { bos: false }))
  const keep = tokenizer.encode('').length
  const room = maxLength - maxOf(answers.map((answer) => answer.length))
  checkAnswers(words, answers, room, maxLength)

  let truncated = 0
  return {
    kind: 'classification',
    make(record) {
      const answer = classOf(record, labelColumn, words)
      const prompt = tokenizer.encode(fill(template, record, options.textColumn))
      if (prompt.length === 0) {
        throw new UserError(`${record.place}: the filled template is empty: give it some text`)
      }
      // One cut for all options, so that they are compared after the same prompt.
      const context = fitContext(prompt, keep, room)
      if (context.length < prompt.length) truncated++
      const sequences = answers.map((ids) => labelled(context, ids))
      return [{ ...sequences[answer]!, options: sequences, answer }]
    },
    truncated: () => truncated,
    notes(examples) {
      const first = examples[0]?.answer
      const same = examples.every((example) => example.answer === first)
      const oneClass =
        `warning: all ${examples.length} examples in ${path} have the label ` +
        `${words[first ?? 0]}: there is nothing to tell apart`
      return [...wordNotes(words, answers, tokenizer), ...(same ? [oneClass] : [])]
    },
  }
}

const COLUMN = /\{([^{}]+)\}/g

function checkColumns(
  path: string,
  columns: readonly string[],
  { template, textColumn, labelColumn }: ClassificationOptions,
): void {
  const named = [...template.matchAll(COLUMN)].map((match) => match[1]!)
  if (named.length === 0) {
    throw new UserError(
      `--template ${JSON.stringify(template)} names no column, so all prompts would be the same: ` +
        `write for example "{${textColumn}} It was"`,
    )
  }
  const missing = named.find((name) => !columns.includes(columnOf(name, textColumn)))
  if (missing !== undefined) {
    throw new UserError(
      `--template names the column {${missing}}, but ${path} has ${columnsOf(columns)}: ` +
        `use one of these`,
    )
  }
  if (!columns.includes(labelColumn)) {
    throw new UserError(
      `${path} has no column ${labelColumn} (its columns are ${columnsOf(columns)}): ` +
        `name the column of the label with --label-column`,
    )
  }
}

/** {text} stands for the text column whatever its name is. */
function columnOf(name: string, textColumn: string): string {
  return name === 'text' ? textColumn : name
}

function fill(template: string, record: SourceRecord, textColumn: string): string {
  return template.replace(COLUMN, (_, name: string) => {
    const column = columnOf(name, textColumn)
    const value = record.values[column]
    if (typeof value === 'number' || typeof value === 'boolean') return String(value)
    return columnText(record, column)
  })
}

function checkWords(labelWords: readonly string[]): string[] {
  const words = labelWords.map((word) => word.trim())
  if (words.length < 2) {
    throw new UserError(`--label-words needs two or more words, but has ${words.length}`)
  }
  const twice = words.find((word, i) => words.indexOf(word) !== i)
  if (twice === undefined) return words
  throw new UserError(`--label-words has ${JSON.stringify(twice)} twice: give each class its own`)
}

function checkAnswers(
  words: readonly string[],
  answers: readonly (readonly number[])[],
  room: number,
  maxLength: number,
): void {
  for (const [i, word] of words.entries()) {
    if (word !== '' && answers[i]!.length > 0) continue
    throw new UserError(
      `the label word ${JSON.stringify(word)} has no tokens: give --label-words one word per class`,
    )
  }
  if (room < 2) {
    throw new UserError(
      `--max-length ${maxLength} leaves ${Math.max(0, room)} tokens for the prompt beside the ` +
        `longest label word: give at least ${maxLength - room + 2}`,
    )
  }
}

/** Words of several tokens work, but are often a slip, such as a rare word or a wrong case. */
function wordNotes(
  words: readonly string[],
  answers: readonly (readonly number[])[],
  tokenizer: Tokenizer,
): string[] {
  return words.flatMap((word, i) => {
    const answer = answers[i]!
    if (answer.length === 1) return []
    const tokens = answer.map((id) => JSON.stringify(tokenizer.decode([id]))).join(' ')
    return [
      `the label word ${JSON.stringify(word)} is ${answer.length} tokens (${tokens}): ` +
        `its score is the mean of their log-probabilities`,
    ]
  })
}

/**
 * The class of a record: a label word, or an integer from 0. Where label words are themselves
 * integers (stars from 1 to 5), labels mean the words, never the positions.
 */
function classOf(record: SourceRecord, column: string, words: readonly string[]): number {
  const { values, place } = record
  if (!Object.hasOwn(values, column)) {
    throw new UserError(`${place}: no column ${column}, only ${columnsOf(Object.keys(values))}`)
  }
  const value = values[column]
  const spelled = typeof value === 'object' ? '' : String(value).trim()
  // pandas writes a column of integers with a gap as 0.0, 1.0.
  const text = words.includes(spelled) ? spelled : spelled.replace(/^(-?\d+)\.0+$/, '$1')
  const word = words.indexOf(text)
  if (word >= 0) return word
  const areNumbers = words.some((word) => /^-?\d+$/.test(word))
  if (!areNumbers && /^\d+$/.test(text) && Number(text) < words.length) return Number(text)
  const integers = areNumbers ? '' : `an integer from 0 to ${words.length - 1}, or `
  throw new UserError(
    `${place}: the ${column} must be ${integers}one of the label words ${words.join(', ')}, ` +
      `but it is ${excerpt(value)}`,
  )
}
