// The options of `zo2 generate` and `zo2 sample`.
// What they do is src/generate's.

import { z } from 'zod'
import type { OptionSpec, Values } from '../spec.ts'
import {
  MOST_SEQUENCES,
  countAtMost,
  finite,
  nonnegative,
  share,
  isOn,
  text,
  textList,
  whole,
} from '../values.ts'

/** Whether tokens are drawn; what beams exclude is said by numBeams. */
const draws = ({ temperature, numBeams }: Values) => temperature !== 0 || numBeams !== 1
const OF_DRAWS = 'is for sampling: give a --temperature above 0 beside it, or leave it out'

export const GENERATION_OPTIONS = {
  prompt: {
    group: 'generation',
    value: 'text...',
    help: 'prompt; several make one batch',
    schema: z.array(text, 'expected a list of texts'),
    commands: ['generate'],
    trajectory: false,
  },
  chat: {
    group: 'generation',
    help: "put the prompt to the assistant, as the model's chat template does",
    schema: isOn,
    default: false,
    commands: ['generate'],
    trajectory: false,
  },
  start: {
    group: 'generation',
    value: 'text',
    help: 'text to begin with, or FILE:path (default: a line end)',
    schema: text,
    commands: ['sample'],
    trajectory: false,
  },
  numSamples: {
    group: 'generation',
    value: 'n',
    help: 'texts, all in one batch',
    schema: countAtMost(MOST_SEQUENCES),
    default: 10,
    commands: ['sample'],
    trajectory: false,
  },
  temperature: {
    group: 'generation',
    value: 'x',
    help: '0: greedy',
    schema: nonnegative,
    default: 0,
    defaults: { sample: 0.8 },
    commands: ['generate', 'sample'],
    trajectory: false,
  },
  topK: {
    group: 'generation',
    value: 'k',
    help: 'sample among the k most probable; 0: all',
    schema: whole,
    default: 0,
    defaults: { sample: 200 },
    commands: ['generate', 'sample'],
    trajectory: false,
    onlyWhen: draws,
    otherwise: OF_DRAWS,
  },
  topP: {
    group: 'generation',
    value: 'p',
    help: 'sample within this probability; 1: all',
    schema: share,
    default: 1,
    commands: ['generate'],
    trajectory: false,
    onlyWhen: draws,
    otherwise: OF_DRAWS,
  },
  numBeams: {
    group: 'generation',
    value: 'n',
    help: 'beam search that keeps n texts; 1: none',
    schema: countAtMost(2 ** 16),
    default: 1,
    commands: ['generate'],
    trajectory: false,
    excludes: ['temperature', 'topK', 'topP'],
    because: 'beam search does not sample',
  },
  lengthPenalty: {
    group: 'generation',
    value: 'x',
    help: 'beam scores are divided by length^x',
    schema: finite,
    default: 1,
    commands: ['generate'],
    trajectory: false,
    needs: ['numBeams'],
  },
  numReturnSequences: {
    group: 'generation',
    value: 'n',
    help: 'texts for each prompt: samples, or the best beams',
    schema: countAtMost(MOST_SEQUENCES),
    default: 1,
    commands: ['generate'],
    trajectory: false,
    needs: [['numBeams', 'temperature']],
  },
  stop: {
    group: 'generation',
    value: 'text...',
    help: 'end a text before any of these',
    schema: textList,
    default: [],
    commands: ['generate'],
    trajectory: false,
  },
} as const satisfies Record<string, OptionSpec>
