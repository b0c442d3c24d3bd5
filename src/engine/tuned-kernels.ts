// The matmul kernels that were measured to be the fastest, by adapter, driver and version: one small
// file in the user's cache folder. A damaged file counts as empty and is replaced; one that cannot
// be written costs only the time of measuring again.

import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { cacheFolder } from '../io/cache-folder.ts'
import type { ChoiceStore } from '../device/webgpu/device.ts'
import { VERSION } from '../util/version.ts'
import { writeTextAtomically } from '../io/atomic.ts'
import { readJsonObject } from '../io/read.ts'

const MAX_BYTES = 2 ** 20

const Choices = z.record(z.string(), z.record(z.string(), z.string()))

const path = () => join(cacheFolder(), 'kernels.json')
const keyOf = (adapterId: string) => `${VERSION}, ${adapterId}`

async function readAll(): Promise<z.output<typeof Choices>> {
  const found = Choices.safeParse(await readJsonObject(path(), MAX_BYTES).catch(() => null))
  return found.success ? found.data : {}
}

/** The store that a device is opened with. */
export const kernelChoices: ChoiceStore = {
  read: async (adapterId) => (await readAll())[keyOf(adapterId)],
  async write(adapterId, choice) {
    const all = { ...(await readAll()), [keyOf(adapterId)]: choice }
    await mkdir(cacheFolder(), { recursive: true }).catch(() => {})
    await writeTextAtomically(path(), `${JSON.stringify(all, null, 1)}\n`).catch(() => {})
  },
}
