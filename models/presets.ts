// GPT-2's sizes, and the config.json of a GPT made from scratch in either layout.

import { UserError } from '../src/util/errors.ts'
import type { Config } from './config.ts'

export interface GptSize {
  readonly n_layer: number
  readonly n_head: number
  readonly n_embd: number
}

/** The four sizes that OpenAI released, by their parameters. */
export const GPT_SIZES: Readonly<Record<string, GptSize>> = {
  '124M': { n_layer: 12, n_head: 12, n_embd: 768 },
  '350M': { n_layer: 24, n_head: 16, n_embd: 1024 },
  '774M': { n_layer: 36, n_head: 20, n_embd: 1280 },
  '1558M': { n_layer: 48, n_head: 25, n_embd: 1600 },
}

/** GPT-2's 50257 tokens, padded to a multiple of 64 as nanoGPT does. */
export const PADDED_VOCAB = 50304

/** @throws UserError for a name that GPT_SIZES lacks */
export function gptSize(name: string): GptSize {
  const size = Object.hasOwn(GPT_SIZES, name) ? GPT_SIZES[name] : undefined
  if (size) return size
  throw new UserError(`there is no GPT size "${name}"; known: ${Object.keys(GPT_SIZES).join(', ')}`)
}

export interface NewGpt extends GptSize {
  /** Longest sequence of tokens; 1024 if left out. */
  readonly block_size?: number
  /** PADDED_VOCAB if left out. */
  readonly vocab_size?: number
}

/** config.json of a nanoGPT; without biases unless asked for, as nanoGPT's train.py. */
export function nanogptConfig(gpt: NewGpt & { readonly bias?: boolean }): Config {
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

/** config.json of a GPT-2 as `transformers` reads it: biases, tanh GELU, tied head. */
export function gpt2Config(gpt: NewGpt): Config {
  const { n_layer, n_head, n_embd, block_size = 1024, vocab_size = PADDED_VOCAB } = gpt
  return {
    model_type: 'gpt2',
    architectures: ['GPT2LMHeadModel'],
    n_layer,
    n_head,
    n_embd,
    n_positions: block_size,
    n_inner: null,
    vocab_size,
    activation_function: 'gelu_new',
    layer_norm_epsilon: 1e-5,
    tie_word_embeddings: true,
    bos_token_id: 50256,
    eos_token_id: 50256,
  }
}
