// Publishes a folder on a hub: the repository if it is not there, then all files as one commit, so that
// nobody ever sees half of it. Large files go first and are kept by the hub if the rest fails. Which
// folder, and its card, is src/cli/push.ts's business; addresses and tokens are api.ts's.

import { commitIter, createRepo, modelInfo } from '@huggingface/hub'
import { readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { UserError } from '../util/errors.ts'
import type { Reporter } from '../util/console.ts'
import { formatBytes } from '../util/units.ts'
import { ADAPTER_FILE, CONFIG_FILE } from './files.ts'
import { backOff, openHub, RefusedError, TransientError, type Hub } from './api.ts'

/** One file to publish: of a folder, or made for the occasion. */
export interface PushFile {
  readonly name: string
  readonly bytes: number
  readonly content: URL | Blob
}

interface PushOptions {
  /** OWNER/NAME. */
  readonly repo: string
  readonly files: readonly PushFile[]
  /** Branch; main if left out. */
  readonly revision?: string
  readonly message: string
  /** Of a repository that is made now. */
  readonly private: boolean
  readonly report: Reporter
  readonly signal: AbortSignal
}

const REPO = /^[\w-][\w.-]*\/[\w-][\w.-]*$/
const ATTEMPTS = 4

/** UserError if it is not OWNER/NAME. */
export function checkRepo(repo: string): void {
  if (REPO.test(repo) && !/\.\.|--|\.git$/.test(repo)) return
  throw new UserError(`${JSON.stringify(repo)} is no repository; write OWNER/NAME`, { exitCode: 2 })
}

/**
 * The files of a model or adapter folder, by name.
 * @throws UserError if it is neither
 */
export async function filesOf(dir: string): Promise<PushFile[]> {
  const names: string[] = await readdir(dir).catch(() => [])
  if (!names.includes(CONFIG_FILE) && !names.includes(ADAPTER_FILE)) {
    throw new UserError(
      `${dir} is no model folder (no config.json); name a run or a folder that zo2 export wrote`,
    )
  }
  const files: PushFile[] = []
  for (const name of names.filter((name) => !name.startsWith('.')).sort()) {
    const path = resolve(join(dir, name))
    const { size } = await stat(path).then((s) => (s.isFile() ? s : { size: -1 }))
    if (size >= 0) files.push({ name, bytes: size, content: pathToFileURL(path) })
  }
  return files
}

/** Publishes the files. @returns the commit and its address @throws UserError with what to do */
export async function push(options: PushOptions): Promise<{ commit: string; url: string }> {
  const { repo, report, signal } = options
  checkRepo(repo)
  const hub = await openHub(repo, signal, (line) => report.line(line), 'write')
  for (let failures = 1; ; failures++) {
    try {
      await makeRepo(hub, options)
      return await commitFiles(hub, options)
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof UserError) throw error
      const why = (error as Error).message
      if (failures < ATTEMPTS) {
        report.line(`push: ${why}; trying again`)
        if (await backOff(failures, signal)) continue
      }
      throw new UserError(
        `${repo} could not be published (${why}): nothing of it is visible; check the network and push again`,
        { cause: error },
      )
    }
  }
}

/** Makes the repository if there is none of that name for this token. */
async function makeRepo({ id, endpoint, fetch }: Hub, options: PushOptions): Promise<void> {
  try {
    await modelInfo({ name: id, hubUrl: endpoint, fetch })
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error
    const visibility = options.private ? 'private' : 'public'
    // The package insists on a token of its own; ours is set by `fetch`.
    const accessToken = 'hf_of_fetch'
    await createRepo({ repo: id, visibility, hubUrl: endpoint, fetch, accessToken })
    options.report.line(`made ${endpoint}/${id} (${visibility})`)
  }
}

async function commitFiles({ id, endpoint, fetch, signal }: Hub, options: PushOptions) {
  const { files, message, revision, report } = options
  const total = files.reduce((sum, file) => sum + file.bytes, 0)
  const shares = new Map(files.map(({ name }) => [name, 0]))
  const events = commitIter({
    repo: id,
    title: message,
    operations: files.map(({ name, content }) => ({
      operation: 'addOrUpdate',
      path: name,
      content,
    })),
    ...(revision !== undefined && { branch: revision }),
    hubUrl: endpoint,
    fetch,
    abortSignal: signal,
  })
  for (;;) {
    const next = await events.next()
    if (next.done) {
      const made = next.value?.commit
      if (!made) throw new TransientError('the reply names no commit')
      return { commit: made.oid, url: made.url }
    }
    const event = next.value
    if (event.event === 'phase') report.live(`push: ${PHASES[event.phase]}`)
    else if (event.state === 'uploading') {
      shares.set(event.path, event.progress)
      const done = files.reduce((sum, { name, bytes }) => sum + bytes * shares.get(name)!, 0)
      report.live(`push: ${formatBytes(done)} of ${formatBytes(total)}`)
    } else report.live(`push: hashing ${event.path}, ${(100 * event.progress).toFixed(0)} %`)
  }
}

const PHASES = {
  preuploading: 'asking where the files go',
  uploadingLargeFiles: 'hashing',
  committing: 'committing',
} as const
