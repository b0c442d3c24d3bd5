// The tokenizer in a model's folder, checked against the model: an id beyond the embedding's rows
// must be one sentence before the first step, not a failed read in the middle of it. Also the one
// change that MeZO's code makes to it.

import { loadGpt2Tokenizer } from './gpt-tokenizers.ts'
import { readMeta, tokenizerOf as preparedTokenizer } from './prepared.ts'
import { loadTokenizer } from './tokenizer.ts'
import type { Tokenizer } from './types.ts'
import { UserError } from '../util/errors.ts'

/** What a tokenizer has to fit: a model's folder, its model_type and rows of its embedding. */
export interface TokenizerUse {
  readonly dir: string
  readonly model: { readonly modelType: string; readonly vocabSize: number }
}

/** @throws UserError for a missing or damaged tokenizer, or one that knows more tokens than the model */
export async function tokenizerOf(loaded: TokenizerUse): Promise<Tokenizer> {
  const { dir, model } = loaded
  const tokenizer = await tokenizerIn(loaded)
  if (tokenizer.vocabSize <= model.vocabSize) return tokenizer
  throw new UserError(
    `${dir}: the tokenizer has ${tokenizer.vocabSize} tokens, config.json means a vocab_size of ${model.vocabSize}; take tokenizer and weights of the same model`,
  )
}

/** A model of zo2 pretrain has its data's meta.json; a nanoGPT without one speaks GPT-2's BPE. */
async function tokenizerIn({ dir, model }: TokenizerUse): Promise<Tokenizer> {
  const meta = await readMeta(dir)
  if (meta) return preparedTokenizer(meta)
  return model.modelType === 'nanogpt' ? loadGpt2Tokenizer() : loadTokenizer(dir)
}

/** What MeZO's code sets as OPT's BOS: the id of `<s>`, which OPT was not trained with. */
const MEZO_BOS = 0

/** The tokenizer that data is encoded with: MeZO's BOS for OPT under --mezo-compat. */
export async function dataTokenizer(
  loaded: TokenizerUse,
  { mezoCompat }: { mezoCompat: boolean },
): Promise<Tokenizer> {
  const tokenizer = await tokenizerOf(loaded)
  if (!mezoCompat || loaded.model.modelType !== 'opt') return tokenizer
  const prefix = tokenizer.encode('').map(() => MEZO_BOS)
  return {
    ...tokenizer,
    bosId: MEZO_BOS,
    encode: (text, { bos = true } = {}) => [
      ...(bos ? prefix : []),
      ...tokenizer.encode(text, { bos: false }),
    ],
  }
}
