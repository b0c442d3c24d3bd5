// Where this platform's native code is: ONNX Runtime's library and Dawn, laid out by scripts/native.mjs.
// It lies in the package itself (a clone that was built, an archive packed on this platform), or in the
// package @zo2/<platform>-<arch> that a registry has. Which files there are, how they are loaded and what
// is said when one is missing is left to the devices.

import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { PACKAGE_ROOT } from './version.ts'

/** As in 'linux-x64'. */
export const PLATFORM = `${process.platform}-${process.arch}`

/** Folder of an installed package that this one can see; undefined if there is none. */
export function packageFolder(name: string): string | undefined {
  try {
    return dirname(createRequire(import.meta.url).resolve(`${name}/package.json`))
  } catch {
    return undefined
  }
}

/** Folders that may hold native code, the first is asked first; all exist. */
function nativeFolders(): string[] {
  const folders = [
    fileURLToPath(new URL(`native/${PLATFORM}`, PACKAGE_ROOT)),
    packageFolder(`@zo2/${PLATFORM}`),
  ]
  return folders.filter((folder) => folder !== undefined && existsSync(folder)) as string[]
}

/** Path of a file such as 'webgpu/index.js' in the first folder that has it; undefined if none has. */
export function nativeFile(name: string, folders = nativeFolders()): string | undefined {
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path))
}
