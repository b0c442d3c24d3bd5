// Builds what a clone runs and what is packed: dist/ and native/. With --if-stale dist/ only if a source
// is newer than the last build of it. npm ci and npm install of a clone start this as the script
// `dependencies`: `prepare`, the usual one, would also be run by npx, which hides what it prints, and
// would count as an install script where the packed archive is installed.
//   node scripts/build.mjs [--if-stale]

import { buildDist, isFresh } from './dist.mjs'

try {
  if (!process.argv.includes('--if-stale') || !isFresh()) buildDist()
  // Reads dist/, which is there now.
  const { layOutHere } = await import('./native.mjs')
  layOutHere()
} catch (error) {
  console.error(`error: ${error.message}`)
  process.exitCode = 1
}
