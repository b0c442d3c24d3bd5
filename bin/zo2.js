#!/usr/bin/env node
// What the command `zo2` starts. In a clone it first builds dist/ when that is stale; an installed
// package has no scripts/.

import { existsSync } from 'node:fs'

const script = new URL('../scripts/dist.mjs', import.meta.url)
if (existsSync(script)) {
  const { buildDist, isFresh } = await import(script.href)
  try {
    if (!isFresh()) buildDist()
  } catch (error) {
    console.error(`error: dist/ cannot be built: ${error.message}`)
    process.exit(1)
  }
}
await import('../dist/src/cli/bin.js')
