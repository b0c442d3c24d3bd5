// Byte quantities as people write and read them: "256MiB", "4 GiB" (binary units), and how memory is aligned.
// Sizes of tensors and files are counted where these are known; here they get their form.

import { UserError } from './errors.ts'

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const

/** "252.4 MiB"; `rounding` 'up' never shows less than there is, so that it can be typed back. */
export function formatBytes(bytes: number, rounding: 'near' | 'up' = 'near'): string {
  let unit = 0
  let value = bytes
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  const digits = unit === 0 ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0
  const scale = 10 ** digits
  const shown = rounding === 'up' ? Math.ceil(value * scale) / scale : value
  return `${shown.toFixed(digits)} ${UNITS[unit]}`
}

/** Parses "256MiB", "4 GiB", "4GB" (decimal), "1048576". Throws UserError (usage) otherwise. */
export function parseBytes(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$/i.exec(text)
  if (!match) {
    throw new UserError(`"${text}" is no byte size; write for example 256MiB, 4GiB or 4GB`, {
      exitCode: 2,
    })
  }
  const power = ['', 'k', 'm', 'g', 't'].indexOf(match[2]!.toLowerCase())
  return Math.floor(Number(match[1]) * (match[3] ? 1024 : 1000) ** power)
}

/** Parts of a device's memory start at multiples of so many bytes, WebGPU's minStorageBufferOffsetAlignment. */
export const VIEW_BYTES = 256
