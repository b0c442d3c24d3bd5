// The two tasks whose candidates come with each row: COPA (the likelier cause or effect) and ReCoRD
// (the entity that a query leaves out; several mentions may be right).
// Source: princeton-nlp/MeZO, large_models/{templates,tasks}.py.

import { UserError } from '../../util/errors.ts'
import { type SourceRecord } from '../whole-file.ts'
import { excerpt } from '../../util/untrusted.ts'
import { label, text, texts } from './columns.ts'
import type { Task } from './types.ts'

export const COPA: Task = {
  name: 'copa',
  dataset: { id: 'aps/super_glue', config: 'copa' },
  kind: 'choice',
  numDev: 100, // of 400 examples
  sample(row) {
    const premise = text(row, 'premise').trimEnd().replace(/\.$/, '')
    const conjunction = conjunctionOf(row)
    const prompt = `${premise} ${conjunction} `
    const choices = [text(row, 'choice1'), text(row, 'choice2')]
    const options = choices.map((choice) => prompt + continued(choice))
    const right = choices.indexOf(choices[label(row, 'label', 2)]!)
    const contentFree = {
      prompt: conjunction,
      options: choices.map((choice) => `${conjunction} ${continued(choice)}`),
    }
    return { prompt, options, right: [right], solved: options[right]!, contentFree }
  },
}

function conjunctionOf(row: SourceRecord): string {
  const asked = text(row, 'question')
  if (asked === 'effect') return 'so'
  if (asked === 'cause') return 'because'
  throw new UserError(
    `${row.place}: question must be "cause" or "effect", but it is ${excerpt(asked)}`,
  )
}

/** A choice in the middle of a sentence: its first word in lower case, unless it is I. */
function continued(choice: string): string {
  const [first = '', ...rest] = choice.split(' ')
  return [first === 'I' ? first : first.toLowerCase(), ...rest].join(' ')
}

export const RECORD: Task = {
  name: 'record',
  dataset: { id: 'aps/super_glue', config: 'record' },
  kind: 'choice',
  numDev: 500,
  sample(row) {
    const passage = text(row, 'passage').replaceAll('@highlight\n', '- ')
    const query = text(row, 'query')
    const entities = texts(row, 'entities')
    // A function: an entity may hold $&, which a replacement text would interpret.
    const filled = entities.map((entity) => `- ${query.replaceAll('@placeholder', () => entity)}`)
    const right = texts(row, 'answers').map((answer) => entities.indexOf(answer))
    if (right.includes(-1)) {
      throw new UserError(`${row.place}: answers must be among the entities, but one is not`)
    }
    const options = filled.map((sentence) => `${passage}\n${sentence}`)
    return {
      prompt: `${passage}\n-`,
      options,
      right,
      solved: options[right[0]!]!,
      contentFree: { prompt: '-', options: filled },
    }
  },
}
