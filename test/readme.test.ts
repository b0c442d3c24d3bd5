// Every command and the program in README.md, run as they stand. The hub is a mock on this machine
// that serves the tiny OPT as facebook/opt-125m; --steps is cut short, nothing else is changed.
// Alone: npx vitest run test/readme.test.ts

import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cli, ROOT, TINY } from './helpers/cli.ts'
import { startMockHub, type MockFile, type MockHub } from './helpers/mock-hub.ts'

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
  hub = await startMockHub({
    'facebook/opt-125m': { refs: { main: COMMIT }, commits: { [COMMIT]: files } },
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

  it('has a program that runs', async () => {
    const [program] = blocks('ts')
    const batches = `const batches = [{ inputIds: [[2, 9, 8]], labels: [[-100, 9, 8]] }]\n`
    const source = program!.replace("from 'zo2'", `from '${pathToFileURL(join(ROOT, 'src/index.ts')).href}'`) // prettier-ignore
    const report =
      '\nif (!(scores.tokens === 2 && logits!.length > 0)) throw new Error("no scores")\n'
    const path = join(dir, 'program.mts')
    writeFileSync(path, source.replace('\n\n', `\n\n${batches}`) + report)
    const tsx = pathToFileURL(join(ROOT, 'node_modules/tsx/dist/loader.mjs')).href
    await promisify(execFile)(process.execPath, ['--import', tsx, path], {
      cwd: dir,
      env: { ...process.env, ...env },
    })
    expect(readdirSync(join(dir, 'out/model'))).toContain('model.safetensors')
  })
})

/** Words of a shell line with single quotes. */
function words(line: string): string[] {
  return [...line.matchAll(/'([^']*)'|(\S+)/g)].map((m) => m[1] ?? m[2]!)
}
