// The initial values of a prefix: keys and values that the untrained model makes of random tokens, as
// MeZO's prefix_init_by_real_act. They depend on the device's roundings, so a run keeps them in a file of
// its folder, beside the journal. What a prefix is to the model is models/prefix.ts.

import { join } from 'node:path'
import { prefixName, type PrefixPart } from '../../models/prefix.ts'
import type { Engine } from './engine.ts'
import { UserError } from '../util/errors.ts'
import { quote } from '../util/untrusted.ts'
import type { Selection } from '../methods/selection.ts'
import { noiseKey, threefry2x32 } from '../noise/threefry.ts'
import { packTexts } from '../data/packing.ts'
import { upTo } from '../device/packed.ts'
import { forward, passOver, shapeOfPass } from './forward.ts'
import { readSafetensorsHeader, writeSafetensors } from '../checkpoint/safetensors.ts'
import type { Checkpoint } from '../checkpoint/types.ts'

/** In a run's folder. */
export const PREFIX_FILE = 'prefix.safetensors'

const isPrefix = (name: string) => name.startsWith('prefix.')

/** Nothing of the checkpoint trains; the prefix does, in the layers where `base` lets it. */
export const prefixSelection = (base: Selection): Selection => ({
  trains: isPrefix,
  active: (step, name) => isPrefix(name) && base.active(step, name),
})

/** Writes the initial prefix of n tokens drawn by `seed` to `path`; `engine` has the weights as they are. */
export async function writePrefix(engine: Engine, n: number, seed: number, path: string) {
  const { device, model } = engine
  const { k0, k1 } = noiseKey(seed, 0, 'prefix', 'init')
  const tokens = Array.from(
    { length: n },
    (_, i) => threefry2x32(k0, k1, i, 0)[0] % model.vocabSize,
  )
  const wanted = { kind: 'logits', rows: Uint32Array.of(n - 1), sink: () => {} } as const
  const text = packTexts([{ inputIds: tokens, labels: [] }], { whole: true })
  const cached = { capacity: n, places: upTo(n), begins: true }
  const pass = { ...passOver(model, text, wanted), cached }
  await forward(engine, pass, null)
  const { cache } = engine.workingSet(shapeOfPass(model, pass, 1))
  const tensors = Array.from({ length: model.layers }, (_, layer) => [
    { layer, part: 'keys' as PrefixPart, tensor: cache!.keys[layer]! },
    { layer, part: 'values' as PrefixPart, tensor: cache!.values[layer]! },
  ]).flat()
  const keyCols = model.attention.kvHeads * model.attention.headSize
  const specs = tensors.map(({ layer, part }) => {
    return { name: prefixName(layer, part), dtype: 'F32' as const, shape: [n * keyCols] }
  })
  await writeSafetensors(path, { tensors: specs }, async (index, sink) => {
    const { buffer, byteOffset, byteLength } = await device.read(tensors[index]!.tensor, 0, n)
    await sink.write(new Uint8Array(buffer, byteOffset, byteLength))
  })
}

/** The checkpoint with the prefix of the run in `dir`. UserError if there is none, or it is damaged. */
export async function withPrefixFile(base: Checkpoint, dir: string): Promise<Checkpoint> {
  const path = join(dir, PREFIX_FILE)
  const { tensors } = await readSafetensorsHeader(path)
  const other = tensors.find(({ name, dtype }) => !isPrefix(name) || dtype !== 'F32')
  if (other)
    throw new UserError(
      `${path}: expected a prefix in f32, found ${quote(other.name)} in ${other.dtype}; the file is damaged`,
    )
  const all = new Map(base.tensors)
  for (const tensor of tensors) all.set(tensor.name, tensor)
  return { ...base, tensors: all }
}
