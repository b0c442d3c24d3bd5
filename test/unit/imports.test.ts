// Holds the architecture: which room may import which, and how long a file may be.
// Imports are read from the syntax tree of every file of src, scheduler and models.
// Alone: npx vitest run test/unit/imports.test.ts

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path/posix'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const MAX_LINES = 350

/** The rooms by floor, the lowest first. A room imports rooms of lower floors only, types included. */
const FLOORS: readonly (readonly string[])[] = [
  ['util'],
  ['io', 'noise', 'hub'],
  ['device', 'checkpoint'],
  ['scheduler', 'models', 'methods', 'data', 'weights'],
  ['config'],
  ['run'],
  ['records'],
  ['engine'],
  ['generate', 'export'],
  ['train'],
  ['api', 'plan'],
  ['cli', 'index'],
]

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
/** `src/index.ts` alone stands at the top of src/: a room of its own. */
const roomOf = (file: string) => {
  const [top, room = ''] = file.split('/')
  return top !== 'src' ? top! : room.replace(/\.ts$/, '')
}
const floorOf = (file: string) => FLOORS.findIndex((rooms) => rooms.includes(roomOf(file)))

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

describe('imports', () => {
  it('are read from every room, and all lead to files that are there', () => {
    expect([...new Set(FILES.map(roomOf))].sort()).toEqual(FLOORS.flat().sort())
    expect(IMPORTS.length).toBeGreaterThan(200)
    expect(IMPORTS.filter((i) => !FILES.includes(i.to)).map(show)).toEqual([])
    expect(IMPORTS).toContainEqual({
      from: 'src/engine/open.ts',
      to: 'src/device/cpu/device.ts',
      typeOnly: false,
    })
    expect(IMPORTS).toContainEqual({
      from: 'scheduler/slots.ts',
      to: 'src/device/device.ts',
      typeOnly: true,
    })
  })

  it('lead to lower floors only', () => {
    const wrong = IMPORTS.filter(
      ({ from, to }) => roomOf(from) !== roomOf(to) && floorOf(to) >= floorOf(from),
    )
    expect(wrong.map(show)).toEqual([])
  })

  it('make no circle, of types neither', () => {
    const targets = new Map(FILES.map((file) => [file, [] as string[]]))
    for (const { from, to } of IMPORTS) targets.get(from)!.push(to)
    const done = new Set<string>()
    const circles: string[] = []
    const visit = (file: string, path: readonly string[]): void => {
      if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(' -> '))
      if (done.has(file) || path.includes(file)) return
      for (const next of targets.get(file)!) visit(next, [...path, file])
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
