// Whether a process that wrote its number down somewhere still runs. A number alone says little: a
// container gives the same ones again and again, and a killed process keeps its own until its parent
// asks for it. Used for locks and for names of temporary files.

import { readFile } from 'node:fs/promises'

/**
 * Start of a process in clock ticks since boot; empty where the system does not say (not Linux) or
 * there is no such process.
 */
export const startOf = async (pid: number): Promise<string> => (await statusOf(pid)).started

/** Whether process `pid` of this machine runs and, by `isSame` of its start, is the one meant. */
export async function isRunning(
  pid: number,
  isSame: (started: string) => boolean,
): Promise<boolean> {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
  }
  const { state, started } = await statusOf(pid)
  return isSame(started) && state !== 'Z' && state !== 'X'
}

/** Fields 3 and 22 of /proc/PID/stat; empty where there is no such file. */
async function statusOf(pid: number): Promise<{ state: string; started: string }> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  // The command name, in parentheses, may hold spaces: count fields after it.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return { state: fields[0] ?? '', started: fields[19] ?? '' }
}
