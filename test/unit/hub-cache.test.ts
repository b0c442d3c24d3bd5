// The hub's cache on disks that refuse links, and its small helpers: refs, disk space, the home folder,
// an index of shards that is none.
// Alone: npx vitest run test/unit/hub-cache.test.ts

import { lstat, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import {
  cachedCommit,
  checkDiskSpace,
  expandHome,
  fileBytes,
  linkBlob,
  readIndex,
  repoCache,
  writeRef,
} from '../../src/hub/cache.ts'
import { INDEX_MAX_BYTES, shardNames } from '../../src/hub/files.ts'

const disk = vi.hoisted(() => ({ refusesLinks: false }))
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>()
  const symlink: typeof real.symlink = (...paths) =>
    disk.refusesLinks
      ? Promise.reject(Object.assign(new Error('EPERM'), { code: 'EPERM' }))
      : real.symlink(...paths)
  return { ...real, symlink }
})

let home: string
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'zo2-cache-'))
})
afterEach(async () => {
  disk.refusesLinks = false
  await rm(home, { recursive: true, force: true })
})

it('moves a new blob and copies an old one where links are refused', async () => {
  disk.refusesLinks = true
  const blob = join(home, 'blobs', 'b')
  const pointers = ['old', 'new'].map((commit) => join(home, 'snapshots', commit, 'f'))
  await mkdir(join(home, 'blobs'))
  await writeFile(blob, 'content')
  await linkBlob(blob, pointers[0]!, false)
  expect(await fileBytes(blob)).toBe(7)
  await linkBlob(blob, pointers[1]!, true)
  expect(await fileBytes(blob)).toBeNull()
  for (const pointer of pointers) {
    expect((await lstat(pointer)).isSymbolicLink()).toBe(false)
    expect(await readFile(pointer, 'utf8')).toBe('content')
  }
})

it('replaces a pointer that leads nowhere', async () => {
  const blob = join(home, 'blobs', 'b')
  await mkdir(join(home, 'blobs'))
  await linkBlob(join(home, 'blobs', 'gone'), join(home, 's', 'f'), true)
  await writeFile(blob, 'content')
  await linkBlob(blob, join(home, 's', 'f'), true)
  expect(await readFile(join(home, 's', 'f'), 'utf8')).toBe('content')
})

it('follows a ref only to a commit', async () => {
  const cache = repoCache('o/m', home)
  const commit = 'e'.repeat(40)
  expect(await cachedCommit(cache, 'main')).toBeNull()
  await writeRef(cache, 'main', commit)
  expect(await cachedCommit(cache, 'main')).toBe(commit)
  expect(await cachedCommit(cache, commit)).toBe(commit)
  await writeFile(join(cache.refs, 'main'), '../../../etc')
  expect(await cachedCommit(cache, 'main')).toBeNull()
})

it('needs no disk for nothing and names both figures when there is too little', async () => {
  await checkDiskSpace('/nowhere/at/all', 0)
  await checkDiskSpace(join(home, 'new'), 1)
  await expect(checkDiskSpace(home, 2 ** 52)).rejects.toThrow(
    /needs 4503599627370496 bytes and the disk of .* has \d+ available/,
  )
})

it('expands the home folder as a shell does', () => {
  expect(expandHome('~/x')).toBe(join(homedir(), 'x'))
  expect(expandHome('~')).toBe(homedir())
  expect(expandHome('~x')).toBe('~x')
  expect(expandHome('/a/~/x')).toBe('/a/~/x')
})

it('refuses an index that is none', async () => {
  const name = 'model.safetensors.index.json'
  for (const text of ['', '[]', '{}', '{"weight_map":[]}', '{"weight_map":{}}', 'null']) {
    expect(() => shardNames(name, text)).toThrow(/weight_map|names 0 shards|not valid JSON/)
  }
  for (const shard of ['a.bin', '/x.safetensors', '.x.safetensors', 'a\\b.safetensors', 7]) {
    const text = JSON.stringify({ weight_map: { t: shard } })
    expect(() => shardNames(name, text)).toThrow(/plain \.safetensors file name/)
  }
  const twice = JSON.stringify({ weight_map: { a: 'x.safetensors', b: 'x.safetensors' } })
  expect(shardNames(name, twice)).toEqual(['x.safetensors'])
  await writeFile(join(home, name), '')
  await truncate(join(home, name), INDEX_MAX_BYTES + 1)
  await expect(readIndex(join(home, name))).rejects.toThrow(/where an index of at most/)
})
