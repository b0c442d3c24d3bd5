// Finding the native code: which file is taken of several, and what is said when there is none.
// Alone: npx vitest run test/unit/native-code.test.ts

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import {
  checkVersion,
  ORT_LIBRARIES,
  ORT_VERSION,
  ortPath,
  loadError,
} from '../../src/device/cpu/library.ts'
import { UserError } from '../../src/util/errors.ts'
import { nativeFile, packageFolder, PLATFORM } from '../../src/util/native-code.ts'
import { PACKAGE_ROOT, VERSION } from '../../src/util/version.ts'

const home = mkdtempSync(join(tmpdir(), 'zo2-native-'))
afterAll(() => rmSync(home, { recursive: true, force: true }))

function put(...path: string[]): string {
  const file = join(home, ...path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, '')
  return file
}

const thrown = (act: () => unknown): UserError => {
  try {
    act()
  } catch (error) {
    if (error instanceof UserError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

describe('a native file', () => {
  const [first, second] = [join(home, 'first'), join(home, 'second')]
  const both = put('first', 'a/both')
  put('second', 'a/both')
  const later = put('second', 'a/later')

  it('is taken from the first folder that has it', () => {
    expect(nativeFile('a/both', [first, second])).toBe(both)
    expect(nativeFile('a/later', [first, second])).toBe(later)
  })

  it('is undefined where no folder has it', () => {
    expect(nativeFile('a/none', [first, second])).toBeUndefined()
    expect(nativeFile('a/none', [])).toBeUndefined()
  })

  it('is that of this checkout without further word', () => {
    const root = fileURLToPath(PACKAGE_ROOT)
    expect(nativeFile('webgpu/index.js')).toBe(join(root, 'native', PLATFORM, 'webgpu/index.js'))
  })
})

describe('the package itself', () => {
  it('has the version of its package.json', () => {
    const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
    expect(VERSION).toBe((JSON.parse(text) as { version: string }).version)
  })

  it('finds the folder of a package it sees, and no other', () => {
    expect(packageFolder('typescript')).toMatch(/node_modules.typescript$/)
    expect(packageFolder('@zo2/no-such-platform')).toBeUndefined()
  })
})

describe("ONNX Runtime's library", () => {
  const none = { native: () => undefined, package: () => undefined }

  it.each(Object.entries(ORT_LIBRARIES))(
    'of %s is %s, our own before any other',
    (platform, name) => {
      const asked: string[] = []
      const native = (file: string) => (asked.push(file), '/own')
      expect(ortPath(platform, { native, package: () => '/other' })).toBe('/own')
      expect(asked).toEqual([`onnxruntime/${name}`])
    },
  )

  it('is otherwise that of an installed onnxruntime-node', () => {
    const name = ORT_LIBRARIES['win32-x64']!
    const file = put('node/bin/napi-v6/win32/x64', name)
    const places = { ...none, package: (wanted: string) => join(home, wanted.split('-')[1]!) }
    expect(ortPath('win32-x64', places)).toBe(file)
  })

  it('is asked for by one sentence where there is none, or where that package lacks it', () => {
    const sentence =
      'this installation of zo2 has no ONNX Runtime for linux-arm64, which the cpu device needs: run ' +
      `"npm install --ignore-scripts onnxruntime-node@${ORT_VERSION}" beside zo2 ("npm run build" in ` +
      'a clone of zo2), or use --device webgpu'
    expect(thrown(() => ortPath('linux-arm64', none)).message).toBe(sentence)
    const empty = { ...none, package: () => join(home, 'empty') }
    expect(thrown(() => ortPath('linux-arm64', empty)).message).toBe(sentence)
  })

  it('does not exist for every platform', () => {
    expect(thrown(() => ortPath('darwin-x64', none)).message).toBe(
      `ONNX Runtime ${ORT_VERSION} has no library for darwin-x64, only for linux-x64, linux-arm64, ` +
        'darwin-arm64, win32-x64, win32-arm64: use --device webgpu',
    )
  })

  it('must be of the one version', () => {
    expect(() => checkVersion(ORT_VERSION, '/lib')).not.toThrow()
    expect(thrown(() => checkVersion('1.29.0', '/lib')).message).toMatch(
      /^\/lib is ONNX Runtime 1\.29\.0, expected 1\.30\.0, with whose kernels .*: run "npm install /,
    )
  })

  it('that is refused is named with the reason of the system', () => {
    expect(loadError('/lib', 'Failed to load: no such symbol\n').message).toMatch(
      /^\/lib cannot be loaded \(Failed to load: no such symbol\): /,
    )
  })
})
