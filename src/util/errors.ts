// The one error class that tells a user's mistake from ours. The command line prints its message as
// one sentence and exits 1 (or 2 for wrong usage); anything else is a bug and keeps its stack.

import { printable } from './printable.ts'

/** Something the user can mend: a bad file, flag, budget or machine. One line, whatever it quotes. */
export class UserError extends Error {
  override name = 'UserError'
  /** 1 for a failed run, 2 for wrong usage. */
  readonly exitCode: 1 | 2
  constructor(message: string, options: { exitCode?: 1 | 2; cause?: unknown } = {}) {
    super(printable(message), options.cause === undefined ? undefined : { cause: options.cause })
    this.exitCode = options.exitCode ?? 1
  }
}
