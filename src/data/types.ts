// The types that tokenizers, data sets and models share.
// No functions: padding is batches.ts's matter, reading that of readers.ts.

import type { ChatTemplate } from './chat-template.ts'

/** Position i of a sequence with this label does not enter the loss. */
export const IGNORED = -100

/** Text to token ids and back, equal to Hugging Face `transformers` for the same folder. */
export interface Tokenizer {
  /**
   * Token ids of a text. With `bos` (the default) the beginning-of-sequence id stands first where
   * the folder's own rule puts one (OPT: `</s>` = 2); `bos: false` never adds it.
   * @throws UserError for a character that the vocabulary lacks
   */
  encode(text: string, options?: { bos?: boolean }): number[]
  /**
   * Text of token ids; ids without a token are left out, special tokens too with `skipSpecial`. With
   * `continues` they follow others: a space before the first word stays, which some tokenizers put there
   * before every text and take away again.
   */
  decode(ids: readonly number[], options?: { skipSpecial?: boolean; continues?: boolean }): string
  /**
   * Ids without BOS, and for each place in the text, in UTF-16 units, the index of the token that holds
   * the character there. Tokenizers of characters alone lack it.
   */
  locate?(text: string, places: readonly number[]): { ids: number[]; at: number[] }
  /** The token with this id as the vocabulary spells it, or undefined. */
  tokenOf(id: number): string | undefined
  readonly bosId: number
  readonly eosId: number
  /** Ids any of which ends a generated text: those of generation_config.json, else eosId. */
  readonly eosIds: readonly number[]
  /** The padding id; the end-of-sequence id where the folder names no padding token. */
  readonly padId: number
  /** Ids that the folder's own rule puts after a whole text; none where it is absent. */
  readonly suffix?: readonly number[]
  /** The folder's chat template, or undefined where it has none. */
  chatTemplate?(): Promise<ChatTemplate | undefined>
  /** One more than the largest id; a model's embedding may have more rows than this. */
  readonly vocabSize: number
  /** One more than the largest id of a text without added tokens; vocabSize where it is absent. */
  readonly textSize?: number
}

/** One token sequence. */
export interface Sequence {
  readonly inputIds: readonly number[]
  /**
   * As long as inputIds. labels[i] is the token id at position i, or IGNORED; the model shifts, so
   * that labels[i] is predicted from the positions before i. labels[0] is always IGNORED.
   */
  readonly labels: readonly number[]
}

/** One training example; for classification, the sequence that carries the right answer. */
export interface Example extends Sequence {
  /** Classification only: one sequence per label word, labelled on its answer tokens alone. */
  readonly options?: readonly Sequence[]
  /** Classification only: index of the right answer in `options`. */
  readonly answer?: number
  /** Where several options are right: their indices, `answer` first among them. */
  readonly right?: readonly number[]
  /** Calibration: for each option the same answer after a prompt without content. */
  readonly calibration?: readonly Sequence[]
  /** Generation tasks: the prompt to continue, and texts any of which is right. */
  readonly generation?: { readonly prompt: readonly number[]; readonly golds: readonly string[] }
}

/** Consecutive rows of a batch that are the options of one example. */
export interface Choice {
  readonly first: number
  readonly count: number
  /** Indices of right options, from 0; the first is the one to learn. */
  readonly right: readonly number[]
}

/**
 * Rows of equal length T: token ids, 1 for real tokens and 0 for padding, labels of Sequence. Labels
 * may have a column more: the token after the last one. A label on the first real token of a row is none:
 * there is nothing to predict it from (packing.ts).
 */
export interface Batch {
  readonly inputIds: readonly (readonly number[])[]
  readonly attentionMask: readonly (readonly number[])[]
  readonly labels: readonly (readonly number[])[]
  /** Whose options the rows are, for objectives that compare them. */
  readonly choices?: readonly Choice[]
  /** The examples that were collated, for objectives that generate. */
  readonly examples?: readonly Example[]
}

/**
 * A batch from a user's own loop: without a mask every position is a real token. `choices` and
 * `examples` are for objectives that look at them.
 * @interface
 */
export type BatchInput = Pick<Batch, 'inputIds' | 'labels'> &
  Partial<Pick<Batch, 'attentionMask' | 'choices' | 'examples'>>

/** What a data file was read as. */
export type DataKind = 'lm' | 'completion' | 'chat' | 'classification'
