// Holds the architecture: which room may import which, what may know Node, and how long a file may be.
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

const treeOf = (file: string) =>
  ts.createSourceFile(file, textOf(file), ts.ScriptTarget.Latest, false)

/** Imports and re-exports of a file, `import()` included: of files by path, else by name. */
function importsOf(from: string): Import[] {
  const found: Import[] = []
  const note = (specifier: ts.Node | undefined, typeOnly: boolean) => {
    if (!specifier || !ts.isStringLiteral(specifier)) return
    const { text } = specifier
    found.push({ from, to: text.startsWith('.') ? join(dirname(from), text) : text, typeOnly })
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
  visit(treeOf(from))
  return found
}

const ALL_IMPORTS = FILES.flatMap(importsOf)
const isFile = ({ to }: Import) => to.endsWith('.ts')
const IMPORTS = ALL_IMPORTS.filter(isFile)
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

/** What runs in a browser too, but for the one file of each folder that holds what it needs of Node. */
const PORTABLE: Readonly<Record<string, string | null>> = {
  'src/device/webgpu/': 'src/device/webgpu/node.ts',
  'src/noise/': 'src/noise/node.ts',
  'models/': null,
}
/** Global names that Node has and a browser has not, or not always. */
const NODE_GLOBALS = ['Buffer', 'SharedArrayBuffer', 'global', 'process', 'require', 'setImmediate']

/** Files that are loaded with those of the portable folders, without going through the files for Node. */
function portableFiles(): string[] {
  const own = FILES.filter((file) => Object.keys(PORTABLE).some((dir) => file.startsWith(dir)))
  const found = new Set(own.filter((file) => !Object.values(PORTABLE).includes(file)))
  for (const file of found) {
    const next = IMPORTS.filter(({ from, typeOnly }) => from === file && !typeOnly)
    for (const { to } of next) if (!Object.values(PORTABLE).includes(to)) found.add(to)
  }
  return [...found].sort()
}

/** Names of NODE_GLOBALS that a file uses and does not declare or import itself. */
function globalsOf(file: string): string[] {
  const [used, own] = [new Set<string>(), new Set<string>()]
  const visit = (node: ts.Node, parent: ts.Node): void => {
    if (ts.isIdentifier(node)) {
      const member =
        (ts.isPropertyAccessExpression(parent) && parent.name === node) ||
        (ts.isPropertyAssignment(parent) && parent.name === node)
      const declared =
        ts.isImportSpecifier(parent) ||
        ts.isInterfaceDeclaration(parent) ||
        (ts.isVariableDeclaration(parent) && parent.name === node)
      if (declared) own.add(node.text)
      else if (!member) used.add(node.text)
    }
    ts.forEachChild(node, (child) => visit(child, node))
  }
  const tree = treeOf(file)
  ts.forEachChild(tree, (child) => visit(child, tree))
  return NODE_GLOBALS.filter((name) => used.has(name) && !own.has(name))
}

describe('the webgpu device, noise and models', () => {
  it('load nothing of Node but through one file of each folder', () => {
    const portable = portableFiles()
    expect(portable).toContain('src/device/webgpu/device.ts')
    expect(portable).toContain('src/util/dtypes.ts') // by way of the others
    const packages = ALL_IMPORTS.filter(
      (each) => portable.includes(each.from) && !isFile(each) && !each.typeOnly,
    )
    expect(packages.map(show)).toEqual([])
    // The files that may are there, and do.
    for (const file of Object.values(PORTABLE).filter((each) => each !== null)) {
      const own = ALL_IMPORTS.filter(({ from, to }) => from === file && to.startsWith('node:'))
      expect(own.length, file).toBeGreaterThan(0)
    }
  })

  it('use no global name that only Node has', () => {
    const uses = portableFiles().flatMap((file) =>
      globalsOf(file).map((name) => `${file}: ${name}`),
    )
    expect(uses).toEqual([])
    expect(globalsOf('src/device/webgpu/node.ts')).toContain('process')
  })
})

describe('files', () => {
  it(`have at most ${MAX_LINES} lines`, () => {
    const lines = (file: string) => textOf(file).split('\n').length - 1
    expect(FILES.filter((file) => lines(file) > MAX_LINES)).toEqual([])
  })
})
