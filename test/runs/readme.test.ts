// Every command and every program in README.md, run as they stand. The hub is a mock on this machine
// that serves the tiny OPT as facebook/opt-125m, and rows of its own as SST-2; of commands --steps is
// cut short, of programs 'zo2' is the sources, nothing else is changed.
// Alone: npx vitest run test/runs/readme.test.ts

import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cli, ROOT, TINY } from '../helpers/cli.ts'
import { startMockHub, type MockFile, type MockHub } from '../helpers/mock-hub.ts'

const readme = readFileSync(join(ROOT, 'README.md'), 'utf8')
const blocks = (language: string) =>
  [...readme.matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, 'gs'))].map((m) => m[1]!)
const commands = blocks('sh')
  .join('')
  .split('\n')
  .filter((line) => line.startsWith('npx zo2 '))

const COMMIT = 'c'.repeat(40)
let hub: MockHub
let dir: string
let env: Record<string, string>

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
  dir = mkdtempSync(join(tmpdir(), 'zo2-readme-'))
  symlinkSync(join(ROOT, 'examples'), join(dir, 'examples'))
  symlinkSync(join(ROOT, 'config'), join(dir, 'config'))
  env = { HF_ENDPOINT: hub.endpoint, HF_HOME: join(dir, 'hf') }
})

afterAll(async () => {
  await hub.close()
  rmSync(dir, { recursive: true, force: true })
})

describe('README.md', () => {
  it('shows commands to run', () => expect(commands.length).toBeGreaterThan(5))

  it.each(commands)('%s', async (line) => {
    const args = words(line.replace(/--steps \d+/, '--steps 3')).slice(2)
    if (args[0] === 'finetune') args.push('--eval-samples', '8')
    const { code, stderr } = await cli(args, { cwd: dir, env })
    expect(stderr).not.toMatch(/internal error/)
    expect(code, stderr).toBe(0)
  })

  // In the order of the page.
  it.each([
    ['a loop', 0, 'out/loop', /^(\d+\.\d+ -?\d+(\.\d+)?\n){20}$/],
    ['the trainer', 1, 'out/trainer/model', /eval_accuracy: [01]/],
    ['a task', 2, 'out/task', /eval_option_loss: \d/],
  ] as const)('has a program that runs: %s', async (_name, index, folder, output) => {
    const source = blocks('ts')[index]!.replace(
      "from 'zo2'",
      `from '${pathToFileURL(join(ROOT, 'src/index.ts')).href}'`,
    )
    const path = join(dir, `program-${index}.mts`)
    writeFileSync(path, source)
    const tsx = pathToFileURL(join(ROOT, 'node_modules/tsx/dist/loader.mjs')).href
    const { stdout } = await promisify(execFile)(process.execPath, ['--import', tsx, path], {
      cwd: dir,
      env: { ...process.env, ...env },
    })
    expect(stdout).toMatch(output)
    const file = index === 2 ? 'journal.jsonl' : 'model.safetensors'
    expect(readdirSync(join(dir, folder))).toContain(file)
  })

  it('has no other program', () => expect(blocks('ts').length).toBe(3))
})

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
