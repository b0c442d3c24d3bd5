// A model opened for the commands that look at it: eval, generate, sample.
// Loading and planning are src/engine's.

import type { Config } from '../config/options.ts'
import { dataTokenizer } from '../data/model-tokenizer.ts'
import type { Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { loadModel } from '../engine/load.ts'
import { withEngine } from '../engine/open.ts'
import type { Context } from './flags.ts'

/** Opens model, tokenizer and engine for `use`, and closes everything again. */
export async function withModel(
  source: string,
  config: Config,
  report: Context['report'],
  use: (engine: Engine, tokenizer: Tokenizer) => Promise<void>,
): Promise<void> {
  report.line(`loading ${source}`)
  const loaded = await loadModel(source, config, report)
  const tokenizer = await dataTokenizer(loaded, config)
  await withEngine(loaded, config, { trains: false, report }, (engine) => use(engine, tokenizer))
}
