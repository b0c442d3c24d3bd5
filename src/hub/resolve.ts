// From what a user calls a model to a local folder that holds it: a folder is taken as it is, a
// hub id `owner/name` is resolved to a commit and brought into the cache that Python's
// huggingface_hub shares. Decides what is needed and when the network may be skipped; requests are
// in api.ts, bytes in download-file.ts, names in files.ts, disk layout in cache.ts.
import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { UserError } from '../util/errors.ts'
import { lookUp, openHub, RefusedError, TransientError } from './api.ts'
import { cachedCommit, completeSnapshot, type RepoCache, repoCache } from './cache.ts'
import { CONFIG_FILE } from './files.ts'
import { bringSnapshot, type OnDownload, type Remote } from './download-model.ts'

export interface ResolveOptions {
  /** Branch, tag, commit or `refs/pr/N`; default `main`. */
  revision?: string
  /** The hub cache (the folder of `models--*`); default as Python's, from the environment. */
  cacheDir?: string
  /** Called often while a file is transferred; bytes of an earlier attempt count as done. */
  onProgress?: OnDownload
  /** One line a person should see: a retry, a wait, a fall-back to the cache. */
  log?: (line: string) => void
  /** Stops the transfer; what has arrived is kept for the next call. */
  signal?: AbortSignal
  /** 'config' leaves the weights where they are and brings only their index, if they have one. */
  include?: 'all' | 'config'
}

interface ResolvedModel {
  /** Absolute path of the folder. */
  dir: string
  /** 40 hex digits, or null for a local folder. */
  commit: string | null
  /** Name of the weight file in `dir` that was given as the model; else the folder's own choice. */
  weights?: string
  /** 'hub' if anything was downloaded. */
  source: 'local' | 'cache' | 'hub'
}

export const MAX_ATTEMPTS = 4

/**
 * The local folder of `model`: a folder, a weights file in one, or a hub id, downloaded if needed.
 * @throws UserError naming what was tried; the signal's reason when aborted.
 */
export async function resolveModel(
  model: string,
  options: ResolveOptions = {},
): Promise<ResolvedModel> {
  const local = await localModel(model)
  if (local !== null) {
    if (options.revision === undefined) return { ...local, commit: null, source: 'local' }
    throw new UserError(
      `${model} is a local folder, which has no revision ${options.revision}: name a hub id, or leave --revision out`,
    )
  }
  checkHubId(model)
  const revision = options.revision ?? 'main'
  checkRevision(revision)
  const include = options.include ?? 'all'
  const cache = repoCache(model, options.cacheDir)
  const cached = await fromCache(cache, revision, include)
  if (isOffline()) {
    if (cached !== null) return cached
    throw new UserError(
      `HF_HUB_OFFLINE is set and ${cache.root} holds no complete copy of ${model} at ` +
        `'${revision}': unset it to download the model`,
    )
  }
  // With a complete copy at hand one failure is enough; otherwise be patient.
  const attempts = cached === null ? MAX_ATTEMPTS : 1
  try {
    return await withRemote(model, revision, options, attempts, async (remote) => {
      const { dir, isNew } = await bringSnapshot(remote, revision, include)
      return { dir, commit: remote.commit, source: isNew ? 'hub' : 'cache' }
    })
  } catch (error) {
    const isAnswerless = error instanceof UnreachableError || error instanceof RefusedError
    if (cached === null || !isAnswerless) throw error
    options.log?.(`Using the copy of ${model} in the cache: ${error.message}`)
    return cached
  }
}

/** The hub gave no answer, so an older copy may serve. */
class UnreachableError extends UserError {}

/** Looks the repository up and runs `work` on it under a signal that ends with the caller's. */
export async function withRemote<T>(
  model: string,
  revision: string,
  options: ResolveOptions & { folder?: string },
  maxAttempts: number,
  work: (remote: Remote) => Promise<T>,
): Promise<T> {
  const { signal: outer, log = () => {}, onProgress = () => {} } = options
  const cache = repoCache(model, options.cacheDir)
  outer?.throwIfAborted()
  const stop = new AbortController()
  const forward = (): void => stop.abort(outer?.reason)
  outer?.addEventListener('abort', forward, { once: true })
  try {
    const hub = await openHub(model, stop.signal, log)
    const found = await lookUp(hub, revision, maxAttempts, options.folder).catch(
      (error: unknown) => {
        if (!(error instanceof TransientError)) throw error
        throw new UnreachableError(
          `The hub at ${hub.endpoint} cannot be asked for ${model} at '${revision}' ` +
            `(${error.message}): check the connection and HF_ENDPOINT`,
          { cause: error },
        )
      },
    )
    return await work({ hub, stop, cache, onProgress, ...found })
  } catch (error) {
    throw explainDiskError(cache, error)
  } finally {
    outer?.removeEventListener('abort', forward)
  }
}

function explainDiskError(cache: RepoCache, error: unknown): unknown {
  const { code = '', message } = error as NodeJS.ErrnoException
  if (!['EACCES', 'EPERM', 'EROFS', 'ENOSPC', 'EDQUOT', 'ENOTDIR'].includes(code)) return error
  return new UserError(
    `The cache ${cache.root} cannot be written (${message}): make room or set HF_HUB_CACHE to a ` +
      `folder where it can`,
    { cause: error },
  )
}

async function localModel(model: string): Promise<Pick<ResolvedModel, 'dir' | 'weights'> | null> {
  const found = await stat(model).catch(() => null)
  if (found === null) return null
  const path = resolve(model)
  if (found.isDirectory()) {
    await refuseEmpty(model, path)
    return { dir: path }
  }
  if (/\.((safetensors|bin)(\.index\.json)?|gguf)$/.test(path)) {
    return { dir: dirname(path), weights: basename(path) }
  }
  throw new UserError(
    `'${model}' is a file, and a model is a folder with ${CONFIG_FILE} or a weights file ` +
      `(.safetensors, .bin, .gguf) in one: give that`,
  )
}

/** A folder comes before a hub id of the same name; an empty one was hardly meant. */
async function refuseEmpty(model: string, path: string): Promise<void> {
  if ((await readdir(path)).length > 0) return
  const shadow = isHubId(model)
    ? `, and hides the model of that name on the hub: remove it, or`
    : ':'
  throw new UserError(`${path} is an empty folder${shadow} name a folder with a model in it`)
}

// As huggingface_hub checks ids: the two words become parts of paths and addresses.
function isHubId(model: string): boolean {
  const [owner = '', name = '', ...rest] = model.split('/')
  const isWord = (word: string): boolean => /^\w([\w.-]{0,94}\w)?$/.test(word)
  const isId = rest.length === 0 && isWord(owner) && isWord(name)
  return isId && !model.includes('--') && !model.includes('..') && !model.endsWith('.git')
}

/** Owners of models that go by a bare name. */
const OWNERS: readonly (readonly [name: RegExp, owner: string])[] = [
  [/^gpt2(-medium|-large|-xl)?$/, 'openai-community'],
  [/^distilgpt2$/, 'distilbert'],
  [/^opt-(125m|350m|1\.3b|2\.7b|6\.7b|13b|30b|66b)$/, 'facebook'],
  [/^roberta-(base|large)$/, 'FacebookAI'],
]

/** What a sentence shows of a name that cannot be one. */
const MAX_SHOWN_CHARS = 200

function checkHubId(model: string): void {
  if (isHubId(model)) return
  const owner = OWNERS.find(([name]) => name.test(model))?.[1]
  const advice = owner === undefined ? 'correct it' : `the hub has it as ${owner}/${model}`
  throw new UserError(
    `'${model.slice(0, MAX_SHOWN_CHARS)}' is neither an existing folder nor a hub id of the form owner/name: ${advice}`,
  )
}

// A revision becomes a path below refs/.
function checkRevision(revision: string): void {
  const parts = revision.split('/')
  if (parts.every((part) => /^[\w+][\w.+-]*$/.test(part)) && !revision.includes('..')) return
  throw new UserError(
    `The revision '${revision}' should be a branch, tag, commit or refs/pr/N: correct it`,
  )
}

export const isOffline = (): boolean =>
  /^(1|on|yes|true)$/i.test(process.env['HF_HUB_OFFLINE'] ?? '')

async function fromCache(
  cache: RepoCache,
  revision: string,
  include: 'all' | 'config',
): Promise<ResolvedModel | null> {
  const commit = await cachedCommit(cache, revision)
  const dir = commit === null ? null : await completeSnapshot(cache, commit, include)
  return dir === null ? null : { dir, commit, source: 'cache' }
}
