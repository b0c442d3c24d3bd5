// Holds back what native code writes to stderr while a function runs, and passes on all of it that is
// not known to be harmless. For libraries whose messages cannot be switched off. Linux only:
// elsewhere, or where the C library cannot be called, the function just runs.

import { closeSync, fstatSync, readSync } from 'node:fs'
import { fromLibc } from '../util/koffi.ts'

const STDERR = 2
const CLOSE_ON_EXEC = 1

/** Null: there is none to call. The handle is held, or koffi would unload the library. */
let libc: ReturnType<typeof openLibc> | undefined

const openLibc = () =>
  fromLibc((handle) => ({
    handle,
    duplicate: handle.func('int dup(int fd)'),
    /** Makes `to` another name of the file behind `from`. */
    redirect: handle.func('int dup2(int from, int to)'),
    /** A file in memory; -1 if there can be none. */
    memoryFile: handle.func('int memfd_create(const char *name, unsigned int flags)'),
  }))

/**
 * Runs `run` to its end, at which its native code has written what it writes; a promise that it
 * returns is not waited for. What was written comes out afterwards, without what `harmless` matches.
 * @param harmless global expressions over the whole text
 */
export function withoutChatter<T>(harmless: readonly RegExp[], run: () => T): T {
  if (libc === undefined) libc = openLibc()
  if (!libc) return run()
  const held = libc.memoryFile('stderr', CLOSE_ON_EXEC)
  const own = libc.duplicate(STDERR)
  try {
    if (held < 0 || own < 0 || libc.redirect(held, STDERR) < 0) return run()
    try {
      return run()
    } finally {
      libc.redirect(own, STDERR)
      const said = harmless.reduce((text, known) => text.replace(known, ''), textOf(held))
      if (said !== '') process.stderr.write(said)
    }
  } finally {
    for (const fd of [held, own]) if (fd >= 0) closeSync(fd)
  }
}

function textOf(fd: number): string {
  const bytes = Buffer.alloc(fstatSync(fd).size)
  readSync(fd, bytes, 0, bytes.length, 0)
  return bytes.toString()
}
