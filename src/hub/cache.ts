// The hub cache on disk, laid out as Python's huggingface_hub lays it out, so that both use the
// same files: `models--owner--name/{blobs/<hash>, refs/<revision>, snapshots/<commit>/<file>}`,
// where a snapshot's files are relative links to blobs. Knows paths, links, refs, completeness
// and disk space; transfers nothing. Source: huggingface_hub `file_download.py`, `constants.py`.
import { getHFHubCachePath, getRepoFolderName, REGEX_COMMIT_HASH } from '@huggingface/hub'
import { randomUUID } from 'node:crypto'
import {
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  statfs,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { UserError } from '../util/errors.ts'
import { CONFIG_FILE, INDEX_MAX_BYTES, shardNames, WEIGHTS_LAYOUTS } from './files.ts'
import { copyOwn } from '../util/copy.ts'

/** The folders of one repository in one cache, absolute. */
export interface RepoCache {
  readonly root: string
  readonly blobs: string
  readonly refs: string
  readonly snapshots: string
  readonly locks: string
}

/** `~` and `~/x` as the shell would have them; the environment often holds them unexpanded. */
export function expandHome(path: string): string {
  return /^~(?=$|[/\\])/.test(path) ? join(homedir(), path.slice(1)) : path
}

/** The cache of `id` under `cacheDir`, else HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, ... */
export function repoCache(id: string, cacheDir?: string): RepoCache {
  const base = resolve(cacheDir ?? expandHome(getHFHubCachePath()))
  const name = id.replace('datasets/', '')
  const folder = getRepoFolderName({ type: name === id ? 'model' : 'dataset', name })
  const root = join(base, folder)
  return {
    root,
    blobs: join(root, 'blobs'),
    refs: join(root, 'refs'),
    snapshots: join(root, 'snapshots'),
    locks: join(base, '.locks', folder),
  }
}

/** The commit that `revision` names in the cache: itself if it is one, else by its ref; or null. */
export async function cachedCommit(cache: RepoCache, revision: string): Promise<string | null> {
  if (REGEX_COMMIT_HASH.test(revision)) return revision
  const text = await readFile(join(cache.refs, revision), 'utf8').catch(() => '')
  return REGEX_COMMIT_HASH.test(text.trim()) ? text.trim() : null
}

/** Records that `revision` is `commit`, unless it is recorded already or is the commit itself. */
export async function writeRef(cache: RepoCache, revision: string, commit: string): Promise<void> {
  if ((await cachedCommit(cache, revision)) === commit) return
  const path = join(cache.refs, revision)
  await mkdir(dirname(path), { recursive: true })
  const temporary = `${path}.${randomUUID()}.tmp`
  await writeFile(temporary, commit)
  await rename(temporary, path)
}

/**
 * The folder of a cached snapshot if it holds what is needed, else null: config.json and, for
 * 'all', one complete set of weights. Tokenizer files are optional in a repository, so their
 * absence says nothing. A dangling link (a blob that was never finished) counts as absent.
 */
export async function completeSnapshot(
  cache: RepoCache,
  commit: string,
  include: 'all' | 'config',
): Promise<string | null> {
  const dir = join(cache.snapshots, commit)
  const present = await presentFiles(dir)
  if (!present.has(CONFIG_FILE)) return null
  if (include === 'config') return dir
  for (const { file, isIndex } of WEIGHTS_LAYOUTS) {
    if (!present.has(file)) continue
    if (!isIndex) return dir
    const shards = shardNames(join(dir, file), await readIndex(join(dir, file)))
    if (shards.every((shard) => present.has(shard))) return dir
  }
  return null
}

async function presentFiles(dir: string): Promise<Set<string>> {
  const names = await readdir(dir).catch(() => [])
  const found = await Promise.all(names.map((name) => fileBytes(join(dir, name))))
  return new Set(names.filter((_, i) => found[i] !== null))
}

/** Text of a weights index on disk. @throws UserError when it is absurdly large. */
export async function readIndex(path: string): Promise<string> {
  const { size } = await stat(path)
  if (size > INDEX_MAX_BYTES) {
    throw new UserError(
      `${path} is ${size} bytes where an index of at most ${INDEX_MAX_BYTES} was expected: ` +
        `choose another revision of the model`,
    )
  }
  return readFile(path, 'utf8')
}

/** Size in bytes of a file, through links; null when there is none. */
export async function fileBytes(path: string): Promise<number | null> {
  return stat(path).then(
    (found) => (found.isFile() ? found.size : null),
    () => null,
  )
}

/**
 * Makes `pointer` lead to `blob`: by a relative link, so that the cache can be moved; where links
 * are refused (Windows without the right, FAT), by the file itself, as Python does: a blob just
 * downloaded (`isNew`) is moved, an older one, perhaps used by another snapshot, is copied.
 */
export async function linkBlob(blob: string, pointer: string, isNew: boolean): Promise<void> {
  await mkdir(dirname(pointer), { recursive: true })
  const temporary = `${pointer}.${randomUUID()}.tmp`
  try {
    await symlink(relative(dirname(pointer), blob), temporary)
  } catch {
    if (isNew) return rename(blob, pointer)
    await copyOwn(blob, temporary)
  }
  try {
    await rename(temporary, pointer)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

/**
 * @throws UserError when the disk that holds (or will hold) `dir` has fewer than `neededBytes` free.
 */
export async function checkDiskSpace(dir: string, neededBytes: number): Promise<void> {
  if (neededBytes === 0) return
  await mkdir(dir, { recursive: true })
  const disk = await statfs(dir)
  const availableBytes = disk.bavail * disk.bsize
  if (neededBytes <= availableBytes) return
  throw new UserError(
    `The download needs ${neededBytes} bytes and the disk of ${dir} has ${availableBytes} ` +
      `available: free some space or set HF_HUB_CACHE to a folder on another disk`,
  )
}
