// Resolving a model through a hub and its cache: what is asked for, what lies on disk afterwards,
// when the network is not used, and what a refusal says. Broken transfers: hub-transfer.test.ts.
// Alone: npx vitest run test/runs/hub.test.ts

import { existsSync } from 'node:fs'
import {
  mkdir,
  mkdtemp,
  readFile,
  readlink,
  realpath,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { UserError } from '../../src/util/errors.ts'
import { resolveModel } from '../../src/hub/resolve.ts'
import { MAIN, PULL, opt, REPOS } from '../helpers/hub-repos.ts'
import { blobName, type MockHub, startMockHub } from '../helpers/mock-hub.ts'

let hub: MockHub
let home: string

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'zo2-hub-'))
  hub = await startMockHub(REPOS)
  vi.stubEnv('HF_ENDPOINT', `${hub.endpoint}/`)
  vi.stubEnv('HF_HOME', home)
  for (const name of ['HF_TOKEN', 'HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_HUB_OFFLINE']) {
    vi.stubEnv(name, undefined)
  }
  vi.stubEnv('HF_TOKEN_PATH', undefined)
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await hub.close()
  await rm(home, { recursive: true, force: true })
})

const repoDir = (id = 'org/opt'): string => join(home, 'hub', `models--${id.replace('/', '--')}`)

describe('a fresh download', () => {
  it('lays out the cache as Python does and takes only what is needed', async () => {
    const seen: string[] = []
    const result = await resolveModel('org/opt', {
      onProgress: ({ file, doneBytes, totalBytes }) => {
        if (doneBytes === totalBytes) seen.push(file)
      },
    })
    const dir = join(repoDir(), 'snapshots', MAIN)
    expect(result).toEqual({ dir, commit: MAIN, source: 'hub' })
    const wanted = ['config.json', 'vocab.json', 'merges.txt', 'pytorch_model.bin']
    for (const name of wanted) {
      const file = opt.commits[MAIN]![name]!
      expect(await readlink(join(dir, name))).toBe(`../../blobs/${blobName(file)}`)
      expect(await readFile(join(dir, name))).toEqual(file.bytes)
      expect(seen).toContain(name)
    }
    expect(await readFile(join(repoDir(), 'refs', 'main'), 'utf8')).toBe(MAIN)
    expect([...hub.served.keys()].sort()).toEqual([...wanted].sort())
  })

  it('asks for no content the second time', async () => {
    await resolveModel('org/opt')
    const before = new Map(hub.served)
    const again = await resolveModel('org/opt')
    expect(again.source).toBe('cache')
    expect(hub.served).toEqual(before)
    expect(hub.transfers('pytorch_model.bin')).toHaveLength(1)
  })

  it('prefers safetensors, at a pull request, and shares blobs between commits', async () => {
    await resolveModel('org/opt')
    const { dir } = await resolveModel('org/opt', { revision: 'refs/pr/35' })
    expect(existsSync(join(dir, 'model.safetensors'))).toBe(true)
    expect(existsSync(join(dir, 'pytorch_model.bin'))).toBe(false)
    expect(hub.transfers('config.json')).toHaveLength(1)
    expect(await readFile(join(repoDir(), 'refs', 'refs/pr/35'), 'utf8')).toBe(PULL)
  })

  it('takes exactly the shards that the index names', async () => {
    const { dir } = await resolveModel('org/opt', { revision: 'sharded' })
    expect(existsSync(join(dir, 'pytorch_model-00001.bin'))).toBe(true)
    expect(existsSync(join(dir, 'pytorch_model-00002.bin'))).toBe(true)
    expect(hub.transfers('pytorch_model-00003.bin')).toHaveLength(0)
  })

  it('leaves the weights alone when only the configuration is wanted', async () => {
    const { dir } = await resolveModel('org/opt', { revision: 'sharded', include: 'config' })
    expect(existsSync(join(dir, 'pytorch_model.bin.index.json'))).toBe(true)
    expect(hub.transfers('pytorch_model-00001.bin')).toHaveLength(0)
  })

  it('writes nothing on stdout', async () => {
    const write = vi.spyOn(process.stdout, 'write')
    const debug = vi.spyOn(console, 'debug')
    await resolveModel('org/opt')
    expect(write).not.toHaveBeenCalled()
    expect(debug).not.toHaveBeenCalled()
    vi.restoreAllMocks()
  })
})

describe('local models', () => {
  it('are taken as they are, by folder or by weights file', async () => {
    await writeFile(join(home, 'model.safetensors'), '')
    expect(await resolveModel(home)).toEqual({ dir: home, commit: null, source: 'local' })
    const byFile = await resolveModel(join(home, 'model.safetensors'))
    expect(byFile.dir).toBe(home)
    expect(hub.requests).toHaveLength(0)
  })

  it.each(['./missing/folder/x', 'opt', '../x', 'a/b/c', 'a--b/c', 'org/../x', '-o/x', 'o/x.git'])(
    'and hub ids are told apart: %s is neither',
    async (model) => {
      await expect(resolveModel(model)).rejects.toThrow(/neither an existing folder nor a hub id/)
      expect(hub.requests).toHaveLength(0)
    },
  )

  it('refuses revisions that would leave the cache', async () => {
    for (const revision of ['../../x', '/etc', 'a//b', 'a\\b', '']) {
      await expect(resolveModel('org/opt', { revision })).rejects.toThrow(/revision/)
    }
  })
})

/** A cache as huggingface_hub leaves it, by hand. */
async function pythonCache(weights: boolean): Promise<string> {
  const root = repoDir()
  const dir = join(root, 'snapshots', MAIN)
  await mkdir(join(root, 'blobs'), { recursive: true })
  await mkdir(join(root, 'refs'), { recursive: true })
  await mkdir(dir, { recursive: true })
  await writeFile(join(root, 'refs', 'main'), MAIN)
  for (const name of ['config.json', 'vocab.json', 'merges.txt', 'pytorch_model.bin']) {
    const file = opt.commits[MAIN]![name]!
    const blob = blobName(file)
    // Without `weights` the link dangles, as an interrupted download may leave it.
    if (weights || name !== 'pytorch_model.bin') {
      await writeFile(join(root, 'blobs', blob), file.bytes)
    }
    await symlink(`../../blobs/${blob}`, join(dir, name))
  }
  return dir
}

describe('a cache that Python wrote', () => {
  it('is used offline without any request', async () => {
    const dir = await pythonCache(true)
    vi.stubEnv('HF_HUB_OFFLINE', '1')
    expect(await resolveModel('org/opt')).toEqual({ dir, commit: MAIN, source: 'cache' })
    expect((await resolveModel('org/opt', { revision: MAIN })).dir).toBe(dir)
    expect(hub.requests).toHaveLength(0)
  })

  it('is used online without a transfer', async () => {
    const dir = await pythonCache(true)
    expect(await resolveModel('org/opt')).toEqual({ dir, commit: MAIN, source: 'cache' })
    expect(hub.served.size).toBe(0)
  })

  it('serves when the hub is out of reach, and one line says so', async () => {
    const dir = await pythonCache(true)
    await hub.close()
    const log = vi.fn()
    expect((await resolveModel('org/opt', { log })).dir).toBe(dir)
    expect(log).toHaveBeenCalledTimes(1)
    expect(log.mock.calls[0]![0]).toMatch(
      /^Using the copy of org\/opt in the cache: .*ECONNREFUSED/,
    )
  })

  it('serves when the hub refuses what it once gave, and one line says so', async () => {
    const dir = await pythonCache(true)
    vi.stubEnv('HF_ENDPOINT', `${hub.endpoint}/moved`)
    const log = vi.fn()
    expect((await resolveModel('org/opt', { log })).dir).toBe(dir)
    expect(log.mock.calls).toEqual([[expect.stringMatching(/^Using the copy of org\/opt .*401/)]])
  })

  it('does not count as complete with a dangling link, and is then completed', async () => {
    await pythonCache(false)
    vi.stubEnv('HF_HUB_OFFLINE', '1')
    await expect(resolveModel('org/opt')).rejects.toThrow(/HF_HUB_OFFLINE is set and .*models--org/)
    expect((await resolveModel('org/opt', { include: 'config' })).source).toBe('cache')
    vi.stubEnv('HF_HUB_OFFLINE', '0')
    const { dir, source } = await resolveModel('org/opt')
    expect(source).toBe('hub')
    const weights = opt.commits[MAIN]!['pytorch_model.bin']!
    expect(await readFile(join(dir, 'pytorch_model.bin'))).toEqual(weights.bytes)
    expect(hub.served.get('config.json')).toBeUndefined()
  })

  it('is looked for where the environment says', async () => {
    vi.stubEnv('HF_HUB_CACHE', join(home, 'elsewhere'))
    const { dir } = await resolveModel('org/opt', { include: 'config' })
    expect(dir.startsWith(join(home, 'elsewhere', 'models--org--opt'))).toBe(true)
    const given = await resolveModel('org/opt', { include: 'config', cacheDir: join(home, 'g') })
    expect(given.dir.startsWith(join(home, 'g'))).toBe(true)
  })
})

describe('tokens', () => {
  it('go to the endpoint only, whatever they look like', async () => {
    vi.stubEnv('HF_TOKEN', 'mirror-token')
    const { dir } = await resolveModel('org/private')
    const weights = await readFile(await realpath(join(dir, 'pytorch_model.bin')))
    expect(weights.length).toBe(300_000)
    for (const { host, authorization } of hub.requests) {
      expect(authorization).toBe(host === 'hub' ? 'Bearer mirror-token' : undefined)
    }
    expect(hub.requests.some(({ host }) => host === 'storage')).toBe(true)
  })

  it('are read from the token file', async () => {
    await writeFile(join(home, 'token'), 'mirror-token\n')
    expect((await resolveModel('org/private', { include: 'config' })).commit).toBe(MAIN)
  })

  it('that are no token are refused without being shown', async () => {
    vi.stubEnv('HF_TOKEN', 'se\ncret')
    const error = await resolveModel('org/opt').catch((e: Error) => e)
    expect(error).toBeInstanceOf(UserError)
    expect((error as Error).message).not.toMatch(/cret/)
  })
})

describe('refusals say what to do', () => {
  it.each([
    ['org/gated', undefined, /gated: accept its licence at .*org\/gated and set HF_TOKEN/],
    ['org/gated', 'hf_other', /gated: accept its licence/],
    ['org/private', undefined, /no such model, or it is private.*HF_TOKEN/],
    ['org/private', 'hf_other', /token in use is invalid or may not read it/],
    ['org/none', 'hf_x', /no folder 'org\/none' here and nothing of that name on the hub/],
    ['org/evil', undefined, /names the shard "\.\.\/\.\.\/x\.safetensors"/],
    [
      'org/lora',
      undefined,
      /^org\/lora at 'main' is a PEFT adapter and no whole model: give its base/,
    ],
    ['org/vast', undefined, /needs 4503599627370496 bytes and the disk of .* has \d+ available/],
  ])('%s with token %s', async (model, token, message) => {
    vi.stubEnv('HF_TOKEN', token)
    const error = await resolveModel(model).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(UserError)
    expect((error as UserError).message).toMatch(message)
  })

  it('for revisions, endpoints and repositories without weights', async () => {
    await expect(resolveModel('org/opt', { revision: 'v9' })).rejects.toThrow(/no such revision/)
    await expect(resolveModel('org/opt', { revision: 'flax' })).rejects.toThrow(
      /neither model.safetensors nor pytorch_model.bin/,
    )
    vi.stubEnv('HF_ENDPOINT', 'ftp://x')
    await expect(resolveModel('org/opt')).rejects.toThrow(/HF_ENDPOINT should be an http/)
  })

  it('when the cache cannot be written', async () => {
    await writeFile(join(home, 'file'), '')
    const cacheDir = join(home, 'file')
    await expect(resolveModel('org/opt', { cacheDir })).rejects.toThrow(/cannot be written/)
  })
})
