// A split of a data set from the hub into the cache that Python shares: the parquet files that the
// hub itself makes of every data set, on the branch refs/convert/parquet as <config>/<split>/0000.parquet
// and so on. A split that is in the cache is used as it is, without asking the hub.
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError } from '../util/errors.ts'
import { DATASETS } from './api.ts'
import { cachedCommit, fileBytes, repoCache, writeRef } from './cache.ts'
import { bringFiles } from './download-model.ts'
import { isOffline, MAX_ATTEMPTS, type ResolveOptions, withRemote } from './resolve.ts'

const REVISION = 'refs/convert/parquet'
const SHARD = /^\d{4}\.parquet$/
const FIRST = '0000.parquet'

/**
 * The parquet files of `<config>/<split>` of the data set `owner/name`, in order, downloaded if needed.
 * @throws UserError when the hub cannot be asked or has no such split; the signal's reason when aborted
 */
export async function resolveSplit(
  id: string,
  config: string,
  split: string,
  options: Pick<ResolveOptions, 'cacheDir' | 'onProgress' | 'log' | 'signal'> = {},
): Promise<string[]> {
  const repo = `${DATASETS}${id}`
  const folder = `${config}/${split}`
  const cache = repoCache(repo, options.cacheDir)
  const commit = await cachedCommit(cache, REVISION)
  const cached = commit === null ? [] : await shardsIn(join(cache.snapshots, commit, folder))
  if (cached.length > 0) return cached
  if (isOffline()) {
    throw new UserError(
      `HF_HUB_OFFLINE is set and ${cache.root} holds no ${folder}: unset it to download the data, ` +
        `or name a folder with --data-dir`,
    )
  }
  return withRemote(repo, REVISION, { ...options, folder }, MAX_ATTEMPTS, async (remote) => {
    const prefix = `${folder}/`
    const shards = [...remote.files.values()].filter(
      ({ name }) => name.startsWith(prefix) && SHARD.test(name.slice(prefix.length)),
    )
    const first = shards.filter(({ name }) => name === prefix + FIRST)
    if (first.length === 0) {
      throw new UserError(`${repo} has no ${prefix}${FIRST} on ${REVISION}: give --data-dir`)
    }
    // The first shard comes last: where it is, all of them are.
    await bringFiles(
      remote,
      shards.filter((shard) => !first.includes(shard)),
    )
    await bringFiles(remote, first)
    await writeRef(cache, REVISION, remote.commit)
    return shardsIn(join(cache.snapshots, remote.commit, folder))
  })
}

/** The shards of a finished split, or none. */
async function shardsIn(dir: string): Promise<string[]> {
  const names = (await readdir(dir).catch(() => [])).filter((name) => SHARD.test(name)).sort()
  const bytes = await Promise.all(names.map((name) => fileBytes(join(dir, name))))
  const whole = names.includes(FIRST) && !bytes.includes(null)
  return whole ? names.map((name) => join(dir, name)) : []
}
