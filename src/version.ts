// The package's version, from its own package.json (two folders up in dist/, one in a checkout).

import { readFileSync } from 'node:fs'

const here = new URL(import.meta.url.endsWith('.ts') ? '../' : '../../', import.meta.url)

export const VERSION = (
  JSON.parse(readFileSync(new URL('package.json', here), 'utf8')) as { version: string }
).version
