// Which options go together: what the table says of each, and the few rules that depend on values. An
// option that would do nothing is refused.

import { TASKS } from '../data/tasks/index.ts'
import { UserError } from '../util/errors.ts'
import { flag, type Command, type OptionSpec, type Values } from './spec.ts'

interface Together {
  /** Of all options, defaults included. */
  readonly values: Values
  readonly specs: Readonly<Record<string, OptionSpec>>
  /** Whose options they are; none: those of all. */
  readonly commands: readonly Command[]
  /** Whether an option is other than its default. */
  readonly isGiven: (name: string) => boolean
}

/** @throws UserError (usage) for options that exclude each other, or would do nothing */
export function checkTogether(together: Together): void {
  const { specs, isGiven, values, commands } = together
  for (const name of Object.keys(specs).filter(isGiven)) {
    const { methods, needs = [], excludes = [], because, onlyWhen, otherwise } = specs[name]!
    const method = String(values['method'])
    if (methods && !methods.includes(method)) {
      refuse(`${flag(name)} is for ${methods.join(', ')}; found --method ${method}: leave it out`)
    }
    for (const need of needs) checkNeed(together, name, [need].flat())
    if (onlyWhen && !onlyWhen(values, commands)) refuse(`${flag(name)} ${otherwise}`)
    const other = excludes.find(isGiven)
    if (other === undefined) continue
    refuse(
      `${flag(name)} and ${flag(other)} exclude each other${because === undefined ? '' : ` (${because})`}: leave one out`,
    )
  }
  checkValues(values)
}

/** One of the options must be there, if the command has any of them. */
function checkNeed({ specs, commands, isGiven }: Together, name: string, anyOf: string[]): void {
  const has = (need: string) =>
    commands.length === 0 || specs[need]!.commands.some((command) => commands.includes(command))
  const known = anyOf.filter(has)
  if (known.length === 0 || known.some(isGiven)) return
  const flags = known.map(flag)
  const list = flags.length > 1 ? `${flags.slice(0, -1).join(', ')} or ${flags.at(-1)}` : flags[0]
  refuse(`${flag(name)} needs ${list} beside it`)
}

/** Rules about values, not about which options are there. */
function checkValues(values: Values): void {
  const { estimator, directions, sfc, iclSfc } = values
  if (estimator === 'one-sided' && (directions as number) < 2) {
    refuse('--estimator one-sided needs --directions of at least 2: it divides by their spread')
  }
  const task = TASKS.get(String(values['task']))
  if ((sfc === true || iclSfc === true) && task?.kind === 'generation') {
    refuse(`--task ${task.name} is answered by generation, which has no scores to calibrate`)
  }
}

function refuse(text: string): never {
  throw new UserError(text, { exitCode: 2 })
}
