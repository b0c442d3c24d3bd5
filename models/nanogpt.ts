// nanoGPT (karpathy/nanoGPT, model.py): the keys of its GPTConfig (n_layer n_head n_embd block_size
// vocab_size bias dropout) and the names of its state dict. GPT-2's network (gpt2.ts) with weights as
// nn.Linear holds them, [out, in], exact GELU, biases by choice, and a head tied to wte always. As
// everywhere here, dropout is off.

import { checkHeads, readCount, readFlag, readLayers, type Config } from './config.ts'
import { gpt } from './gpt2.ts'
import type { Model } from './model.ts'

/** F.layer_norm's eps in nanoGPT. */
const EPS = 1e-5

/** The model of a config.json whose model_type is "nanogpt". Throws UserError for wrong values. */
export function nanogpt(config: Config): Model {
  const C = readCount(config, 'n_embd')
  const heads = readCount(config, 'n_head')
  checkHeads('n_embd', C, 'n_head', heads)
  return gpt({
    modelType: 'nanogpt',
    C,
    F: 4 * C,
    V: readCount(config, 'vocab_size'),
    layers: readLayers(config, 'n_layer'),
    heads,
    positions: readCount(config, 'block_size'),
    eps: EPS,
    activation: 'gelu',
    bias: readFlag(config, 'bias', true),
    tied: true,
    transposed: false,
  })
}
