// The command that shows what flags and --config files come to: config.
// Parsing and checks are src/config's.

import { Command } from 'commander'
import { configYaml } from '../config/file.ts'
import { OPTION_NAMES, parseConfig } from '../config/options.ts'
import { flagName } from '../config/spec.ts'
import { addNamed, givenIn, type ContextOf, type Flags } from './flags.ts'

export function configCommand(contextOf: ContextOf): Command {
  const command = new Command('config')
    .description('print the configuration that flags and --config make, as a file for --config')
    .argument('[model]')
  addNamed(command, OPTION_NAMES, [])
  return command.action((model: string | undefined, flags: Flags) => {
    const { result } = contextOf(flags)
    const config = parseConfig(givenIn(flags))
    const entries = Object.entries(config).map(([name, value]) => [flagName(name), value])
    const json = { ...(model !== undefined && { model }), ...Object.fromEntries(entries) }
    result(json, () => configYaml(model, config).trimEnd().split('\n'))
  })
}
