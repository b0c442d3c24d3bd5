// From a name to a model: finds the folder (downloading what is missing), reads headers and config.json,
// and checks that they fit. No weights in memory, no device open; engine/open.ts does that.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createModel } from '../../models/index.ts'
import { distinctMatrices, type Model } from '../../models/model.ts'
import { withPrefix } from '../../models/prefix.ts'
import { openCheckpoint } from '../checkpoint/open.ts'
import {
  parseSynthetic,
  syntheticCheckpoint,
  syntheticConfig,
  syntheticSource,
  type Synthetic,
} from '../checkpoint/synthetic.ts'
import type { Checkpoint } from '../checkpoint/types.ts'
import type { Config } from '../config/options.ts'
import { isRunRecord } from '../config/record.ts'
import { resolveModel } from '../hub/resolve.ts'
import { readJsonObject } from '../io/read.ts'
import type { Reporter } from '../util/console.ts'
import { UserError } from '../util/errors.ts'
import { formatBytes } from '../util/units.ts'
import { listing } from '../util/untrusted.ts'
import { ignoredTensors } from './tensors.ts'

const MAX_CONFIG_BYTES = 2 ** 24

/** A model whose headers are read and checked; no weights in memory, no device open. */
export interface LoadedModel {
  readonly source: string
  readonly dir: string
  /** The hub commit, or null for a local folder. */
  readonly commit: string | null
  readonly checkpoint: Checkpoint
  readonly model: Model
}

/** Finds a model (folder or hub id), downloading what is missing; with the prefix that is asked for. */
export async function loadModel(
  source: string,
  config: Pick<Config, 'revision' | 'cacheDir' | 'prefixTokens'>,
  report: Reporter,
): Promise<LoadedModel> {
  return prefixed(await findModel(source, config, report), config)
}

/** The model with the prefix of --prefix-tokens, if there is to be one. */
export const prefixed = <T extends { readonly model: Model }>(
  loaded: T,
  { prefixTokens: n }: Pick<Config, 'prefixTokens'>,
): T => (n === undefined ? loaded : { ...loaded, model: withPrefix(loaded.model, n) })

async function findModel(
  source: string,
  config: Pick<Config, 'revision' | 'cacheDir'>,
  report: Reporter,
): Promise<LoadedModel> {
  const synthetic = parseSynthetic(source)
  if (synthetic) return syntheticModel(synthetic)
  const place = await modelOfRun(source, report)
  const seen = new Set<string>() // a line for each file, also where live lines are not shown
  const { dir, commit, weights } = await resolveModel(place, {
    ...(config.revision === undefined ? {} : { revision: config.revision }),
    ...(config.cacheDir === undefined ? {} : { cacheDir: config.cacheDir }),
    log: (line) => report.line(line),
    onProgress: ({ file, doneBytes, totalBytes }) => {
      if (!seen.has(file)) report.line(`downloading ${file}, ${formatBytes(totalBytes)}`)
      seen.add(file)
      report.live(`${file}  ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`)
    },
  })
  const checkpoint = await openCheckpoint(dir, weights)
  const model = createModel(checkpoint.config)
  const ignored = await ignoredTensors(model, checkpoint)
  if (ignored.length > 0) {
    const what = 'holds tensors that the model of its config.json does not use'
    report.line(`${dir} ${what}: ${listing(ignored)}`)
  }
  return { source: place, dir, commit, checkpoint, model }
}

/** Of a run's folder the model in it; every other source is as it is. */
async function modelOfRun(source: string, report: Reporter): Promise<string> {
  const config = await readJsonObject(join(source, 'config.json'), MAX_CONFIG_BYTES).catch(
    () => null,
  )
  if (!isRunRecord(config)) return source
  const model = join(source, 'model')
  if (existsSync(join(model, 'config.json'))) {
    report.line(`${source} is the folder of a run: its model/ is taken`)
    return model
  }
  throw new UserError(
    `${source} is the folder of a run that has no model/ yet; write its model with: zo2 export ${source} OUT`,
  )
}

/** A model of true shape without weights of its own. */
export function syntheticModel(synthetic: Synthetic): LoadedModel {
  const source = syntheticSource(synthetic)
  const config = syntheticConfig(synthetic)
  const model = createModel(config)
  const checkpoint = syntheticCheckpoint(source, config, [
    ...distinctMatrices(model).map(({ name, rows, cols }) => ({ name, shape: [rows, cols] })),
    ...model.vectors.map(({ name, size: length }) => ({ name, shape: [length] })),
  ])
  return { source, dir: source, commit: null, checkpoint, model }
}
