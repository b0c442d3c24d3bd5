// method name -> method.
// The rules are in the files that it imports; method.ts says what a method is.

import { UserError } from '../util/errors.ts'
import { kronzo, kronzoM } from './kronzo.ts'
import { lozo, lozoM } from './lozo.ts'
import type { Method } from './method.ts'
import { mezoSgd } from './mezo-sgd.ts'

const METHODS: Readonly<Record<string, Method>> = Object.fromEntries(
  [mezoSgd, lozo, lozoM, kronzo, kronzoM].map((method) => [method.name, method]),
)

export const METHOD_NAMES = Object.keys(METHODS)

/** @throws UserError (usage) for a name that no method has */
export function createMethod(name: string): Method {
  const method = Object.hasOwn(METHODS, name) ? METHODS[name] : undefined
  if (!method) {
    throw new UserError(`--method "${name}" is not known; known: ${METHOD_NAMES.join(', ')}`, {
      exitCode: 2,
    })
  }
  return method
}
