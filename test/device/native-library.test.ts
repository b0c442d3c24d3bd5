// The cpu device opens the one version of ONNX Runtime, from wherever an installation has it; a library
// that is missing, damaged or of another version is one sentence. Installations are made in a temporary
// folder: the compiled program, and links to its dependencies.
// Alone: npx vitest run test/device/native-library.test.ts

import { execFile } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { openCpu } from '../../src/device/cpu/device.ts'
import { ORT_LIBRARIES, ORT_VERSION, ortPath, ortPlace } from '../../src/device/cpu/library.ts'
import { PLATFORM } from '../../src/util/native-code.ts'
import { compiled, ROOT } from '../helpers/compiled.ts'

const home = mkdtempSync(join(tmpdir(), 'zo2-library-'))
afterAll(() => rmSync(home, { recursive: true, force: true }))

const NAME = ORT_LIBRARIES[PLATFORM]!
const library = ortPath(PLATFORM)

/** An installation without native code, as app/node_modules/zo2; what it is given is left to `fill`. */
function install(name: string, fill: (zo2: string, modules: string) => void): string {
  const modules = join(home, name, 'node_modules')
  const zo2 = join(modules, 'zo2')
  const from = dirname(compiled())
  mkdirSync(zo2, { recursive: true })
  cpSync(join(from, 'dist'), join(zo2, 'dist'), { recursive: true })
  cpSync(join(from, 'package.json'), join(zo2, 'package.json'))
  for (const dependency of Object.keys(dependencies())) link(modules, dependency)
  fill(zo2, modules)
  return join(zo2, 'dist/src/cli/bin.js')
}

function dependencies(): Record<string, string> {
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>
  }
  return { ...manifest.dependencies, [`@koromix/koffi-${PLATFORM}`]: '' }
}

function link(modules: string, name: string): void {
  mkdirSync(dirname(join(modules, name)), { recursive: true })
  symlinkSync(join(ROOT, 'node_modules', name), join(modules, name))
}

function put(file: string, content: string | Buffer): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, content)
}

/** `zo2 bench`, the smallest thing that opens the cpu device and nothing else. */
const run = (bin: string) =>
  new Promise<{ code: unknown; stdout: string; stderr: string }>((resolve) => {
    const args = [bin, 'bench', '--synthetic', 'opt-125m', '--layers', '1', '--device', 'cpu']
    const small = ['--batch-size', '1', '--max-length', '4', '--steps', '1', '--json']
    execFile(process.execPath, [...args, ...small], (error, stdout, stderr) => {
      resolve({ code: error ? error.code : 0, stdout, stderr })
    })
  })

describe('the cpu device', () => {
  it('says the version of the library it opened', async () => {
    const device = await openCpu()
    expect(device.info.detail).toContain(`ONNX Runtime ${ORT_VERSION}`)
    await device.close()
  })

  it('opens the library of the package itself', async () => {
    const bin = install('own', (zo2) => {
      cpSync(library, join(zo2, 'native', PLATFORM, 'onnxruntime', NAME))
    })
    expect(await run(bin)).toMatchObject({ code: 0 })
  })

  it('opens the library of the package for the platform', async () => {
    const bin = install('platform', (_, modules) => {
      const folder = join(modules, '@zo2', PLATFORM)
      put(join(folder, 'package.json'), '{}')
      cpSync(library, join(folder, 'onnxruntime', NAME))
    })
    expect(await run(bin)).toMatchObject({ code: 0 })
  })

  it('opens the library of onnxruntime-node', async () => {
    const bin = install('node', (_, modules) => {
      const folder = join(modules, 'onnxruntime-node')
      put(join(folder, 'package.json'), '{}')
      cpSync(library, join(folder, ortPlace(PLATFORM)))
    })
    expect(await run(bin)).toMatchObject({ code: 0 })
  })

  it('says what to install where there is none', async () => {
    const { code, stderr } = await run(install('none', () => {}))
    expect(code).toBe(1)
    expect(stderr).toContain(`this installation of zo2 has no ONNX Runtime for ${PLATFORM}`)
    expect(stderr.trim().split('\n')).toHaveLength(1)
  })

  it('refuses a library of another version', async () => {
    const other = readFileSync(library)
    for (let at = 0; (at = other.indexOf(ORT_VERSION, at)) >= 0;) other.write('1.29.7', at)
    const bin = install('other', (zo2) => {
      put(join(zo2, 'native', PLATFORM, 'onnxruntime', NAME), other)
    })
    const { code, stderr } = await run(bin)
    expect(code).toBe(1)
    expect(stderr).toContain(`${basename(NAME)} is ONNX Runtime 1.29.7, expected ${ORT_VERSION}`)
  })

  it('says why a library cannot be loaded', async () => {
    const bin = install('damaged', (zo2) => {
      put(join(zo2, 'native', PLATFORM, 'onnxruntime', NAME), 'not a library')
    })
    const { code, stderr } = await run(bin)
    expect(code).toBe(1)
    expect(stderr).toMatch(/cannot be loaded \(.+\): .*use --device webgpu/)
    expect(stderr.trim().split('\n')).toHaveLength(1)
  })

  it("says so where koffi's package for the platform is missing", async () => {
    const bin = install('koffi', (zo2, modules) => {
      cpSync(library, join(zo2, 'native', PLATFORM, 'onnxruntime', NAME))
      rmSync(join(modules, '@koromix'), { recursive: true })
    })
    const { code, stderr } = await run(bin)
    expect(code).toBe(1)
    expect(stderr).toContain(`the package @koromix/koffi-${PLATFORM}, which the cpu device needs`)
  })
})
