// One downloader per blob among all processes of a machine, Python's huggingface_hub included.
// Python locks `.locks/<repo>/<blob>.lock` with flock(2) and leaves the empty file behind. Node has
// no flock, so the lock is held by a child, flock(1): Python waits for us, we wait for Python, and
// the kernel frees it whenever either dies. Where there is no flock(1) (macOS, Windows, some
// network disks) the file itself is the lock, in the format of filelock's SoftFileLock, which is
// also what Python falls back to. A lock only saves bandwidth: contents are checked by their hash.
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { hostname, uptime } from 'node:os'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

type Release = () => Promise<void>

interface LockOptions {
  readonly signal: AbortSignal
  /** Called after each 10 s of waiting. */
  readonly onWait: () => void
}

const WAIT_REPORT_MS = 10_000
const POLL_MS = 200
// A lock file is empty between its creation and its first write; older empty ones are left-overs.
const EMPTY_GRACE_MS = 2_000

/**
 * Runs `work` while holding the lock; waits for as long as another process holds it.
 * @throws the signal's reason when aborted while waiting, and whatever `work` throws.
 */
export async function withFileLock<T>(
  lockFile: string,
  options: LockOptions,
  work: () => Promise<T>,
): Promise<T> {
  await mkdir(dirname(lockFile), { recursive: true })
  const report = setInterval(options.onWait, WAIT_REPORT_MS)
  let release: Release
  try {
    release =
      (await kernelLock(lockFile, options.signal)) ?? (await softLock(lockFile, options.signal))
  } finally {
    clearInterval(report)
  }
  try {
    return await work()
  } finally {
    await release()
  }
}

/** Holds flock(2) in a child that lives as long as its standard input; null where it cannot. */
function kernelLock(lockFile: string, signal: AbortSignal): Promise<Release | null> {
  signal.throwIfAborted()
  // Own process group: Ctrl-C must not free the lock while we still flush the partial file.
  const child = spawn('flock', ['-x', lockFile, 'sh', '-c', 'echo && exec cat'], {
    stdio: ['pipe', 'pipe', 'ignore'],
    detached: true,
  })
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()))
  child.stdin.on('error', () => {}) // EPIPE of a child that is already gone
  const release = async (): Promise<void> => {
    child.stdin.end()
    await closed
  }
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      child.kill()
      child.stdin.end() // should the lock have come at this very moment
      closed.then(() => reject(signal.reason as Error), reject)
    }
    const settle = (result: Release | null): void => {
      signal.removeEventListener('abort', abort)
      resolve(result)
    }
    signal.addEventListener('abort', abort, { once: true })
    child.stdout.once('data', () => settle(release))
    child.once('error', () => settle(null))
    child.once('close', () => (signal.aborted ? undefined : settle(null)))
  })
}

/** The lock file itself is the lock: `pid\nhost\n`, created exclusively, removed on release. */
async function softLock(lockFile: string, signal: AbortSignal): Promise<Release> {
  for (;;) {
    signal.throwIfAborted()
    try {
      await writeFile(lockFile, `${process.pid}\n${hostname()}\n`, { flag: 'wx' })
      return () => rm(lockFile, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    if (await takeOverStale(lockFile)) continue
    await delay(POLL_MS, undefined, { signal }).catch(() => signal.throwIfAborted())
  }
}

/** Removes the lock file if its owner is gone; true when it is worth trying again at once. */
async function takeOverStale(lockFile: string): Promise<boolean> {
  try {
    const owner = await readFile(lockFile, 'utf8')
    if (!isStale(owner, (await stat(lockFile)).mtimeMs)) return false
    // Renamed before removal: of two processes that see the same stale lock, one gets it.
    const taken = `${lockFile}.${randomUUID()}`
    await rename(lockFile, taken)
    if ((await readFile(taken, 'utf8')) === owner) await rm(taken)
    else await rename(taken, lockFile) // a fresh lock had replaced the stale one: give it back
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return true
    throw error
  }
}

function isStale(owner: string, mtimeMs: number): boolean {
  const now = Date.now()
  if (owner === '') return now - mtimeMs > EMPTY_GRACE_MS
  const [pid = '', host] = owner.split('\n')
  if (host !== hostname()) return false
  if (mtimeMs < now - uptime() * 1000) return true // from before the machine started
  return !isAlive(Number(pid))
}

function isAlive(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
