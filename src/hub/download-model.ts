// Brings the files a run needs from a hub into one snapshot folder of the cache: small files first,
// then exactly one set of weights, two at a time, each under its lock and only if it is not there.
// resolve.ts decides whether to come here at all; download-file.ts moves the bytes of one file.
import { join } from 'node:path'
import PQueue from 'p-queue'
import { UserError } from '../util/errors.ts'
import type { Hub, RemoteFile } from './api.ts'
import {
  checkDiskSpace,
  fileBytes,
  linkBlob,
  readIndex,
  type RepoCache,
  writeRef,
} from './cache.ts'
import { downloadBlob, partialPath } from './download-file.ts'
import {
  ADAPTER_FILE,
  chooseWeights,
  CONFIG_FILE,
  INDEX_MAX_BYTES,
  shardNames,
  smallFiles,
} from './files.ts'
import { withFileLock } from './lock.ts'

const PARALLEL_FILES = 2

export type OnDownload = (p: { file: string; doneBytes: number; totalBytes: number }) => void

/** A repository at a commit, on the hub and in the cache. */
export interface Remote {
  readonly hub: Hub
  /** Aborts `hub.signal`: the first failure of several transfers stops the others. */
  readonly stop: AbortController
  readonly cache: RepoCache
  readonly commit: string
  readonly files: ReadonlyMap<string, RemoteFile>
  readonly onProgress: OnDownload
}

/**
 * Completes the snapshot of a commit and records it under `revision`. Small files come first, so
 * that a snapshot with weights always has its tokenizer too.
 * @returns the snapshot's folder, and whether anything had to be downloaded.
 */
export async function bringSnapshot(
  remote: Remote,
  revision: string,
  include: 'all' | 'config',
): Promise<{ dir: string; isNew: boolean }> {
  const { hub, cache, commit, files } = remote
  if (!files.has(CONFIG_FILE) && files.has(ADAPTER_FILE)) {
    throw new UserError(
      `${hub.id} at '${revision}' is a PEFT adapter and no whole model: give its base model, which its ` +
        `${ADAPTER_FILE} names, or merge the two in PEFT with merge_and_unload()`,
    )
  }
  if (!files.has(CONFIG_FILE)) {
    throw new UserError(
      `${hub.id} at '${revision}' has no ${CONFIG_FILE}, so it is not a transformers model: ` +
        `choose another`,
    )
  }
  const small = smallFiles(new Set(files.keys())).map((name) => files.get(name)!)
  let downloads = await bringFiles(remote, [...small, ...indexFiles(remote)])
  if (include === 'all') downloads += await bringFiles(remote, await weightFiles(remote))
  await writeRef(cache, revision, commit)
  return { dir: join(cache.snapshots, commit), isNew: downloads > 0 }
}

function indexFiles({ hub, files }: Remote): RemoteFile[] {
  const layout = chooseWeights(new Set(files.keys()))
  const index = layout?.isIndex ? files.get(layout.file)! : null
  if (index === null) return []
  if (index.bytes <= INDEX_MAX_BYTES) return [index]
  throw new UserError(
    `${index.name} of ${hub.id} has ${index.bytes} bytes where at most ${INDEX_MAX_BYTES} were ` +
      `expected: choose another model`,
  )
}

/** The weight files themselves; an index must be in the snapshot already. */
async function weightFiles({ hub, cache, commit, files }: Remote): Promise<RemoteFile[]> {
  const layout = chooseWeights(new Set(files.keys()))
  if (layout === null) {
    throw new UserError(
      `${hub.id} has neither model.safetensors nor pytorch_model.bin (nor shards of them) at ` +
        `commit ${commit}: choose a model or --revision that has`,
    )
  }
  const index = join(cache.snapshots, commit, layout.file)
  const names = layout.isIndex ? shardNames(index, await readIndex(index)) : [layout.file]
  return names.map((name) => {
    const file = files.get(name)
    if (file !== undefined) return file
    throw new UserError(
      `${layout.file} of ${hub.id} names ${name}, which the repository does not hold: choose ` +
        `another revision`,
    )
  })
}

/** Brings files into the snapshot, two at a time; the first failure stops all. Returns how many. */
export async function bringFiles(remote: Remote, wanted: readonly RemoteFile[]): Promise<number> {
  const { cache, commit, hub, stop } = remote
  const missing: RemoteFile[] = []
  let neededBytes = 0
  for (const file of wanted) {
    const pointer = join(cache.snapshots, commit, file.name)
    if ((await fileBytes(pointer)) === file.bytes) continue
    missing.push(file)
    const blob = join(cache.blobs, file.hash)
    if ((await fileBytes(blob)) === file.bytes) continue
    neededBytes += Math.max(0, file.bytes - ((await fileBytes(partialPath(blob))) ?? 0))
  }
  await checkDiskSpace(cache.blobs, neededBytes)
  const queue = new PQueue({ concurrency: PARALLEL_FILES })
  let downloads = 0
  const jobs = missing.map((file) =>
    queue.add(async () => {
      hub.signal.throwIfAborted()
      if (await bringFile(remote, file)) downloads++
    }),
  )
  for (const job of jobs) job.catch((error: unknown) => stop.abort(error))
  await Promise.allSettled(jobs)
  await Promise.all(jobs)
  return downloads
}

/** One file into blob and snapshot, under its lock; true when it had to be downloaded. */
async function bringFile(remote: Remote, file: RemoteFile): Promise<boolean> {
  const { hub, cache, commit } = remote
  const blob = join(cache.blobs, file.hash)
  const pointer = join(cache.snapshots, commit, file.name)
  const lockFile = join(cache.locks, `${file.hash}.lock`)
  const onWait = (): void => hub.log(`Waiting for another download of ${file.name} (${lockFile})`)
  return withFileLock(lockFile, { signal: hub.signal, onWait }, async () => {
    if ((await fileBytes(pointer)) === file.bytes) return false // another process was quicker
    const isThere = (await fileBytes(blob)) === file.bytes
    if (!isThere) {
      await downloadBlob(hub, commit, file, blob, (doneBytes) =>
        remote.onProgress({ file: file.name, doneBytes, totalBytes: file.bytes }),
      )
    }
    await linkBlob(blob, pointer, !isThere)
    return !isThere
  })
}
