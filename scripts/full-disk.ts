// A full disk at every write: for each command that writes, and each n, a start whose n-th write and
// all later ones find no room; then, where this machine may mount one, whole runs on file systems of
// every size. Each must end with one sentence, nothing half-written, and go on to the same files once
// there is room. Prints one line per kind of write; exit code 1 if anything was wrong.
//
//   npx tsx scripts/full-disk.ts [part of a command's name] [file for the report]

import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cli, makeFolder } from '../test/helpers/cli.ts'
import { twoAtATime } from '../test/helpers/crash.ts'
import {
  fullFrom,
  goesOn,
  problemsOf,
  undisturbed,
  type Undisturbed,
} from '../test/helpers/full-disk.ts'
import { writingCommands } from '../test/helpers/full-disk-commands.ts'

const [only = '', reportPath] = process.argv.slice(2)
const home = makeFolder()
const lines: string[] = []
const say = (line: string) => {
  lines.push(line)
  process.stdout.write(`${line}\n`)
}
let [tried, faults] = [0, 0]
const bad = (where: string, problems: readonly string[]) => {
  tried++
  if (problems.length === 0) return
  faults++
  for (const problem of problems) say(`WRONG  ${where}: ${problem.replaceAll(home, '')}`)
}

/** A file's name without what is drawn or counted. */
const kindOf = (path: string) =>
  path
    .replace(/[0-9a-f]{12,}/g, '*')
    .replace(/\d+[-.\d]*[0-9a-f-]{20,}/, '*')
    .replace(/\d+/g, 'N')

/** Every write of a command in turn. */
async function everyWrite(room: Undisturbed): Promise<void> {
  const kinds = new Map<string, { count: number; sentence: string }>()
  await twoAtATime(room.writes.length, async (i) => {
    const { write, sentence, problems } = await fullFrom(i + 1, room, home)
    bad(`${room.command.name}, write ${i + 1} (${write?.what} ${write?.path})`, problems)
    const kind = write ? `${write.what} ${kindOf(write.path)}` : 'not reached'
    const known = kinds.get(kind)
    const example = sentence.replaceAll(join(home, `full-${i + 1}`), 'DIR')
    kinds.set(kind, { count: (known?.count ?? 0) + 1, sentence: known?.sentence ?? example })
  })
  say(`\n${room.command.name}: ${room.writes.length} writes`)
  for (const [kind, { count, sentence }] of kinds) {
    say(`  ${String(count).padStart(4)}  ${kind.padEnd(60)}  ${sentence}`)
  }
}

const KiB = 2 ** 10
/** Of file systems: page by page where the small files are, then through weights and overlay. */
const SIZES = [
  ...Array.from({ length: 16 }, (_, i) => 8 * KiB + i * 8 * KiB),
  ...Array.from({ length: 36 }, (_, i) => 512 * KiB + i * 640 * KiB),
]

/** Whole runs on file systems of these sizes, which then grow. */
async function everySize({ command, files }: Undisturbed): Promise<void> {
  const ends = new Map<string, number>()
  for (const size of SIZES) {
    const mount = join(home, `disk-${size}`)
    const dir = join(mount, 'run')
    mkdirSync(mount)
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', mount])
    try {
      const ended = await cli(command.args(dir))
      const failed = ended.code !== 0
      const sentence = failed ? ended.stderr.trimEnd().split('\n').at(-1)! : 'room enough'
      const problems = failed ? problemsOf(ended, dir, files) : []
      execFileSync('mount', ['-o', 'remount,size=1g', mount])
      problems.push(...(await goesOn(command, dir, files)))
      bad(`${command.name} on ${size / KiB} KiB`, problems)
      const end = kindOf(sentence.replaceAll(dir, 'DIR'))
      ends.set(end, (ends.get(end) ?? 0) + 1)
    } finally {
      execFileSync('umount', [mount])
    }
  }
  say(`\n${command.name} on file systems of ${SIZES.length} sizes`)
  for (const [sentence, count] of ends) say(`  ${String(count).padStart(4)}  ${sentence}`)
}

function mayMount(): boolean {
  const probe = join(home, 'probe')
  mkdirSync(probe)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', probe], { stdio: 'ignore' })
    execFileSync('umount', [probe])
    return true
  } catch {
    return false
  }
}

try {
  const commands = (await writingCommands(home)).filter(({ name }) => name.includes(only))
  const mounts = mayMount()
  if (!mounts) say('no file systems can be mounted here: only failing writes')
  for (const command of commands) {
    const room = await undisturbed(command, home)
    await everyWrite(room)
    if (mounts && command.resumes) await everySize(room)
  }
  say(`\n${tried} full disks, ${faults} of them with something wrong`)
  if (reportPath) writeFileSync(reportPath, lines.join('\n') + '\n')
} finally {
  rmSync(home, { recursive: true, force: true })
}
process.exitCode = faults > 0 ? 1 : 0
