// nanoGPT's ckpt.pt in and out for `zo2 convert`: which way the two names mean, and what is reported
// of the checkpoint beside its weights. The file itself is src/checkpoint/torch/nanogpt.ts's matter.

import { join } from 'node:path'
import { readText } from '../data/whole-file.ts'
import { isObject, parseJson } from '../util/untrusted.ts'
import { readMeta } from '../data/prepared.ts'
import { UserError } from '../util/errors.ts'
import { exportNanogpt, importNanogpt } from '../checkpoint/torch/nanogpt.ts'

/** What nanoGPT itself begins with: no evaluation yet. */
const NO_LOSS = 1e9
const MAX_NOTE_BYTES = 2 ** 20

/**
 * Converts ckpt.pt -> folder or folder -> ckpt.pt; false where neither name is a .pt file.
 * @throws UserError (usage) if both are, or `dtype` is asked for
 */
export async function convertNanogpt(from: string, to: string, dtype: unknown): Promise<boolean> {
  const [imports, exports] = [from.endsWith('.pt'), to.endsWith('.pt')]
  if (!imports && !exports) return false
  if ((imports && exports) || dtype !== undefined) {
    const found = dtype === undefined ? 'two of them' : '--to'
    throw new UserError(`convert takes a ckpt.pt to a folder or back as it is; found ${found}`, {
      exitCode: 2,
    })
  }
  if (imports) await importNanogpt(from, to)
  else await exportNanogpt(from, to, await notesOf(from))
  return true
}

/** Of a ckpt-<step>/: its step and loss; of any folder: its data set, whose alphabet sample.py wants. */
async function notesOf(dir: string) {
  const path = join(dir, 'zo2.json')
  const text = await readText(path, MAX_NOTE_BYTES)
  const note = text === undefined ? {} : parseJson(text, path)
  const number = (key: string, otherwise: number) => {
    const value = isObject(note) ? note[key] : undefined
    return typeof value === 'number' ? value : otherwise
  }
  const meta = await readMeta(dir)
  return {
    iterNum: number('step', 0),
    bestValLoss: number('val_loss', NO_LOSS),
    runConfig: meta ? { dataset: meta.dataset } : {},
  }
}
