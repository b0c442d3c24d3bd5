// dist/: what src, scheduler and models are compiled to, with the WebAssembly module; when it is stale,
// and how it is built. Used by build.mjs and by the command of a clone (bin/zo2.js), whose stdout is not
// ours: everything is said on stderr.

import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const BIN = join(ROOT, 'dist/src/cli/bin.js')
const FOLDERS = ['src', 'scheduler', 'models']
const FILES = ['package.json', 'tsconfig.json', 'tsconfig.build.json', 'asconfig.json']

function run(script, ...args) {
  const command = [join(ROOT, script), ...args]
  if (!existsSync(command[0])) throw new Error(`${script} is missing: run npm ci`)
  const { status } = spawnSync(process.execPath, command, { cwd: ROOT, stdio: ['ignore', 2, 2] })
  if (status !== 0) throw new Error(`${script} failed`)
}

/** True if no source, and no folder of sources, has changed since dist/ was last built. */
export function isFresh() {
  if (!existsSync(BIN)) return false
  const inside = (folder) =>
    readdirSync(join(ROOT, folder), { recursive: true }).map((name) => join(folder, name))
  const sources = [...FILES, ...FOLDERS, ...FOLDERS.flatMap(inside)]
  const built = statSync(BIN).mtimeMs
  return sources.every((name) => statSync(join(ROOT, name)).mtimeMs <= built)
}

/** Exchanges dist/ as a whole: a build that fails leaves the old one, which stays stale. */
export function buildDist() {
  console.error('building dist/, which takes half a minute ...')
  const asc = 'node_modules/assemblyscript/bin/asc.js'
  run(asc, 'src/noise/noise.as.ts', '--config', 'asconfig.json')
  const start = new Date()
  const draft = join(ROOT, 'out', `dist-${process.pid}`)
  try {
    run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', '--outDir', draft)
    copyFileSync(join(ROOT, 'src/noise/noise.wasm'), join(draft, 'src/noise/noise.wasm'))
    const bin = join(draft, 'src/cli/bin.js')
    chmodSync(bin, 0o755)
    utimesSync(bin, start, start) // what changes while it builds is newer
    rmSync(join(ROOT, 'dist'), { recursive: true, force: true })
    renameSync(draft, join(ROOT, 'dist'))
  } finally {
    rmSync(draft, { recursive: true, force: true })
  }
}
