// model_type -> model. Adding one: models/README.md.

import { UserError } from '../src/util/errors.ts'
import { describe } from '../src/util/untrusted.ts'
import type { Config } from './config.ts'
import { gemma, gemma2, gemma3Text } from './gemma.ts'
import { gpt2 } from './gpt2.ts'
import { llama } from './llama.ts'
import { mistral } from './mistral.ts'
import type { Model } from './model.ts'
import { nanogpt } from './nanogpt.ts'
import { opt } from './opt.ts'
import { phi3 } from './phi3.ts'
import { qwen2, qwen3 } from './qwen.ts'
import { smollm3 } from './smollm3.ts'

const MODELS: Readonly<Record<string, (config: Config) => Model>> = {
  gemma,
  gemma2,
  gemma3_text: gemma3Text,
  gpt2,
  llama,
  mistral,
  nanogpt,
  opt,
  phi3,
  qwen2,
  qwen3,
  smollm3,
}

/** The model that a config.json describes. */
export function createModel(config: Config): Model {
  const type = config['model_type']
  const create = typeof type === 'string' && Object.hasOwn(MODELS, type) ? MODELS[type] : undefined
  if (!create) {
    throw new UserError(
      `config.json: model_type ${describe(type)} is not supported; supported: ${Object.keys(MODELS).join(', ')}`,
    )
  }
  return create(config)
}
