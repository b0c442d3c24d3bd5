// An option is stated once: one entry that is added to a table is a flag with its help, a key of files of
// options, Hugging Face's name, an argument of the library with its check, a part of a run's record and of
// its trajectory, and is refused where it does nothing. Nothing else in src/ names it.
// Alone: npx vitest run test/unit/option-once.test.ts

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { here, ROOT } from '../helpers/cli.ts'

vi.mock(import('../../src/config/options/output.ts'), async (original) => {
  const [{ OUTPUT_OPTIONS }, { wholeAtMost }] = [
    await original(),
    await import('../../src/config/values.ts'),
  ]
  const added = {
    group: 'output',
    value: 'n',
    help: 'an option of the test',
    schema: wholeAtMost(9),
    default: 3,
    aliases: ['name-elsewhere'],
    commands: ['finetune', 'ZOTrainer'],
    trajectory: true,
    onlyWhen: ({ method }: Readonly<Record<string, unknown>>) => method !== 'lozo',
    otherwise: 'is not for lozo: leave it out',
  }
  return { OUTPUT_OPTIONS: { ...OUTPUT_OPTIONS, addedOption: added } } as never
})

const { configYaml, readConfigFile } = await import('../../src/config/file.ts')
const { OPTION_NAMES, parseConfig, takes } = await import('../../src/config/options.ts')
const { recordedOptions, trajectoryOptions } = await import('../../src/config/record.ts')
const { flagName } = await import('../../src/config/spec.ts')
const { TrainingArguments } = await import('../../src/api/training-arguments.ts')

const home = mkdtempSync(join(tmpdir(), 'zo2-test-'))
afterAll(() => rmSync(home, { recursive: true, force: true }))

const valueIn = (config: object) => (config as { addedOption?: unknown }).addedOption

describe('one entry in a table of options', () => {
  it('is a flag with its help, in every spelling and in no other command', async () => {
    const { stdout } = await here(['finetune', '--help'])
    expect(stdout.replace(/\s+/g, ' ')).toContain(
      '--added-option <n> an option of the test (also --name-elsewhere) (default: 3)',
    )
    for (const spelled of [
      '--added-option',
      '--added_option',
      '--name-elsewhere',
      '--name_elsewhere',
    ]) {
      const { stdout: json } = await here(['config', spelled, '5', '--json'])
      expect(JSON.parse(json)).toMatchObject({ 'added-option': 5 })
    }
    const wrong = await here(['eval', 'm', '--added-option', '5'])
    expect(wrong).toMatchObject({ code: 2 })
    expect(wrong.stderr).toContain(
      '--added-option is an option of zo2 finetune, not of this command',
    )
  })

  it('is a key of files of options, and of what is written for them', () => {
    for (const [i, key] of ['addedOption', 'added_option', 'name-elsewhere'].entries()) {
      const path = join(home, `${i}.yaml`)
      writeFileSync(path, `${key}: 5\n`)
      expect(valueIn(readConfigFile(path).values)).toBe(5)
    }
    expect(configYaml('m', parseConfig({ addedOption: 5 }))).toContain('added-option: 5')
  })

  it("is an argument of the library under Hugging Face's name, checked", () => {
    const given = (own: object) => new TrainingArguments({ outputDir: home, ...own } as never)
    expect(given({ nameElsewhere: 5 })).toMatchObject({ nameElsewhere: 5 })
    expect(given({ added_option: 5 })).toMatchObject({ addedOption: 5 })
    expect(() => given({ nameElsewhere: 10 })).toThrow(
      'nameElsewhere: expected a whole number from 0 to 9, found 10',
    )
    expect(() => given({ addedOption: 1, nameElsewhere: 1 })).toThrow(/are the same option/)
    expect(() => given({ addedOptoin: 1 })).toThrow(/did you mean "added-option"/)
  })

  it("has its default, is in a run's record and decides its trajectory", () => {
    const config = parseConfig({}, 'finetune')
    expect(valueIn(config)).toBe(3)
    expect(valueIn(recordedOptions(config, 'finetune'))).toBe(3)
    expect(trajectoryOptions(config)).toContain('addedOption')
  })

  it('is refused by its own words where it does nothing', () => {
    expect(() => parseConfig({ method: 'lozo', addedOption: 5 }, 'finetune')).toThrow(
      '--added-option is not for lozo: leave it out',
    )
    expect(() => parseConfig({ addedOption: 5 }, 'bench')).toThrow(
      /is an option of finetune, ZOTrainer/,
    )
  })
})

describe('nothing but the tables', () => {
  const files = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' }).filter(
    (name) => name.endsWith('.ts') && !name.startsWith('config/'),
  )

  it("declares a flag of theirs: two of commands' own have the name of one and another meaning", () => {
    const known = new Set(OPTION_NAMES.map(flagName))
    const declared = files.flatMap((name) => {
      const text = readFileSync(join(ROOT, 'src', name), 'utf8')
      const flags = [...text.matchAll(/[oO]ption\(\s*'(?:-\w, )?--([a-z-]+)/g)].map(
        ([, flag]) => flag!,
      )
      return flags.filter((flag) => known.has(flag)).map((flag) => `${name} --${flag}`)
    })
    // A folder of data, and a branch that is written to.
    expect(declared.sort()).toEqual(['cli/prepare.ts --output-dir', 'cli/push.ts --revision'])
    for (const name of ['prepare', 'push']) {
      expect(OPTION_NAMES.some((option) => takes([name as never], option))).toBe(false)
    }
  })

  it('lists several of them', () => {
    const known = new Set<string>(OPTION_NAMES)
    const lists = files.flatMap((name) => {
      const text = readFileSync(join(ROOT, 'src', name), 'utf8')
      return [...text.matchAll(/\[((?:\s*'\w+',?){3,}\s*)\]/g)]
        .map(([, list]) => [...list!.matchAll(/'(\w+)'/g)].map(([, word]) => word!))
        .filter((words) => words.filter((word) => known.has(word)).length > 2)
        .map((words) => `${name}: ${words.join()}`)
    })
    expect(lists).toEqual([])
  })
})
