// What a program's run makes smaller: one of the command line's objectives by name, or its own.

import type { Config } from '../config/options.ts'
import { customObjective, readsText, type CustomObjective } from './objective.ts'
import type { Tokenizer } from '../data/types.ts'
import { UserError } from '../util/errors.ts'
import { objectiveOf, type Objective } from '../train/objective.ts'

export interface Goal {
  /** loss, accuracy, f1, or an objective of one's own. */
  readonly objective?: Config['objective'] | CustomObjective | undefined
  /** loss: the cross-entropy over options instead. */
  readonly trainAsClassification?: boolean | undefined
  /** f1: tokens of an answer at most; 50 by default. */
  readonly maxNewTokens?: number | undefined
}

/** Where text comes from, if an objective reads any. */
interface TextSource {
  tokenizer(): Promise<Tokenizer>
}

export interface ResolvedGoal {
  readonly objective: Objective
  /** Whether a batch without labels is of no use. */
  readonly needsLabels: boolean
  /** Whether every option of an example is a row of the batch. */
  readonly options: boolean
}

/** @throws UserError for a name that is none, and goals that exclude each other */
export async function goalOf(source: TextSource, goal: Goal): Promise<ResolvedGoal> {
  const { objective = 'loss', trainAsClassification = false, maxNewTokens = 50 } = goal
  if (trainAsClassification && objective !== 'loss') {
    throw new UserError('trainAsClassification is a loss; leave it or the objective out')
  }
  if (typeof objective === 'string') {
    if (!['loss', 'accuracy', 'f1'].includes(objective)) {
      throw new UserError(
        `objective: expected loss, accuracy, f1, a function or { of, score }, found ${JSON.stringify(objective)}`,
      )
    }
    const text = objective === 'f1'
    const config = { objective, trainAsClassification, maxNewTokens }
    return {
      objective: objectiveOf(config, text ? await source.tokenizer() : null),
      needsLabels: !text,
      options: trainAsClassification || objective === 'accuracy',
    }
  }
  const text = readsText(objective)
  const custom = customObjective(objective, text ? await source.tokenizer() : null)
  return { objective: custom, needsLabels: !text, options: false }
}
