// README.md and the pages of docs/: every `npx zo2` line of an sh block and every ts block is run, in the
// order of the pages, in this process and in one folder: a page may use what an earlier one made, and a line
// that stands on several pages runs once. The hub is a mock on this machine that serves the tiny OPT as
// facebook/opt-125m and rows of its own as SST-2. Counts of steps, batches and evaluation samples are cut;
// of programs 'zo2' is the sources; nothing else is changed. Also: links and anchors lead somewhere, every
// dependency and script is explained, and the functions that how-it-works.md names call each other.
// Alone: npx vitest run test/runs/docs.test.ts

import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, normalize } from 'node:path'
import { pathToFileURL } from 'node:url'
import { inspect } from 'node:util'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { main } from '../../src/cli/main.ts'
import { ROOT, TINY } from '../helpers/cli.ts'
import { startMockHub, type MockFile, type MockHub } from '../helpers/mock-hub.ts'

/**
 * What each page holds: `npx zo2` lines and programs that are run, other lines of sh blocks, and lines of
 * indented blocks that call zo2, scripts or packages and are not run (a token, a long time, or a file of
 * the reader's). A page without any of these is not named.
 */
const EXPECTED: Record<string, [run: number, programs: number, other: number, indented: number]> = {
  'README.md': [3, 1, 0, 2],
  'docs/api.md': [0, 3, 0, 0],
  'docs/data.md': [8, 0, 0, 1],
  'docs/install.md': [2, 0, 6, 0],
  'docs/methods.md': [2, 0, 0, 0],
  'docs/nanogpt.md': [3, 0, 0, 1],
  'docs/planning.md': [3, 0, 0, 0],
  'docs/runs.md': [8, 0, 0, 2],
  'docs/tasks.md': [2, 0, 0, 0],
}

const read = (path: string) => readFileSync(join(ROOT, path), 'utf8')
const docs = readdirSync(join(ROOT, 'docs')).filter((name) => name.endsWith('.md'))
const PAGES = ['README.md', ...docs.sort().map((name) => `docs/${name}`)]
const blocks = (page: string, language: string) =>
  [...read(page).matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map((m) => m[1]!)
const shellLines = (page: string) => blocks(page, 'sh').join('').split('\n').filter(Boolean)
const isCommand = (line: string) => line.startsWith('npx zo2 ')
const commands = [...new Set(PAGES.flatMap((page) => shellLines(page).filter(isCommand)))]
const programs = PAGES.flatMap((page) => blocks(page, 'ts').map((source) => ({ page, source })))

const COMMIT = 'c'.repeat(40)
const ENVIRONMENT = ['HF_ENDPOINT', 'HF_HOME', 'HF_TOKEN', 'XDG_CACHE_HOME'] as const
const before = { cwd: process.cwd(), env: ENVIRONMENT.map((name) => process.env[name]) }
let hub: MockHub
let dir: string

beforeAll(async () => {
  const files = Object.fromEntries(
    readdirSync(TINY)
      .filter((name) => name !== 'expected.json' && name !== 'model.safetensors')
      .map((name): [string, MockFile] => [
        name,
        { bytes: readFileSync(join(TINY, name)), lfs: name.endsWith('.bin') },
      ]),
  )
  const glue = { 'sst2/train/0000.parquet': films(50), 'sst2/validation/0000.parquet': films(20) }
  hub = await startMockHub({
    'facebook/opt-125m': { refs: { main: COMMIT }, commits: { [COMMIT]: files } },
    'nyu-mll/glue': { refs: { 'refs/convert/parquet': COMMIT }, commits: { [COMMIT]: glue } },
  })
  dir = mkdtempSync(join(tmpdir(), 'zo2-docs-'))
  for (const name of ['examples', 'config', 'test']) symlinkSync(join(ROOT, name), join(dir, name))
  process.env['HF_ENDPOINT'] = hub.endpoint
  process.env['HF_HOME'] = join(dir, 'hf')
  delete process.env['HF_TOKEN']
  process.env['XDG_CACHE_HOME'] = join(tmpdir(), 'zo2-test-cache')
  process.chdir(dir)
})

afterAll(async () => {
  process.chdir(before.cwd)
  ENVIRONMENT.forEach((name, i) => {
    if (before.env[i] === undefined) delete process.env[name]
    else process.env[name] = before.env[i]
  })
  await hub.close()
  rmSync(dir, { recursive: true, force: true })
})

describe('README.md and docs/', () => {
  it('hold as many commands and programs as are run here', () => {
    const counted = PAGES.map((page) => {
      const lines = shellLines(page)
      const own = lines.filter(isCommand).length
      const indented = [...read(page).matchAll(/^ {4}(npx|npm|bash) /gm)].length
      return [page, [own, blocks(page, 'ts').length, lines.length - own, indented]] as const
    })
    const some = counted.filter(([, counts]) => counts.some((count) => count > 0))
    expect(Object.fromEntries(some)).toEqual(EXPECTED)
  })

  it('have fences of these languages only', () => {
    const languages = PAGES.flatMap((page) =>
      [...read(page).matchAll(/^```(.*)\n[^]*?^```$/gm)].map((match) => match[1]!),
    )
    expect([...new Set(languages)].sort()).toEqual(['', 'sh', 'ts'])
  })

  it('README.md has at most 150 lines, and the two commands of a newcomer', () => {
    const lines = read('README.md').trimEnd().split('\n')
    expect(lines.length).toBeLessThanOrEqual(150)
    for (const script of ['bash scripts/quickstart.sh', 'bash scripts/test.sh']) {
      expect(lines.some((line) => line.trim().startsWith(script))).toBe(true)
    }
  })

  it.each(PAGES)('%s links to files and headings that are there', (page) => {
    const text = read(page)
    const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]!)
    for (const link of links.filter((each) => !/^[a-z]+:/.test(each))) {
      const [path, anchor] = link.split('#') as [string, string?]
      const target = path === '' ? page : normalize(join(dirname(page), path))
      expect(existsSync(join(ROOT, target)), `${page}: ${link}`).toBe(true)
      if (anchor !== undefined) expect(anchorsOf(read(target)), link).toContain(anchor)
    }
  })

  it('README.md links to every page', () => {
    for (const page of PAGES.slice(1)) expect(read('README.md')).toContain(`(${page})`)
  })

  it('docs/dependencies.md explains every dependency', () => {
    const manifest = JSON.parse(read('package.json')) as Record<string, Record<string, string>>
    const kinds = ['dependencies', 'optionalDependencies', 'peerDependencies', 'devDependencies']
    const names = kinds.flatMap((kind) => Object.keys(manifest[kind] ?? {}))
    const shown = names.map((name) => name.replace(/(koffi-)\w+-\w+/, '$1<platform>'))
    const rows = read('docs/dependencies.md').matchAll(/^\| `([^`]+)`/gm)
    const explained = new Set([...rows].map((match) => match[1]!))
    expect([...explained].sort()).toEqual([...new Set(shown)].sort())
  })

  it('scripts/README.md names every script', () => {
    const names = readdirSync(join(ROOT, 'scripts')).filter(
      (name) => !/^(README.md|__.*)$/.test(name),
    )
    const rows = read('scripts/README.md').matchAll(/^\| (`[^|]+)\|/gm)
    const named = [...rows].flatMap((row) =>
      [...row[1]!.matchAll(/`([\w.-]+)\/?`/g)].map((m) => m[1]!),
    )
    expect(named.sort()).toEqual(names.sort())
  })
})

describe('docs/how-it-works.md', () => {
  const table = [...read('docs/how-it-works.md').matchAll(/^\| (\w+) +\| +(\d) \| (`.*→.*) \|$/gm)]
  const acts = table.map(([, act, hops, calls]) => {
    const path = [...calls!.matchAll(/`(\w+)` \(([\w./-]+)\)/g)]
    return { act: act!, hops: Number(hops), path: path.map(([, name, file]) => ({ name, file })) }
  })

  it('traces six acts of a step', () => {
    const NAMES = ['forward', 'load', 'upload', 'perturb', 'update', 'fold']
    expect(acts.map(({ act }) => act)).toEqual(NAMES)
  })

  it.each(acts)('$act: each function is declared in its file and called before', (row) => {
    expect(row.path.length).toBe(row.hops)
    let caller = read('src/train/step.ts')
    for (const { name, file } of row.path) {
      expect(caller, `a call of ${name}`).toMatch(new RegExp(`\\b${name}\\(`))
      caller = read(file!)
      expect(caller, `${name} of ${file}`).toMatch(
        new RegExp(`(function\\*? ${name}\\b|^ +(async )?${name}\\(|${name}: \\(|${name} = )`, 'm'),
      )
    }
  })

  it('names files and folders that are there', () => {
    for (const page of PAGES) {
      const paths = read(page).matchAll(/(?<![\w./-])((src|scheduler|models|test)\/[\w./-]*\w)/g)
      for (const [, path] of paths)
        expect(existsSync(join(ROOT, path!)), `${page}: ${path}`).toBe(true)
    }
  })
})

describe('commands', { timeout: 600_000 }, () => {
  it.each(commands)('%s', async (line) => {
    const cut = line.replace(/--steps \d+/, '--steps 3').replace(/(--eval-samples) \d+/, '$1 8')
    const args = words(cut).slice(2)
    const evaluates = args.includes('--eval-file') || args.includes('--task')
    if (evaluates && !args.includes('--eval-samples')) args.push('--eval-samples', '8')
    if (args[0] === 'pretrain') args.push('--eval-iters', '4')
    const { code, stderr } = await inProcess(args)
    expect(stderr).not.toMatch(/internal error/)
    expect(code, stderr).toBe(0)
  })
})

// In the order of the pages; run after the commands.
describe('programs', { timeout: 600_000 }, () => {
  const kinds = [
    { leaves: 'out/readme/model.safetensors', output: /^(\d+\.\d+ -?\d+(\.\d+)?\n){3}$/ },
    { leaves: 'out/loop/model.safetensors', output: /^(\d+\.\d+ -?\d+(\.\d+)?\n){3}$/ },
    { leaves: 'out/trainer/model/model.safetensors', output: /eval_accuracy: [01]/ },
    { leaves: 'out/task/journal.jsonl', output: /eval_option_loss: \d/ },
  ]
  it.each(programs.map((program, i) => ({ ...program, ...kinds[i]!, i })))(
    '$page: $leaves',
    async ({ source, leaves, output, i }) => {
      const path = join(dir, `program-${i}.mts`)
      const index = pathToFileURL(join(ROOT, 'src/index.ts')).href
      const cut = source.replace(/(batches|maxSteps|max_steps|evalSteps|eval_steps): \d+/g, '$1: 3')
      writeFileSync(path, cut.replace("from 'zo2'", `from '${index}'`))
      const printed: string[] = []
      const log = vi.spyOn(console, 'log').mockImplementation((...values: unknown[]) => {
        printed.push(`${values.map(shown).join(' ')}\n`)
      })
      try {
        await import(/* @vite-ignore */ pathToFileURL(path).href)
      } finally {
        log.mockRestore()
      }
      expect(printed.join('')).toMatch(output)
      expect(existsSync(join(dir, leaves))).toBe(true)
    },
  )

  it('are all known', () => expect(programs.length).toBe(kinds.length))
})

/** As console.log shows a value. */
const shown = (value: unknown) => (typeof value === 'object' ? inspect(value) : String(value))

/** Runs a command line here, and takes what it prints. */
async function inProcess(args: readonly string[]): Promise<{ code: number; stderr: string }> {
  let stderr = ''
  const out = vi.spyOn(process.stdout, 'write').mockImplementation(() => true)
  const err = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    stderr += String(text)
    return true
  })
  try {
    return { code: await main(args), stderr }
  } finally {
    out.mockRestore()
    err.mockRestore()
  }
}

/** Anchors of the headings, as GitHub makes them. */
function anchorsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map((match) =>
    match[1]!
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replace(/ /g, '-'),
  )
}

/** A shard of SST-2's schema. */
function films(count: number): MockFile {
  const rows = Array.from({ length: count }, (_, i) => i)
  const columnData = [
    { name: 'sentence', data: rows.map((i) => `film ${i} is ${i % 2 ? 'fine' : 'dull'} `) },
    { name: 'label', data: rows.map((i) => BigInt(i % 2)) },
  ]
  return { lfs: true, bytes: Buffer.from(parquetWriteBuffer({ columnData })) }
}

/** Words of a shell line with single quotes. */
function words(line: string): string[] {
  return [...line.matchAll(/'([^']*)'|(\S+)/g)].map((m) => m[1] ?? m[2]!)
}
