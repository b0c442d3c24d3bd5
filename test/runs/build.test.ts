// When dist/ is built anew, and what the command of a clone says and does then: scripts/dist.mjs and
// bin/zo2.js in a small clone of their own, whose compilers are stand-ins.
// Alone: npx vitest run test/runs/build.test.ts

import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeEach, describe, expect, it } from 'vitest'

const checkout = fileURLToPath(new URL('../..', import.meta.url))
const root = mkdtempSync(join(tmpdir(), 'zo2-build-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const CONFIGURATION = ['package.json', 'tsconfig.json', 'tsconfig.build.json', 'asconfig.json']
const SOURCES = [
  'src/a/deep.ts',
  'src/a/other.ts',
  'scheduler/b.ts',
  'models/c.ts',
  ...CONFIGURATION,
]
const SCRIPTS = ['scripts/dist.mjs', 'bin/zo2.js']
const BIN = 'dist/src/cli/bin.js'
const ASC = 'node_modules/assemblyscript/bin/asc.js'
const TSC = 'node_modules/typescript/bin/tsc'
const [BEFORE, BUILT, AFTER] = [1_000, 2_000, 3_000]

const touch = (name: string, seconds: number) => utimesSync(join(root, name), seconds, seconds)

function put(name: string, text: string): void {
  mkdirSync(dirname(join(root, name)), { recursive: true })
  writeFileSync(join(root, name), text)
}

/** All that is there was last changed before the build. */
beforeEach(() => {
  rmSync(root, { recursive: true, force: true })
  for (const name of [...SOURCES, 'README.md']) put(name, '')
  put('package.json', '{ "type": "module" }')
  put('src/noise/noise.wasm', '')
  put(BIN, "console.log('old')")
  put('node_modules/package.json', '{ "type": "commonjs" }')
  put(ASC, '')
  put(
    TSC,
    `const { mkdirSync, writeFileSync } = require('node:fs')
     const out = process.argv[process.argv.indexOf('--outDir') + 1] + '/src/'
     for (const part of ['cli', 'noise']) mkdirSync(out + part, { recursive: true })
     writeFileSync(out + 'cli/bin.js', "console.log('new', ...process.argv.slice(2))")`,
  )
  for (const name of SCRIPTS) {
    put(name, '')
    copyFileSync(join(checkout, name), join(root, name))
  }
  for (const name of readdirSync(root, { recursive: true, encoding: 'utf8' })) touch(name, BEFORE)
  touch(BIN, BUILT)
})

const node = (...args: string[]) =>
  spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' })

/** Whether scripts/dist.mjs finds dist/ fresh. */
function fresh(): boolean {
  const program = "import { isFresh } from './scripts/dist.mjs'; console.log(isFresh())"
  const { stdout, stderr } = node('--input-type=module', '--eval', program)
  if (!/^(true|false)\n$/.test(stdout)) throw new Error(stdout + stderr)
  return stdout === 'true\n'
}

const zo2 = () => {
  const { status, stdout, stderr } = node('bin/zo2.js', 'argument')
  return { status, stdout, stderr }
}

describe('dist/', () => {
  it('is fresh while nothing changed, a file that is not compiled aside', () => {
    expect(fresh()).toBe(true)
    touch('README.md', AFTER)
    expect(fresh()).toBe(true)
  })

  it.each(SOURCES)('is stale once %s is newer', (name) => {
    touch(name, AFTER)
    expect(fresh()).toBe(false)
  })

  it('is stale once a source is gone', () => {
    rmSync(join(root, 'src/a/other.ts'))
    expect(fresh()).toBe(false)
  })

  it('is stale when it is not there', () => {
    rmSync(join(root, 'dist'), { recursive: true })
    expect(fresh()).toBe(false)
  })
})

const SAID = 'building dist/, which takes half a minute ...\n'

describe('the command zo2 in a clone', () => {
  it('starts what is fresh, without a word', () => {
    expect(zo2()).toEqual({ status: 0, stdout: 'old\n', stderr: '' })
  })

  it('builds what is stale once, and says so on stderr', () => {
    put('dist/src/gone.js', '')
    touch('src/a/deep.ts', AFTER)
    expect(zo2()).toEqual({ status: 0, stdout: 'new argument\n', stderr: SAID })
    expect(existsSync(join(root, 'dist/src/gone.js'))).toBe(false)
    expect(existsSync(join(root, 'dist/src/noise/noise.wasm'))).toBe(true)
    expect(zo2()).toEqual({ status: 0, stdout: 'new argument\n', stderr: '' })
    expect(readdirSync(join(root, 'out'))).toEqual([])
  })

  it('leaves the old dist/, stale, when a build fails half way', () => {
    put(TSC, `${readFileSync(join(root, TSC), 'utf8')}\nprocess.exit(2)`)
    touch('src/a/deep.ts', AFTER)
    const stderr = `${SAID}error: dist/ cannot be built: ${TSC} failed\n`
    for (let i = 0; i < 2; i++) expect(zo2()).toEqual({ status: 1, stdout: '', stderr })
    expect(readFileSync(join(root, BIN), 'utf8')).toContain('old')
    expect(readdirSync(join(root, 'out'))).toEqual([])
  })

  it('says what to run where no packages are installed', () => {
    rmSync(join(root, 'node_modules'), { recursive: true })
    rmSync(join(root, 'dist'), { recursive: true })
    const stderr = `${SAID}error: dist/ cannot be built: ${ASC} is missing: run npm ci\n`
    expect(zo2()).toEqual({ status: 1, stdout: '', stderr })
  })

  it('of an installed package, which has no scripts, builds nothing', () => {
    rmSync(join(root, 'scripts'), { recursive: true })
    touch('package.json', AFTER)
    expect(zo2()).toEqual({ status: 0, stdout: 'old\n', stderr: '' })
  })
})
