// Holds the architecture: who may import whom, as types and as values, and how long a file may be.
// Imports are read from the syntax tree of every file of src, scheduler and models.
// Alone: npx vitest run test/imports.test.ts

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path/posix'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const MAX_LINES = 350

/** The parts of the house by path; the first that fits. `root` joins them. */
const PARTS: readonly (readonly [part: string, path: RegExp])[] = [
  ['device', /^src\/device\//],
  ['noise', /^src\/noise\//],
  ['vocabulary', /^src\/weights\/d?types\.ts$/],
  ['weights', /^src\/weights\//],
  ['methods', /^src\/methods\//],
  ['data', /^src\/data\//],
  ['records', /^src\/records\//],
  ['scheduler', /^scheduler\//],
  ['models', /^models\//],
  ['utilities', /^src\/(errors|units)\.ts$/],
  ['threads', /^src\/threads\.ts$/],
  ['root', /^src\/[^/]+\.ts$/],
]

/** What a part may import beside itself: values, and further parts whose types it may name. */
const RULES: Readonly<Record<string, { values: string[]; types: string[] }>> = {
  device: { values: ['noise', 'vocabulary', 'utilities', 'threads'], types: [] },
  noise: { values: ['vocabulary'], types: [] },
  vocabulary: { values: [], types: [] },
  weights: { values: ['noise', 'vocabulary', 'utilities', 'threads'], types: ['device'] },
  methods: { values: ['noise', 'utilities'], types: ['device'] },
  data: { values: ['noise', 'weights', 'utilities'], types: [] },
  scheduler: { values: ['utilities'], types: ['device', 'vocabulary', 'weights'] },
  models: { values: ['utilities'], types: ['device'] },
  records: { values: ['root', 'weights', 'utilities'], types: ['device'] },
  utilities: { values: [], types: [] },
  threads: { values: [], types: [] },
}

interface Import {
  readonly from: string
  readonly to: string
  readonly typeOnly: boolean
}

const FILES = ['src', 'scheduler', 'models']
  .flatMap((dir) =>
    readdirSync(join(ROOT, dir), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => `${dir}/${name.replaceAll('\\', '/')}`),
  )
  .sort()

const textOf = (file: string) => readFileSync(join(ROOT, file), 'utf8')
const partOf = (file: string) => PARTS.find(([, path]) => path.test(file))![0]

/** True if nothing of the import or export is left at run time. */
function isTypeOnly(node: ts.ImportDeclaration | ts.ExportDeclaration): boolean {
  if (ts.isExportDeclaration(node)) {
    const names = node.exportClause && ts.isNamedExports(node.exportClause) && node.exportClause
    return node.isTypeOnly || (!!names && names.elements.every((e) => e.isTypeOnly))
  }
  const clause = node.importClause
  if (!clause) return false
  const { namedBindings } = clause
  const named = namedBindings && ts.isNamedImports(namedBindings) && namedBindings.elements
  return clause.isTypeOnly || (!clause.name && !!named && named.every((e) => e.isTypeOnly))
}

/** Relative imports and re-exports of a file, `import()` included. */
function importsOf(from: string): Import[] {
  const source = ts.createSourceFile(from, textOf(from), ts.ScriptTarget.Latest, false)
  const found: Import[] = []
  const note = (specifier: ts.Node | undefined, typeOnly: boolean) => {
    if (!specifier || !ts.isStringLiteral(specifier) || !specifier.text.startsWith('.')) return
    found.push({ from, to: join(dirname(from), specifier.text), typeOnly })
  }
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) {
      note(node.moduleSpecifier, isTypeOnly(node))
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      note(node.arguments[0], false)
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      note(node.argument.literal, true)
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

const IMPORTS = FILES.flatMap(importsOf)
const show = ({ from, to, typeOnly }: Import) => `${from} -> ${to}${typeOnly ? ' (types)' : ''}`

/** Imports of files that fit `target`, by others than those that fit `allowed`. */
const intruders = (target: RegExp, allowed: RegExp, alsoTypes: boolean) =>
  IMPORTS.filter((i) => target.test(i.to) && !allowed.test(i.from) && (alsoTypes || !i.typeOnly))

describe('imports', () => {
  it('are read from every part, and all lead to files that are there', () => {
    const seen = new Set(FILES.map(partOf))
    expect(PARTS.map(([part]) => part).filter((part) => !seen.has(part))).toEqual([])
    expect(IMPORTS.length).toBeGreaterThan(200)
    expect(IMPORTS.filter((i) => !FILES.includes(i.to)).map(show)).toEqual([])
    expect(IMPORTS).toContainEqual({
      from: 'src/setup.ts',
      to: 'src/device/cpu/device.ts',
      typeOnly: false,
    })
    expect(IMPORTS).toContainEqual({
      from: 'scheduler/slots.ts',
      to: 'src/device/device.ts',
      typeOnly: true,
    })
  })

  it('point one way: every part imports what the table allows', () => {
    const wrong = IMPORTS.filter(({ from, to, typeOnly }) => {
      const [part, other] = [partOf(from), partOf(to)]
      const rule = RULES[part]
      if (!rule || part === other) return false
      return !rule.values.includes(other) && !(typeOnly && rule.types.includes(other))
    })
    expect(wrong.map(show)).toEqual([])
  })

  it('of the composition root come from the commands and the public API alone', () => {
    const allowed = /^src\/(cli[a-z-]*|finetune|api|zo-trainer|plan-report|bench)\.ts$/
    expect(intruders(/^src\/setup\.ts$/, allowed, false).map(show)).toEqual([])
  })

  it('of the command line come from the command line alone', () => {
    const allowed = /^src\/(cli[a-z-]*|bin)\.ts$/
    expect(intruders(/^src\/cli[a-z-]*\.ts$/, allowed, true).map(show)).toEqual([])
  })

  it('make no circle of values', () => {
    const values = new Map(FILES.map((file) => [file, [] as string[]]))
    for (const { from, to, typeOnly } of IMPORTS) if (!typeOnly) values.get(from)!.push(to)
    const done = new Set<string>()
    const circles: string[] = []
    const visit = (file: string, path: readonly string[]): void => {
      if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(' -> '))
      if (done.has(file) || path.includes(file)) return
      for (const next of values.get(file)!) visit(next, [...path, file])
      done.add(file)
    }
    for (const file of FILES) visit(file, [])
    expect(circles).toEqual([])
  })
})

describe('files', () => {
  it(`have at most ${MAX_LINES} lines`, () => {
    const lines = (file: string) => textOf(file).split('\n').length - 1
    expect(FILES.filter((file) => lines(file) > MAX_LINES)).toEqual([])
  })
})
