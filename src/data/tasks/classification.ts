// The seven tasks with a fixed set of answers: SST-2, RTE, CB, BoolQ, WSC, WiC, MultiRC. Each is a
// prompt, what joins an answer to it, and the answers in the order of the labels.
// Source: princeton-nlp/MeZO, large_models/{templates,tasks}.py; most prompts are PromptSource's.

import type { SourceRecord } from '../whole-file.ts'
import { label, text } from './columns.ts'
import type { Task } from './types.ts'

interface Verbalized {
  readonly name: string
  readonly dataset: Task['dataset']
  readonly numDev?: number
  readonly prompt: (row: SourceRecord) => string
  /** Of label 0, 1, ... */
  readonly answers: readonly string[]
  /** Candidates in another order than the labels: label of each. */
  readonly order?: readonly number[]
  readonly labelColumn?: string
  /** Between prompt and answer; the prompt's own line end by default. */
  readonly joint?: string
  /** The prompt without content. */
  readonly contentFree?: string
}

function verbalized(spec: Verbalized): Task {
  const { answers, joint = '', contentFree = '', labelColumn = 'label' } = spec
  const order = spec.order ?? [...answers.keys()]
  const after = (prompt: string) => order.map((c) => prompt + joint + answers[c]!)
  return {
    name: spec.name,
    dataset: spec.dataset,
    kind: 'choice',
    numDev: spec.numDev ?? 500,
    sample(row) {
      const prompt = spec.prompt(row)
      const options = after(prompt)
      const right = order.indexOf(label(row, labelColumn, answers.length))
      const free = { prompt: contentFree, options: after(contentFree) }
      return { prompt, options, right: [right], solved: options[right]!, contentFree: free }
    },
  }
}

const superGlue = (config: string) => ({ id: 'aps/super_glue', config })

export const SST2 = verbalized({
  name: 'sst2',
  dataset: { id: 'nyu-mll/glue', config: 'sst2' },
  prompt: (row) => `${text(row, 'sentence').trim()} It was`,
  answers: ['terrible', 'great'],
  joint: ' ',
  contentFree: ' It was',
})

export const RTE = verbalized({
  name: 'rte',
  dataset: superGlue('rte'),
  prompt: (row) =>
    `${text(row, 'premise')}\nDoes this mean that "${text(row, 'hypothesis')}" is true? Yes or No?\n`,
  answers: ['Yes', 'No'],
})

export const CB = verbalized({
  name: 'cb',
  dataset: superGlue('cb'),
  numDev: 100, // of 250 examples
  prompt: (row) =>
    `Suppose ${text(row, 'premise')} Can we infer that "${text(row, 'hypothesis')}"? Yes, No, or Maybe?\n`,
  answers: ['Yes', 'No', 'Maybe'],
})

export const BOOLQ = verbalized({
  name: 'boolq',
  dataset: { id: 'google/boolq', config: 'default' },
  prompt(row) {
    const asked = text(row, 'question')
    const question = asked.endsWith('?') ? asked : `${asked}?`
    return `${text(row, 'passage')} ${question[0]!.toUpperCase()}${question.slice(1)}\n`
  },
  answers: ['No', 'Yes'],
  order: [1, 0],
  labelColumn: 'answer',
})

export const WSC = verbalized({
  name: 'wsc',
  dataset: superGlue('wsc.fixed'),
  prompt(row) {
    const [noun, pronoun] = [text(row, 'span1_text'), text(row, 'span2_text').toLowerCase()]
    return `${text(row, 'text')}\nIn the previous sentence, does the pronoun "${pronoun}" refer to ${noun}? Yes or No?\n`
  },
  answers: ['No', 'Yes'],
})

export const WIC = verbalized({
  name: 'wic',
  dataset: superGlue('wic'),
  prompt: (row) =>
    `Does the word "${text(row, 'word')}" have the same meaning in these two sentences? Yes, No?\n` +
    `${text(row, 'sentence1')}\n${text(row, 'sentence2')}\n`,
  answers: ['No', 'Yes'],
})

export const MULTIRC = verbalized({
  name: 'multirc',
  dataset: superGlue('multirc'),
  prompt: (row) =>
    `${text(row, 'paragraph')}\nQuestion: ${text(row, 'question')}\n` +
    `I found this answer "${text(row, 'answer')}". Is that correct? Yes or No?\n`,
  answers: ['No', 'Yes'],
})
