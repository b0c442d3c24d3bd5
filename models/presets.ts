// The config.json of a nanoGPT made from scratch.
// Its weights are made by src/checkpoint/init.ts, its forward pass is nanogpt.ts.

import type { Config } from './config.ts'

/** GPT-2's 50257 tokens, padded to a multiple of 64 as nanoGPT does. */
export const PADDED_VOCAB = 50304

export interface NewGpt {
  readonly n_layer: number
  readonly n_head: number
  readonly n_embd: number
  /** Longest sequence of tokens; 1024 if left out. */
  readonly block_size?: number
  /** PADDED_VOCAB if left out. */
  readonly vocab_size?: number
  readonly bias?: boolean
}

/** config.json of a nanoGPT; without biases unless asked for, as nanoGPT's train.py. */
export function nanogptConfig(gpt: NewGpt): Config {
  const {
    n_layer,
    n_head,
    n_embd,
    block_size = 1024,
    vocab_size = PADDED_VOCAB,
    bias = false,
  } = gpt
  const shape = { n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout: 0 }
  return { model_type: 'nanogpt', ...shape }
}
