// --config FILE for the commands that run a model, and `zo2 config`, which shows what they would
// take. Precedence: defaults, then the file, then flags.

import { Command } from 'commander'
import { addOptions, configOf, type ContextOf, type Flags } from './flags.ts'
import { configYaml, readConfigFile } from '../config/file.ts'
import { OPTIONS, type OptionName } from '../config/options.ts'
import { flagName } from '../config/values.ts'
import { UserError } from '../util/errors.ts'

/** Gives a command --config; its MODEL argument, if it has one, may then come from the file. */
export function takeConfigFile(command: Command): Command {
  const [argument] = command.registeredArguments
  const needsModel = argument?.required === true && argument.name() === 'model'
  if (needsModel) argument.required = false
  return command
    .option('--config <file>', "options from a .yaml, .toml or .json file, or a run's config.json")
    .hook('preAction', (_, action) => {
      const path = action.opts<{ config?: string }>().config
      const file = path === undefined ? { values: {} } : readConfigFile(path)
      const own = action.processedArgs[0] === undefined
      if (own) action.processedArgs[0] = file.model
      if (needsModel && action.processedArgs[0] === undefined) {
        throw new UserError("missing required argument 'model'", { exitCode: 2 })
      }
      // The model of a recorded run is that of its commit, wherever a branch has gone since.
      const pinned = own && file.commit !== undefined ? { revision: file.commit } : {}
      for (const [name, value] of Object.entries({ ...file.values, ...pinned })) {
        if (action.getOptionValueSource(name) === 'cli') continue
        action.setOptionValueWithSource(name, value, 'config')
      }
    })
}

/** `zo2 config`. */
export function configCommand(contextOf: ContextOf): Command {
  const command = new Command('config')
    .description('print the configuration that flags and --config make, as a file for --config')
    .argument('[model]')
  addOptions(command, Object.keys(OPTIONS) as OptionName[])
  takeConfigFile(command)
  return command.action((model: string | undefined, flags: Flags) => {
    const { result } = contextOf(flags)
    const config = configOf(flags)
    const entries = Object.entries(config).map(([name, value]) => [flagName(name), value])
    const json = { ...(model !== undefined && { model }), ...Object.fromEntries(entries) }
    result(json, () => configYaml(model, config).trimEnd().split('\n'))
  })
}
