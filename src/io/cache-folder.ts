// The user's cache folder: what may be deleted at any time and is then made anew.
// Names in it, and what to do without it, are the writers' matter (src/plan/rates.ts, device/webgpu).

import { homedir } from 'node:os'
import { join } from 'node:path'

/** `$XDG_CACHE_HOME/zo2`, by default `~/.cache/zo2`. It may not exist yet. */
export const cacheFolder = () =>
  join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'zo2')
