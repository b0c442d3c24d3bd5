// The two tasks answered by generation: SQuAD and DROP. The first gold answer, ended by a newline, is
// what is trained on; a generated answer counts by its best match among all golds.
// Source: princeton-nlp/MeZO, large_models/{templates,tasks}.py.

import { text, texts } from './columns.ts'
import type { Task, TaskSample } from './types.ts'

function answered(prompt: string, golds: readonly [string, ...string[]]): TaskSample {
  return { prompt, options: [], right: [], solved: `${prompt} ${golds[0]}\n`, golds }
}

export const SQUAD: Task = {
  name: 'squad',
  dataset: { id: 'rajpurkar/squad', config: 'plain_text' },
  kind: 'generation',
  numDev: 500,
  sample: (row) =>
    answered(
      `Title: ${text(row, 'title')}\nContext: ${text(row, 'context')}\n` +
        `Question: ${text(row, 'question').trim()}\nAnswer:`,
      texts(row, 'answers', 'text'),
    ),
}

export const DROP: Task = {
  name: 'drop',
  dataset: { id: 'ucinlp/drop', config: 'default' },
  kind: 'generation',
  numDev: 500,
  sample: (row) =>
    answered(
      `Passage: ${text(row, 'passage')}\nQuestion: ${text(row, 'question').trim()}\nAnswer:`,
      texts(row, 'answers_spans', 'spans'),
    ),
}
