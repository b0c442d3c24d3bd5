// The eleven tasks of MeZO and LOZO by name.
// What each asks is in the files beside this one, how it is encoded in encode.ts.

import { DROP, SQUAD } from './answering.ts'
import { COPA, RECORD } from './choices.ts'
import { BOOLQ, CB, MULTIRC, RTE, SST2, WIC, WSC } from './classification.ts'
import type { Task } from './types.ts'

const ALL = [SST2, RTE, CB, BOOLQ, WSC, WIC, MULTIRC, COPA, RECORD, SQUAD, DROP]

export const TASKS: ReadonlyMap<string, Task> = new Map(ALL.map((task) => [task.name, task]))
