// The current sources compiled to JavaScript, once per content, into node_modules/.cache, whole or not at
// all: for processes and threads of tests, which then start without a compiler.

import { createHash, randomBytes } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
export const ROOT = fileURLToPath(new URL('../../', import.meta.url))

/** Programs of tests that import TypeScript. */
const PROGRAMS = ['full-disk-run', 'leftovers'].map((name) => `test/helpers/${name}.ts`)

let made: string | undefined

/** Path of dist/ made from the sources as they are now. */
export const compiled = (): string => (made ??= makeCompiled())

function makeCompiled(): string {
  const files = sources()
  const { version } = require('typescript/package.json') as { version: string }
  const hash = createHash('sha256').update(version).update(ROOT)
  for (const file of files) hash.update(file).update(readFileSync(join(ROOT, file)))
  const cache = join(ROOT, 'node_modules/.cache')
  const home = join(cache, `zo2-cli-${hash.digest('hex').slice(0, 16)}`)
  if (!existsSync(home)) {
    const draft = `${home}.${randomBytes(4).toString('hex')}.tmp`
    // Only where it is used: it takes longer to read than most tests to run.
    const ts = require('typescript') as typeof import('typescript')
    for (const file of files) compile(ts, file, draft)
    symlinkSync(join(ROOT, 'native'), join(draft, 'native'))
    try {
      renameSync(draft, home)
    } catch (error) {
      // Another test process was first: its result has the same content.
      if (!existsSync(home)) throw error
      rmSync(draft, { recursive: true })
    }
  }
  return join(home, 'dist')
}

function sources(): string[] {
  const found = ['src', 'scheduler', 'models'].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => /\.(ts|wasm)$/.test(name) && !name.endsWith('.as.ts'))
      .map((name) => join(folder, name)),
  )
  return [...found.sort(), ...PROGRAMS, 'package.json']
}

/** As tsconfig.build.json compiles it, without the type check, which `npm run check` makes. */
function compile(ts: typeof import('typescript'), file: string, home: string): void {
  const isSource = file.endsWith('.ts')
  const place = file === 'package.json' ? file : join('dist', file.replace(/\.ts$/, '.js'))
  const target = join(home, place)
  mkdirSync(dirname(target), { recursive: true })
  if (!isSource) return copyFileSync(join(ROOT, file), target)
  const { outputText } = ts.transpileModule(readFileSync(join(ROOT, file), 'utf8'), {
    fileName: file,
    compilerOptions: {
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      rewriteRelativeImportExtensions: true,
    },
  })
  writeFileSync(target, outputText)
}
