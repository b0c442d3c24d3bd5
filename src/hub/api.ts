// Talking to a hub: endpoint and token from the environment, one `fetch` that every request goes
// through (this module's, the downloader's and those of @huggingface/hub, which takes it as an
// option), errors in a user's words, and the two questions asked: which commit, which files.
// The token is set here and not given to the package, which refuses tokens of mirrors (anything
// but hf_...) and would send it along to any host that a reply points at.
import { datasetInfo, HUB_URL, listFiles, modelInfo, REGEX_COMMIT_HASH } from '@huggingface/hub'
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { UserError } from '../util/errors.ts'
import { expandHome } from './cache.ts'
import { quote } from '../util/untrusted.ts'

/** A connection to one repository's hub. */
export interface Hub {
  readonly id: string
  /** Without a trailing slash. */
  readonly endpoint: string
  /**
   * As the global one, but throws `TransientError` for what may pass and `UserError` for what will
   * not (so a reply is always ok), and ends after 15 s unless `init.signal` says otherwise.
   */
  readonly fetch: typeof fetch
  readonly signal: AbortSignal
  readonly log: (line: string) => void
}

/** One file of a repository at a commit, as the hub lists it. */
export interface RemoteFile {
  readonly name: string
  readonly bytes: number
  /** Hex; also the blob's name in the cache. */
  readonly hash: string
  /** Large files are named by the SHA-256 of their bytes, the others as git names a blob. */
  readonly hashKind: 'sha256' | 'git-sha1'
}

/** A failure that another attempt may cure: no connection, a dropped one, a busy server. */
export class TransientError extends Error {
  override name = 'TransientError'
}

/** The hub answered, and the answer is no: nothing of that name, or not for this token. */
export class RefusedError extends UserError {}

const API_TIMEOUT_MS = 15_000
const RETRY_DELAYS_MS = [250, 1_000, 3_000, 8_000]
// A root folder is listed in pages for as long as the server names a next one.
const MAX_LISTED_FILES = 20_000
const MAX_PAGES = 1_000
const MAX_REPLY_BYTES = 2 ** 26

/** Connects to HF_ENDPOINT (else the hub) with the token of HF_TOKEN or of the token file. */
export async function openHub(
  id: string,
  signal: AbortSignal,
  log: (line: string) => void,
  purpose: 'read' | 'write' = 'read',
): Promise<Hub> {
  const endpoint = hubEndpoint()
  const token = await accessToken()
  if (purpose === 'write' && token === null) {
    throw new UserError(
      `Publishing on ${endpoint} needs an access token that may write: set HF_TOKEN, or log in with hf auth login`,
    )
  }
  const hubFetch: typeof fetch = async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input)
    const headers = new Headers(init?.headers)
    // fetch itself drops the header when it follows a redirect to another origin.
    if (token !== null && url.origin === new URL(endpoint).origin) {
      headers.set('authorization', `Bearer ${token}`)
    }
    const limit = init?.signal ?? AbortSignal.any([signal, AbortSignal.timeout(API_TIMEOUT_MS)])
    let response: Response
    try {
      response = await fetch(input, { ...init, headers, signal: limit })
    } catch (error) {
      throw asTransient(error, signal)
    }
    if (response.ok) return response
    await response.body?.cancel()
    throw refusal(response, id, endpoint, token !== null, purpose)
  }
  return { id, endpoint, fetch: hubFetch, signal, log }
}

/** The endpoint goes into messages, addresses and model cards, so it has nothing secret in it. */
function hubEndpoint(): string {
  const given = process.env['HF_ENDPOINT'] || HUB_URL
  const url = URL.canParse(given) ? new URL(given) : null
  if (!url || !/^https?:$/.test(url.protocol)) {
    const found = /[@?]/.test(given) ? 'something else' : quote(given)
    throw new UserError(`HF_ENDPOINT should be an http(s) address and is ${found}: correct it`)
  }
  if (url.username + url.password + url.search + url.hash !== '') {
    throw new UserError(
      `HF_ENDPOINT should be the address of ${url.origin} alone, without a user, a password or ` +
        `anything behind its path: a token belongs into HF_TOKEN`,
    )
  }
  return given.replace(/\/+$/, '')
}

/** Addresses in a message without user, password and query: storage hosts sign theirs. */
const withoutSecrets = (message: string): string =>
  message
    .replace(/(https?:\/\/)[^\s"'/?#]*@/g, '$1')
    .replace(/(https?:\/\/[^\s"'?#]*)[?#][^\s"']*/g, '$1')

async function accessToken(): Promise<string | null> {
  const cache = process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache')
  const home = process.env['HF_HOME'] || join(cache, 'huggingface')
  const file = expandHome(process.env['HF_TOKEN_PATH'] || join(home, 'token'))
  const token = process.env['HF_TOKEN']?.trim() || (await readFile(file, 'utf8').catch(() => ''))
  if (token.trim() === '') return null
  if (/^[\x21-\x7e]+$/.test(token.trim())) return token.trim()
  throw new UserError(
    `The access token in HF_TOKEN or ${file} should be one printable word and is not: set it again`,
  )
}

/** An abort stays what it is; anything else that stopped a transfer is worth another attempt. */
export function asTransient(error: unknown, signal: AbortSignal): Error {
  if (signal.aborted) return signal.reason as Error
  const { message, cause } = error as Error & { cause?: NodeJS.ErrnoException }
  const detail = cause?.code ?? cause?.message
  const whole = detail === undefined ? message : `${message}: ${detail}`
  return new TransientError(withoutSecrets(whole), { cause: error })
}

function refusal(
  response: Response,
  id: string,
  endpoint: string,
  hasToken: boolean,
  purpose: 'read' | 'write',
): Error {
  const { status } = response
  const code = response.headers.get('x-error-code')
  // Storage hosts sign their addresses for a while only; asking the hub again renews them.
  const isElsewhere =
    response.url !== '' && new URL(response.url).origin !== new URL(endpoint).origin
  if (status === 408 || status === 429 || status >= 500 || isElsewhere) {
    return new TransientError(`the server answered ${status}`)
  }
  if (code === 'GatedRepo') {
    return new RefusedError(
      `${id} is gated: accept its licence at ${endpoint}/${id} and set HF_TOKEN to a token of ` +
        `the account that did`,
    )
  }
  if (purpose === 'write' && (status === 401 || status === 403)) {
    return new RefusedError(
      `The hub answered ${status} for ${id}: the token in use is invalid or may not write there; ` +
        `check HF_TOKEN and the name`,
    )
  }
  if (purpose === 'write' && status === 404) {
    return new RefusedError(
      `${id} or the branch is not on the hub at ${endpoint} (404): check both`,
    )
  }
  if (status === 401 || status === 403) {
    return new RefusedError(
      hasToken
        ? `The hub answered ${status} for ${id}: the token in use is invalid or may not read it ` +
            `(or there is no such model); check HF_TOKEN and the name`
        : `The hub answered ${status} for ${id}: there is no such model, or it is private; check ` +
            `the name, or set HF_TOKEN to a token that may read it`,
    )
  }
  if (status === 404 && code === 'RevisionNotFound') {
    return new RefusedError(
      `${id} has no such revision: see ${endpoint}/${id}/tree/main for its own`,
    )
  }
  if (status === 404) {
    return new RefusedError(
      `There is no folder '${id}' here and nothing of that name on the hub at ${endpoint} (404): ` +
        `check the name`,
    )
  }
  const address = withoutSecrets(response.url)
  return new RefusedError(`The hub answered ${status} for ${address}: check HF_ENDPOINT`)
}

/** Waits before attempt number `failures` + 1; false when there should be no more attempts. */
export async function backOff(failures: number, signal: AbortSignal): Promise<boolean> {
  const waitMs = RETRY_DELAYS_MS[failures - 1]
  if (waitMs === undefined) return false
  await delay(waitMs, undefined, { signal }).catch(() => signal.throwIfAborted())
  return true
}

/** How the hub spells the repository of a data set in addresses and file listings. */
export const DATASETS = 'datasets/'

/**
 * The commit of `revision` and the files of its root folder, or of `folder` and all below, by name.
 * @param maxAttempts how often a question is asked before its TransientError is thrown.
 * @throws TransientError, UserError
 */
export async function lookUp(
  hub: Hub,
  revision: string,
  maxAttempts: number,
  folder?: string,
): Promise<{ commit: string; files: ReadonlyMap<string, RemoteFile> }> {
  const { id, endpoint: hubUrl } = hub
  const name = id.replace(DATASETS, '')
  const within = folder === undefined ? {} : { path: folder, recursive: true }
  return persistently(hub, maxAttempts, async () => {
    const fetch = boundedFetch(hub.fetch)
    const about = { name, revision, hubUrl, fetch }
    const info =
      name === id
        ? await modelInfo({ ...about, additionalFields: ['sha'] })
        : await datasetInfo({ ...about, additionalFields: ['sha'] })
    if (!REGEX_COMMIT_HASH.test(info.sha)) throw new Error('the reply names no commit')
    const files = new Map<string, RemoteFile>()
    for await (const entry of listFiles({
      repo: id,
      revision: info.sha,
      hubUrl,
      fetch,
      ...within,
    })) {
      const file = entry.type === 'file' ? remoteFile(entry) : null
      if (file !== null) files.set(file.name, file)
      if (files.size > MAX_LISTED_FILES) throw new UserError(tooManyFiles(id))
    }
    return { commit: info.sha, files }
  })
}

const tooManyFiles = (id: string): string =>
  `${id} lists more than ${MAX_LISTED_FILES} files where a model was expected: check the name`

async function persistently<T>(hub: Hub, maxAttempts: number, ask: () => Promise<T>): Promise<T> {
  for (let failures = 1; ; failures++) {
    try {
      return await ask()
    } catch (error) {
      // The package lets a cut or garbled reply through as a TypeError or SyntaxError.
      if (error instanceof UserError) throw error
      const failure = error instanceof TransientError ? error : ofReply(error, hub.signal)
      if (!(failure instanceof TransientError) || failures >= maxAttempts) throw failure
      if (!(await backOff(failures, hub.signal))) throw failure
    }
  }
}

/** The package stumbles over a reply that is no hub's: its words are about its own code, or quote the reply. */
function ofReply(error: unknown, signal: AbortSignal): Error {
  const isStumble = error instanceof SyntaxError || error instanceof TypeError
  if (signal.aborted || !isStumble || error.cause !== undefined) return asTransient(error, signal)
  return new TransientError('the reply is not that of a hub', { cause: error })
}

/** For the questions of one attempt: no address twice, not ever more of them, and replies that end. */
function boundedFetch(ask: typeof fetch): typeof fetch {
  const asked = new Set<string>()
  return async (input, init) => {
    const address = input instanceof Request ? input.url : String(input)
    if (asked.has(address) || asked.size >= MAX_PAGES) {
      throw new Error('its list of files leads round in a circle')
    }
    asked.add(address)
    const { body, status, headers } = await ask(input, init)
    let bytes = 0
    const counted = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        bytes += chunk.byteLength
        if (bytes <= MAX_REPLY_BYTES) controller.enqueue(chunk)
        else controller.error(new Error(`its reply is longer than ${MAX_REPLY_BYTES} bytes`))
      },
    })
    return new Response(body?.pipeThrough(counted) ?? null, { status, headers })
  }
}

/** A listed file in our words; null when its size or hash is not what a listing holds. */
function remoteFile(entry: {
  path: string
  size: number
  oid?: string
  lfs?: { oid: string; size: number }
}): RemoteFile | null {
  const bytes = entry.lfs?.size ?? entry.size
  const hash = entry.lfs?.oid ?? entry.oid ?? ''
  const hashKind = entry.lfs ? 'sha256' : 'git-sha1'
  // The hash becomes a file name, so nothing but a hash passes.
  const isHash = hashKind === 'sha256' ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/
  if (!isHash.test(hash) || !Number.isSafeInteger(bytes) || bytes < 0) return null
  return { name: entry.path, bytes, hash, hashKind }
}
