// model_type -> model. Adding one: models/README.md.

import { UserError } from '../src/util/errors.ts'
import { describe } from '../src/util/untrusted.ts'
import type { Config } from './config.ts'
import { gpt2 } from './gpt2.ts'
import type { Model } from './model.ts'
import { nanogpt } from './nanogpt.ts'
import { opt } from './opt.ts'

const MODELS: Readonly<Record<string, (config: Config) => Model>> = {
  gpt2,
  nanogpt,
  opt,
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
