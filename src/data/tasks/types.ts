// The types of a task: which data set it reads, and what a row of it becomes. A task is texts alone;
// encode.ts makes tokens of them, load.ts chooses the rows.

import type { SourceRecord } from '../whole-file.ts'

/** One row as texts. */
export interface TaskSample {
  /** What stands before the answer; spaces around it do not count. */
  readonly prompt: string
  /** Choice tasks: prompt and answer of every candidate, in the data set's order. */
  readonly options: readonly string[]
  /** Choice tasks: indices of the right candidates; the first one is trained on. */
  readonly right: readonly number[]
  /** Prompt and right answer: what is trained on, or shown as a demonstration. */
  readonly solved: string
  /** Choice tasks: the same without the row's content, to calibrate with. */
  readonly contentFree?: { readonly prompt: string; readonly options: readonly string[] }
  /** Generation tasks: texts any of which is right. */
  readonly golds?: readonly string[]
}

/** One of MeZO's tasks. */
export interface Task {
  /** As --task names it. */
  readonly name: string
  /** The data set on the hub, and its configuration there. */
  readonly dataset: { readonly id: string; readonly config: string }
  /** Choice tasks are scored by accuracy, generation tasks by F1 and exact match. */
  readonly kind: 'choice' | 'generation'
  /** Development examples unless --num-dev says otherwise. */
  readonly numDev: number
  /**
   * A row's texts.
   * @throws UserError naming the place where a column is missing or holds something else
   */
  sample(record: SourceRecord): TaskSample
}
