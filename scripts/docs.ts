// The API reference of everything that src/index.ts exports, from the docstrings, as HTML (typedoc). Options
// get the text that --help has for them. Ends with an error where typedoc warns: a link that leads nowhere,
// or a type that the public API names and does not export.
//   npm run docs [-- folder]     by default out/api

import { resolve } from 'node:path'
import { Application, Comment, ReflectionKind } from 'typedoc'
import { OPTION_NAMES, specOf } from '../src/config/options.ts'
import { formatBytes } from '../src/util/units.ts'

/** Interfaces whose properties are options. */
const OF_OPTIONS = [
  'Config',
  'ModelOptions',
  'TaskArguments',
  'TrainingArgumentsInput',
  'TrainingArgumentsSpelled',
  'ZoOptions',
]

const camel = (name: string) =>
  name.replace(/[-_]([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())

/** What an option is for, by each of its names in camelCase. */
const HELP = new Map(
  OPTION_NAMES.flatMap((name) => {
    const { help, aliases = [], default: usual, value } = specOf(name)
    const shown = value === 'bytes' ? formatBytes(usual as number) : JSON.stringify(usual)
    const sentence = `${help.charAt(0).toUpperCase()}${help.slice(1)}.`
    const text = usual === undefined ? sentence : `${sentence} Default: ${shown}.`
    return [name, ...aliases.map(camel)].map((each) => [each, text] as const)
  }),
)

const root = resolve(import.meta.dirname, '..')
const app = await Application.bootstrapWithPlugins({
  name: 'zo2',
  entryPoints: [resolve(root, 'src/index.ts')],
  tsconfig: resolve(root, 'tsconfig.json'),
  readme: resolve(root, 'docs/api.md'),
  out: resolve(process.argv[2] ?? resolve(root, 'out/api')),
  excludePrivate: true,
  disableGit: true,
  sourceLinkTemplate: 'https://github.com/zo2/zo2/blob/main/{path}#L{line}',
  intentionallyNotExported: ['CATEGORIES'], // the list that Category is made of, and shows
  treatWarningsAsErrors: true,
})
const project = await app.convert()
if (!project) process.exit(1)

for (const reflection of project.getReflectionsByKind(ReflectionKind.Interface)) {
  if (!reflection.isDeclaration() || !OF_OPTIONS.includes(reflection.name)) continue
  for (const property of reflection.children ?? []) {
    const help = HELP.get(camel(property.name))
    if (help !== undefined) property.comment ??= new Comment([{ kind: 'text', text: help }])
  }
}
app.validate(project)
await app.generateOutputs(project)
if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exitCode = 1
