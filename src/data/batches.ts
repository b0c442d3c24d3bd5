// Rectangular batches: padding of our own examples, and the check of a batch that a user's loop
// made. Which examples go together is order.ts's matter; what their labels mean, types.ts's.

import { UserError } from '../util/errors.ts'
import { excerpt } from '../util/untrusted.ts'
import { maxOf } from '../util/extremes.ts'
import { choicesOf, packBatch } from './packing.ts'
import {
  IGNORED,
  type Batch,
  type BatchInput,
  type Choice,
  type Example,
  type Sequence,
} from './types.ts'

/**
 * Pads sequences to the longest of them.
 * @param padTo the side that gets the padding: token padId, mask 0, label IGNORED
 */
export function collate(
  sequences: readonly Sequence[],
  { padId, padTo }: { padId: number; padTo: 'left' | 'right' },
): Batch {
  const length = maxOf(
    sequences.map(({ inputIds }) => inputIds.length),
    0,
  )
  const pad = (row: readonly number[], filler: number): number[] => {
    const padding = new Array<number>(length - row.length).fill(filler)
    return padTo === 'left' ? [...padding, ...row] : [...row, ...padding]
  }
  return {
    inputIds: sequences.map(({ inputIds }) => pad(inputIds, padId)),
    attentionMask: sequences.map(({ inputIds }) => pad(new Array(inputIds.length).fill(1), 0)),
    labels: sequences.map(({ labels }) => pad(labels, IGNORED)),
  }
}

/**
 * Pads examples to one batch; with `options` every option of each is a row, and the batch says whose.
 */
export function collateExamples(
  examples: readonly Example[],
  padding: { padId: number; padTo: 'left' | 'right' },
  { options = false } = {},
): Batch {
  if (!options) return { ...collate(examples, padding), examples }
  return {
    ...collate(
      examples.flatMap((example) => example.options ?? []),
      padding,
    ),
    choices: choicesOf(examples),
    examples,
  }
}

/** Number of positions that enter the loss: labels that are not IGNORED, with a token before them. */
export const labelledTokens = (batch: Batch): number => packBatch(batch).rows.length

/**
 * Checks a batch from outside and fills in a missing mask.
 * @returns the batch, its rows shared with the argument
 * @throws UserError naming the field, row and column of the first fault
 */
export function checkBatch(
  batch: BatchInput,
  {
    vocabSize,
    maxPositions,
    needsLabels = true,
  }: { vocabSize: number; maxPositions: number; needsLabels?: boolean },
): Batch {
  if (typeof batch !== 'object' || batch === null) {
    throw new UserError(`a batch must be an object with inputIds and labels, not ${show(batch)}`)
  }
  const length = checkShape('inputIds', batch.inputIds)
  if (length > maxPositions) {
    throw new UserError(
      `the batch's rows have ${length} tokens but the model has ${maxPositions} positions: ` +
        `cut each row to ${maxPositions} tokens or fewer`,
    )
  }
  const attentionMask = batch.attentionMask ?? batch.inputIds.map((row) => row.map(() => 1))
  checkShape('attentionMask', attentionMask, batch.inputIds.length, length)
  checkShape('labels', batch.labels, batch.inputIds.length, length)

  const isToken = (value: unknown): boolean =>
    Number.isInteger(value) && (value as number) >= 0 && (value as number) < vocabSize
  const range = `an integer from 0 to ${vocabSize - 1}`
  checkValues('inputIds', batch.inputIds, isToken, range)
  checkValues('attentionMask', attentionMask, (v) => v === 0 || v === 1, '0 or 1')
  const isLabel = (value: unknown): boolean => value === IGNORED || isToken(value)
  checkValues('labels', batch.labels, isLabel, `${IGNORED} or ${range}`)
  checkValues(
    'labels',
    batch.labels,
    (value, row, column) => value === IGNORED || attentionMask[row]![column] === 1,
    `${IGNORED} where attentionMask is 0`,
  )

  const { choices, examples } = batch
  if (choices) checkChoices(choices, batch.inputIds.length)
  const checked = {
    inputIds: batch.inputIds,
    attentionMask,
    labels: batch.labels,
    ...(choices && { choices }),
    ...(examples && { examples }),
  }
  if (needsLabels && labelledTokens(checked) === 0) {
    throw new UserError(
      `the batch has no labelled position: at least one of labels[row][column] with column >= 1 ` +
        `must be a token id instead of ${IGNORED} (labels are not shifted, the model does that)`,
    )
  }
  return checked
}

/** The row length, which must be at least 1 and the same in every row. */
function checkShape(name: string, rows: unknown, height?: number, width?: number): number {
  if (!Array.isArray(rows) || rows.length === 0) {
    throw new UserError(
      `${name} must be an array of one or more rows of numbers, not ${show(rows)}`,
    )
  }
  if (height !== undefined && rows.length !== height) {
    throw new UserError(`${name} has ${rows.length} rows but inputIds has ${height}: pass one each`)
  }
  let expected = width
  rows.forEach((row: unknown, i) => {
    if (!Array.isArray(row) || row.length === 0) {
      throw new UserError(`${name}[${i}] must be a non-empty array of numbers, not ${show(row)}`)
    }
    expected ??= row.length
    if (row.length !== expected) {
      const [other, mend] =
        width === undefined
          ? [`${name}[0]`, 'pad the rows to one length']
          : ['the rows of inputIds', 'pass one value per token']
      throw new UserError(
        `${name}[${i}] has ${row.length} columns but ${other} has ${expected}: ${mend}`,
      )
    }
  })
  return expected!
}

/** Choices follow one another and together are all rows; right ones are among their rows. */
function checkChoices(choices: readonly Choice[], rows: number): void {
  let next = 0
  choices.forEach(({ first, count, right }, i) => {
    const among = (index: number) => Number.isInteger(index) && index >= 0 && index < count
    if (first !== next || !Number.isInteger(count) || count < 1) {
      throw new UserError(
        `choices[${i}] must begin at row ${next} and have one row or more, but it has first ${show(first)} and count ${show(count)}`,
      )
    }
    if (!Array.isArray(right) || right.length === 0 || !right.every(among)) {
      throw new UserError(
        `choices[${i}].right must be a list of indices from 0 to ${count - 1}, but it is ${excerpt(right)}`,
      )
    }
    next += count
  })
  if (next !== rows) {
    throw new UserError(`choices are ${next} rows together but inputIds has ${rows}: name each row`)
  }
}

function checkValues(
  name: string,
  rows: readonly (readonly number[])[],
  valid: (value: unknown, row: number, column: number) => boolean,
  expected: string,
): void {
  for (const [row, values] of rows.entries()) {
    for (let column = 0; column < values.length; column++) {
      if (valid(values[column], row, column)) continue
      throw new UserError(
        `${name}[${row}][${column}] must be ${expected}, but it is ${show(values[column])}`,
      )
    }
  }
}

/** A short name for a value that should have been something else. */
function show(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : 'an array'
  if (value === null || typeof value !== 'object') return String(value).slice(0, 40)
  return `a ${value.constructor?.name ?? 'bare object'}`
}
