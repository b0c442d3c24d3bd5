// What a run trained, as a folder: the whole model, or of prefix tuning the adapter alone, since a prefix
// has no place in a model folder.

import { exportPrefix } from './adapter.ts'
import type { Engine } from '../engine/engine.ts'
import { exportModel, type ExportOptions } from './folder.ts'
import type { LoadedModel } from '../engine/load.ts'

/** Writes `outDir` (absent or empty); `base` is the model that the run began with. */
export const writeTrained = (
  engine: Engine,
  outDir: string,
  { source, checkpoint }: Pick<LoadedModel, 'source' | 'checkpoint'>,
  options: Omit<ExportOptions, 'layout'>,
): Promise<void> =>
  engine.model.prefixTokens === undefined
    ? exportModel(engine, outDir, { ...options, layout: checkpoint })
    : exportPrefix(engine, outDir, source, options.extra)
