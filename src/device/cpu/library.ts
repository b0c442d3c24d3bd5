// Which library of ONNX Runtime is loaded: the one version that results are made with, from zo2's own
// native code or, where that is missing, from the package onnxruntime-node. Owns the sentences for a
// library that is missing, of another version or refused by the system; ort.ts calls it.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../../util/errors.ts'
import { nativeFile, packageFolder } from '../../util/native-code.ts'

/** Another version's kernels may add up in another order, and a journal replays to other bits. */
export const ORT_VERSION = '1.30.0'

/** Platforms that ONNX Runtime's archive has a library for, and the library's name. */
export const ORT_LIBRARIES: Readonly<Record<string, string>> = {
  'linux-x64': 'libonnxruntime.so.1',
  'linux-arm64': 'libonnxruntime.so.1',
  'darwin-arm64': 'libonnxruntime.1.dylib',
  'win32-x64': 'onnxruntime.dll',
  'win32-arm64': 'onnxruntime.dll',
}

/** The library's place in an installed onnxruntime-node. */
export const ortPlace = (platform: string) =>
  join('bin', 'napi-v6', ...platform.split('-'), ORT_LIBRARIES[platform]!)

const INSTALL = `"npm install --ignore-scripts onnxruntime-node@${ORT_VERSION}"`

/** Where libraries are looked for; functions, so that a test can have its own. */
interface Places {
  native(name: string): string | undefined
  package(name: string): string | undefined
}

const PLACES: Places = { native: nativeFile, package: packageFolder }

/**
 * Path of the library.
 * @throws UserError if ONNX Runtime has none for the platform, or none is installed.
 */
export function ortPath(platform: string, places: Places = PLACES): string {
  const name = ORT_LIBRARIES[platform]
  if (!name) {
    throw new UserError(
      `ONNX Runtime ${ORT_VERSION} has no library for ${platform}, only for ` +
        `${Object.keys(ORT_LIBRARIES).join(', ')}: use --device webgpu`,
    )
  }
  const own = places.native(`onnxruntime/${name}`)
  if (own) return own
  const folder = places.package('onnxruntime-node')
  const path = folder && join(folder, ortPlace(platform))
  if (path && existsSync(path)) return path
  throw new UserError(
    `this installation of zo2 has no ONNX Runtime for ${platform}, which the cpu device needs: run ` +
      `${INSTALL} beside zo2 ("npm run build" in a clone of zo2), or use --device webgpu`,
  )
}

/** @throws UserError if the library is of another version. */
export function checkVersion(found: string, path: string): void {
  if (found === ORT_VERSION) return
  throw new UserError(
    `${path} is ONNX Runtime ${found}, expected ${ORT_VERSION}, with whose kernels results repeat to ` +
      `the bit: run ${INSTALL} ("npm run build" in a clone of zo2)`,
  )
}

/** What to say when the system refuses to load the library; `reason` is the system's. */
export function loadError(path: string, reason: string): UserError {
  const needs = process.platform === 'linux' ? 'it needs glibc 2.28 or newer and libstdc++; ' : ''
  return new UserError(
    `${path} cannot be loaded (${reason.trim()}): ${needs}install what is missing, or use ` +
      '--device webgpu',
  )
}
