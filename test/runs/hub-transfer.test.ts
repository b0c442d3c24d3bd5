// Transfers that go wrong: cut, stalled, damaged or refused halfway, killed, or run twice at once.
// What must hold: no byte is fetched again that is already here, nothing damaged gets a name, one
// process downloads and the others wait.
// Alone: npx vitest run test/runs/hub-transfer.test.ts

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { resolveModel } from '../../src/hub/resolve.ts'
import { withFileLock } from '../../src/hub/lock.ts'
import { type Fault, gitOid, type MockHub, sha256, startMockHub } from '../helpers/mock-hub.ts'

// The pauses between attempts (12 s before giving up) pass 20 times faster here.
vi.mock('node:timers/promises', async (original) => {
  const real = await original<typeof import('node:timers/promises')>()
  const setTimeout: typeof real.setTimeout = (ms = 0, value, rest) =>
    real.setTimeout(ms / 20, value, rest)
  return { ...real, setTimeout }
})

const COMMIT = 'a'.repeat(40)
const WEIGHTS = 'model.safetensors'
const weights = Buffer.from(
  Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 7 + (i >> 9)) % 256),
)
const config = Buffer.from('{"model_type":"opt"}')

let hub: MockHub
let home: string
let log: string[]
/** Bytes of the weights that the client has. */
let doneBytes: number

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'zo2-hub-'))
  log = []
  doneBytes = 0
  const files = { 'config.json': { bytes: config }, [WEIGHTS]: { bytes: weights, lfs: true } }
  hub = await startMockHub({ 'o/m': { refs: { main: COMMIT }, commits: { [COMMIT]: files } } })
  vi.stubEnv('HF_ENDPOINT', hub.endpoint)
  vi.stubEnv('HF_HUB_CACHE', home)
  vi.stubEnv('HF_HUB_OFFLINE', undefined)
  vi.stubEnv('HF_TOKEN', 'hf_x')
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await hub.close()
  await rm(home, { recursive: true, force: true })
})

const blob = (): string => join(home, 'models--o--m', 'blobs', sha256(weights))
const partial = (): string => `${blob()}.incomplete`
const lockFile = (): string => join(home, '.locks', 'models--o--m', `${sha256(weights)}.lock`)
const script = (...faults: Fault[]): void => void hub.faults.set(WEIGHTS, faults)
const options = {
  log: (line: string) => void log.push(line),
  onProgress: (p: { file: string; doneBytes: number }) => {
    if (p.file === WEIGHTS) doneBytes = p.doneBytes
  },
}

/** Sends some bytes, waits until the client has `total` in all, and breaks the connection. */
const drop = (afterBytes: number, total: number): Fault => ({
  kind: 'drop',
  afterBytes,
  when: () => doneBytes === total,
})

async function expectWhole(): Promise<void> {
  expect((await readFile(blob())).equals(weights)).toBe(true)
  expect(existsSync(partial())).toBe(false)
}

describe('a broken connection', () => {
  it('is taken up where it broke, without a byte twice', async () => {
    script(drop(1_000_000, 1_000_000), drop(700_000, 1_700_000))
    await resolveModel('o/m', options)
    await expectWhole()
    expect(hub.served.get(WEIGHTS)).toBe(weights.length)
    const ranges = hub.transfers(WEIGHTS).map(({ range }) => range)
    expect(ranges).toEqual([undefined, 'bytes=1000000-', 'bytes=1700000-'])
    expect(log).toHaveLength(2)
    expect(log[0]).toMatch(/model\.safetensors: .* at 1000000 of 3000000 bytes, attempt 1/)
  })

  it('starts over with a server that knows no ranges', async () => {
    script(drop(1_000_000, 1_000_000), { kind: 'ignore-range' })
    await resolveModel('o/m', options)
    await expectWhole()
  })

  it('is given up after several failures without news, and the next call continues', async () => {
    script(...[2_000_000, 0, 0, 0, 0].map((bytes) => drop(bytes, 2_000_000)))
    await expect(resolveModel('o/m', options)).rejects.toThrow(
      /2000000 of 3000000 bytes, 5 times in a row: .* continues from there/,
    )
    expect(hub.transfers(WEIGHTS)).toHaveLength(5)
    await resolveModel('o/m', options)
    await expectWhole()
    expect(hub.served.get(WEIGHTS)).toBe(weights.length)
  })

  it('waits for a busy server, for content and for questions', async () => {
    script({ kind: 'status', status: 503 }, { kind: 'status', status: 429 })
    hub.faults.set('api', [{ kind: 'status', status: 502 }])
    await resolveModel('o/m', options)
    await expectWhole()
    expect(hub.transfers(WEIGHTS)).toHaveLength(3)
  })

  it('that only stalls is cut and taken up again', async () => {
    const real = globalThis.setTimeout
    const spy = vi.spyOn(globalThis, 'setTimeout')
    spy.mockImplementation(((run: () => void, ms: number) =>
      real(run, ms === 30_000 ? 300 : ms)) as typeof setTimeout)
    script({ kind: 'hang', afterBytes: 1_000_000 })
    await resolveModel('o/m', options).finally(() => spy.mockRestore())
    await expectWhole()
    expect(hub.transfers(WEIGHTS).map(({ range }) => range)).toEqual([undefined, 'bytes=1000000-'])
    expect(log[0]).toMatch(/nothing came for 30000 ms at 1000000/)
  })

  it('asks the hub again when the storage host refuses an old address', async () => {
    script({ kind: 'status', status: 403 })
    await resolveModel('o/m', options)
    await expectWhole()
  })
})

describe('damaged content', () => {
  it.each<[string, Fault[], RegExp]>([
    ['flipped bits', [{ kind: 'corrupt' }], /arrived damaged \(its sha256 differs/],
    ['a short file', [{ kind: 'short', bytes: 9 }], /it has 9 bytes and 3000000 were listed/],
    [
      'a short file, seen by range',
      [drop(5, 5), { kind: 'short', bytes: 9 }],
      /it has 9 bytes and 3000000 were listed/,
    ],
  ])('%s: the partial file is deleted and the next call succeeds', async (_, faults, message) => {
    script(...faults)
    await expect(resolveModel('o/m', options)).rejects.toThrow(message)
    expect(existsSync(partial())).toBe(false)
    expect(existsSync(blob())).toBe(false)
    await resolveModel('o/m', options)
    await expectWhole()
  })

  it('is found in small files by their git name', async () => {
    hub.faults.set('config.json', [{ kind: 'corrupt' }])
    await expect(resolveModel('o/m', options)).rejects.toThrow(/config\.json .* git-sha1 differs/)
    expect(hub.transfers(WEIGHTS)).toHaveLength(0)
  })

  it('left by an earlier attempt is found too', async () => {
    await mkdir(join(home, 'models--o--m', 'blobs'), { recursive: true })
    await writeFile(partial(), Buffer.alloc(1000, 1))
    await expect(resolveModel('o/m', options)).rejects.toThrow(/arrived damaged.*run the command/)
    expect(existsSync(partial())).toBe(false)
  })

  it('in a partial file longer than the whole is overwritten', async () => {
    await mkdir(join(home, 'models--o--m', 'blobs'), { recursive: true })
    await writeFile(partial(), Buffer.alloc(weights.length + 1))
    await resolveModel('o/m', options)
    await expectWhole()
  })

  it('a whole partial file needs no request', async () => {
    await mkdir(join(home, 'models--o--m', 'blobs'), { recursive: true })
    await writeFile(partial(), weights)
    await resolveModel('o/m', options)
    await expectWhole()
    expect(hub.transfers(WEIGHTS)).toHaveLength(0)
  })
})

describe('stopping', () => {
  it('by signal leaves a partial file that the next call continues', async () => {
    script({ kind: 'hang', afterBytes: 1_500_000 })
    const controller = new AbortController()
    const onProgress = ({ doneBytes }: { doneBytes: number }): void => {
      if (doneBytes === 1_500_000) controller.abort(new Error('stop'))
    }
    const signal = controller.signal
    await expect(resolveModel('o/m', { onProgress, signal })).rejects.toThrow('stop')
    expect((await stat(partial())).size).toBe(1_500_000)
    const starts: number[] = []
    await resolveModel('o/m', {
      onProgress: ({ file, doneBytes }) => void (file === WEIGHTS && starts.push(doneBytes)),
    })
    await expectWhole()
    expect(starts[0]).toBe(1_500_000)
    expect(hub.served.get(WEIGHTS)).toBe(weights.length)
  })

  it('by kill -9 frees the lock and loses nothing', async () => {
    script({ kind: 'hang', afterBytes: 1_500_000 })
    const child = download()
    while ((await stat(partial()).catch(() => null))?.size !== 1_500_000) await delay(400) // 20 ms
    child.kill('SIGKILL')
    await resolveModel('o/m', options)
    await expectWhole()
    expect(hub.served.get(WEIGHTS)).toBe(weights.length)
  })
})

/** Another process that resolves the same model. */
function download(): ChildProcess {
  const source = new URL('../../src/hub/resolve.ts', import.meta.url)
  const code = `import { resolveModel } from '${source.href}'\nawait resolveModel('o/m')`
  const flags = ['--import', 'tsx', '--input-type=module', '-e', code]
  return spawn(process.execPath, flags, { stdio: ['ignore', 'inherit', 'inherit'] })
}

const exitCode = (child: ChildProcess): Promise<number | null> =>
  new Promise((resolve) => child.once('close', resolve))

describe('two at once', () => {
  it('tasks download once', async () => {
    script({ kind: 'slow', waitMs: 300 })
    const results = await Promise.all([resolveModel('o/m'), resolveModel('o/m')])
    expect(results[0].dir).toBe(results[1].dir)
    expect(results.map(({ source }) => source)).toContain('hub')
    await expectWhole()
    expect(hub.transfers(WEIGHTS)).toHaveLength(1)
  })

  it('processes download once', async () => {
    script({ kind: 'slow', waitMs: 1500 })
    expect(await Promise.all([exitCode(download()), exitCode(download())])).toEqual([0, 0])
    await expectWhole()
    expect(hub.transfers(WEIGHTS)).toHaveLength(1)
  })
})

// With flock(1) hidden, the file itself is the lock, as on systems that have none.
describe.each(['flock', 'soft'])('the %s lock', (kind) => {
  const idle = { signal: new AbortController().signal, onWait: () => {} }
  const lock = (): string => join(home, 'x.lock')
  const hideFlock = (): void => void (kind === 'soft' && vi.stubEnv('PATH', join(home, 'nothing')))

  it('lets one in at a time', async () => {
    hideFlock()
    let inside = 0
    const most: number[] = []
    const work = async (): Promise<void> => {
      most.push(++inside)
      await delay(600) // 30 ms
      inside--
    }
    await Promise.all([1, 2, 3].map(() => withFileLock(lock(), idle, work)))
    expect(most).toEqual([1, 1, 1])
  })

  it('ends its wait when aborted, and is free after a failure', async () => {
    hideFlock()
    const controller = new AbortController()
    const waits = { signal: controller.signal, onWait: () => {} }
    await withFileLock(lock(), idle, async () => {
      const second = withFileLock(lock(), waits, () => Promise.resolve())
      setTimeout(() => controller.abort(new Error('enough')), 50)
      await expect(second).rejects.toThrow('enough')
    })
    const failing = withFileLock(lock(), idle, () => Promise.reject(new Error('broken')))
    await expect(failing).rejects.toThrow('broken')
    expect(await withFileLock(lock(), idle, () => Promise.resolve('in'))).toBe('in')
  })

  it('takes over what dead processes and Python left behind', async () => {
    hideFlock()
    const dead = spawnSync(process.execPath, ['-e', '']).pid
    await writeFile(lock(), `${dead}\n${hostname()}\n`)
    expect(await withFileLock(lock(), idle, () => Promise.resolve('in'))).toBe('in')
    await writeFile(lock(), '') // flock(2) users leave the empty file
    expect(await withFileLock(lock(), idle, () => Promise.resolve('in'))).toBe('in')
  })
})

// flock(1) belongs to every Linux; elsewhere Python's lock cannot be seen.
it.runIf(process.platform === 'linux')(
  'waits for a process that holds flock(2) on the lock file, as Python does',
  async () => {
    await mkdir(join(home, '.locks', 'models--o--m'), { recursive: true })
    const holder = spawn('flock', ['-x', lockFile(), 'sh', '-c', 'echo; exec sleep 1'])
    const held = exitCode(holder)
    await new Promise((resolve) => holder.stdout.once('data', resolve))
    const started = Date.now()
    await resolveModel('o/m')
    expect(Date.now() - started).toBeGreaterThan(800)
    await held
    await expectWhole()
  },
)

it('names blobs as git and LFS do', async () => {
  await resolveModel('o/m')
  const names = await readdir(join(home, 'models--o--m', 'blobs'))
  // `printf '{"model_type":"opt"}' | git hash-object --stdin`
  expect(gitOid(config)).toBe('1e0ce4491a95272ec96f7c7ba8a3214afc860965')
  expect(names.sort()).toEqual(
    [gitOid(config), createHash('sha256').update(weights).digest('hex')].sort(),
  )
})
