// The package's version, from its own package.json (three folders up in dist/, two in a checkout).
// Nothing else knows where the package's own folder lies.

import { readFileSync } from 'node:fs'

/** The folder of package.json. */
export const PACKAGE_ROOT = new URL(
  import.meta.url.endsWith('.ts') ? '../../' : '../../../',
  import.meta.url,
)

export const VERSION = (
  JSON.parse(readFileSync(new URL('package.json', PACKAGE_ROOT), 'utf8')) as { version: string }
).version
