// One run per output folder: a lock file that names its process. A lock left by a process that is
// gone (kill -9, power loss) is taken over; a living one refuses the second run.

import { randomUUID } from 'node:crypto'
import { link, readFile, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { UserError } from '../util/errors.ts'
import { asUserError } from '../io/read.ts'
import { isRunning, startOf } from '../io/processes.ts'

interface Owner {
  readonly pid: number
  readonly host: string
  /** Start of the process in clock ticks since boot (Linux), so that a reused pid is noticed. */
  readonly started: string
}

/** Takes the lock of `dir`. Returns the function that gives it back. */
export async function lockRun(dir: string): Promise<() => Promise<void>> {
  const path = join(dir, 'run.lock')
  const mine = JSON.stringify({
    pid: process.pid,
    host: hostname(),
    started: await startOf(process.pid),
  } satisfies Owner)
  try {
    await take(dir, path, mine)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_FS_EISDIR') {
      throw new UserError(`${path} is a folder, and has to be a file or absent: remove it`)
    }
    throw asUserError(error, `${dir}: cannot be written`)
  }
  return () => rm(path, { force: true })
}

/** Attempts, and the pause between two: takeovers are over within milliseconds. */
const ATTEMPTS = 100
const PAUSE_MS = 20

/** Puts the lock in place, after taking away one that nobody holds. */
async function take(dir: string, path: string, mine: string): Promise<void> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (await placed(path, mine)) return
    const owner = await readOwner(path)
    if (owner && (await alive(owner))) {
      throw new UserError(
        `${dir} is in use by another run (process ${owner.pid} on ${owner.host}); wait for it or choose another --output-dir`,
      )
    }
    if (!(await removeStale(path, owner, mine))) await setTimeout(PAUSE_MS)
  }
  throw new UserError(
    `${path}: nobody holds this lock, yet it could not be taken; remove it and every ${path}.* if no other run is starting in ${dir}`,
  )
}

/**
 * Creates `path` with `text`, or gives false if it is there already. Written whole under another
 * name, then linked: nobody ever reads half a lock. Each call links a new file, since file systems
 * in layers may lose count of the names of one that several link and remove at the same time: they
 * refuse the next link with ENOENT, which is no more than a reason to try again.
 */
async function placed(path: string, text: string): Promise<boolean> {
  const draft = `${path}.${process.pid}.${randomUUID()}`
  const refused = ({ code }: NodeJS.ErrnoException) => code === 'EEXIST' || code === 'ENOENT'
  try {
    await writeFile(draft, text, { flag: 'wx' })
    return await link(draft, path).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (refused(error)) return false
        throw error
      },
    )
  } finally {
    await rm(draft, { force: true })
  }
}

/**
 * Removes the lock of a dead owner. Of several runs that found it, one may: the first to place a
 * claim under the dead owner's name. Without that, a slow run could remove the lock that a fast one
 * has put in its place meanwhile. Returns whether it did.
 */
async function removeStale(path: string, owner: Owner | null, mine: string): Promise<boolean> {
  const claim = `${path}.${owner ? `${owner.pid}-${owner.started}` : 'torn'}.claim`
  if (!(await placed(claim, mine))) {
    const claimant = await readOwner(claim)
    // It died in the middle of this very function: its claim is void.
    if (claimant && !(await alive(claimant))) await rm(claim, { force: true })
    return false
  }
  try {
    const now = await readOwner(path)
    if (now?.pid !== owner?.pid || now?.started !== owner?.started) return false
    await rm(path, { force: true })
    return true
  } finally {
    await rm(claim, { force: true })
  }
}

async function readOwner(path: string): Promise<Owner | null> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Owner
  } catch {
    return null
  }
}

async function alive({ pid, host, started }: Owner): Promise<boolean> {
  if (host !== hostname()) return true // cannot be known from here
  return isRunning(pid, (found) => found === started)
}
