// `zo2 sample`: texts as nanoGPT's sample.py makes them, all samples as one batch of the cached
// generator. Finds the model of a pre-training run; what a model folder's tokens mean is
// src/data/model-tokenizer.ts's matter.
// Source: karpathy/nanoGPT, sample.py.

import { existsSync } from 'node:fs'
import { basename, join } from 'node:path'
import { META_FILE, datasetDir } from '../data/prepared.ts'
import { readText, withPlainLineEnds } from '../data/whole-file.ts'
import type { Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { generate } from './generate.ts'
import { keptCheckpoints } from '../run/folder.ts'
import { importNanogpt } from '../checkpoint/torch/nanogpt.ts'
import { copyOwn } from '../util/copy.ts'

const MAX_START_BYTES = 2 ** 24

interface SampleOptions {
  readonly samples: number
  readonly maxNewTokens: number
  /** 0: greedy. */
  readonly temperature: number
  /** 0: all tokens. */
  readonly topK: number
  readonly seed: number
  readonly onToken?: () => void
}

/**
 * The model in nanoGPT's --out_dir: the newest ckpt-<step>/ of a run, else its model/, else the folder
 * itself if it is a model, else nanoGPT's own ckpt.pt, which is read into `scratch`.
 * @throws UserError where there is none of these
 */
export async function modelIn(outDir: string, scratch: string): Promise<string> {
  if (!existsSync(outDir))
    throw new UserError(`${outDir}: no such folder; name the --out_dir of zo2 pretrain`)
  const [kept] = await keptCheckpoints(outDir)
  if (kept) return kept.dir
  for (const dir of [join(outDir, 'model'), outDir]) {
    if (existsSync(join(dir, 'config.json')) && !existsSync(join(dir, 'journal.jsonl'))) return dir
  }
  const file = join(outDir, 'ckpt.pt')
  if (existsSync(file)) return importedModel(file, scratch)
  throw new UserError(
    `${outDir}: no ckpt-<step>/, model/ or ckpt.pt there; let zo2 pretrain reach an evaluation, or write the model with: zo2 export ${outDir} OUT`,
  )
}

/** nanoGPT's ckpt.pt as a folder in `scratch`, with the characters of its data set if data/ has them. */
export async function importedModel(file: string, scratch: string): Promise<string> {
  const dir = join(scratch, basename(file, '.pt'))
  const { runConfig } = await importNanogpt(file, dir)
  const { dataset } = runConfig
  const meta = typeof dataset === 'string' ? join(datasetDir(dataset), META_FILE) : ''
  if (existsSync(meta)) await copyOwn(meta, join(dir, META_FILE))
  return dir
}

/**
 * The tokens of --start, or of a file given as FILE:path.
 * @throws UserError for an unreadable file, an empty text, and characters that the model lacks
 */
export async function startTokens(start: string, tokenizer: Tokenizer): Promise<number[]> {
  const path = /^FILE:(.*)$/s.exec(start)?.[1]
  const text = path === undefined ? start : await readText(path, MAX_START_BYTES)
  if (text === undefined) throw new UserError(`--start ${start}: no such file`)
  const tokens = tokenizer.encode(path === undefined ? text : withPlainLineEnds(text), {
    bos: false,
  })
  if (tokens.length === 0) throw new UserError('--start is empty; expected a text to begin with')
  return tokens
}

/**
 * New tokens after `start`, for each sample. When a sequence fills the model's positions, its first half
 * is forgotten and the rest is passed again: the context lies between half of the positions and all of
 * them, where nanoGPT passes all of them for every further token.
 */
export async function sample(
  engine: Engine,
  start: readonly number[],
  options: SampleOptions,
): Promise<number[][]> {
  const { samples, maxNewTokens, temperature, topK, seed, onToken } = options
  const { maxPositions } = engine.model
  const half = Math.max(1, Math.floor(maxPositions / 2))
  const texts = Array.from({ length: samples }, () => [...start])
  for (let round = 0, made = 0; made < maxNewTokens; round++) {
    const length = texts[0]!.length
    const keep = length < maxPositions ? length : half
    const count = Math.min(maxNewTokens - made, maxPositions - keep)
    const more = await generate(
      engine,
      texts.map((text) => text.slice(length - keep)),
      {
        maxNewTokens: count,
        temperature,
        topK,
        topP: 1,
        // Each round draws numbers of its own. No token ends a text, as in nanoGPT.
        seed: seed + round * 2 ** 32,
        eosIds: [],
        ...(onToken && { onToken }),
      },
    )
    more.forEach((tokens, b) => (texts[b] = [...texts[b]!, ...tokens]))
    made += count
  }
  return texts.map((text) => text.slice(start.length))
}
