// Nothing of Dawn's own in front of what a command prints: not its notes about limits, not that there is
// no driver. A driver's real faults stay.
// Alone: npx vitest run test/runs/quiet.test.ts

import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { withoutChatter } from '../../src/io/stderr.ts'
import { TEST_ADAPTER } from '../helpers/adapter.ts'
import { cli, makeFolder, TINY } from '../helpers/cli.ts'

const home = makeFolder()
afterAll(() => rmSync(home, { recursive: true, force: true }))

/** A driver, or where there is none, for Vulkan loaders old and new. */
const driver = (path: string) => ({ VK_DRIVER_FILES: path, VK_ICD_FILENAMES: path })

describe('stderr', () => {
  it.each([
    ['the drivers of this machine', {}],
    ['no driver', driver('/nonexistent')],
  ])('is empty after zo2 env with %s', async (_name, env) => {
    const { code, stdout, stderr } = await cli(['env'], { env })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/webgpu {6}\S/)
  })

  it('is empty after a command that uses an adapter', async () => {
    const prompt = ['--prompt', 'To be', '--max-new-tokens', '2', '--quiet']
    const { code, stderr } = await cli(['generate', TINY, ...prompt, '--adapter', TEST_ADAPTER])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  })

  it('has the fault of a driver that cannot be loaded', async () => {
    const path = join(home, 'driver.json')
    const ICD = { library_path: '/nonexistent/driver.so', api_version: '1.3.0' }
    writeFileSync(path, JSON.stringify({ file_format_version: '1.0.0', ICD }))
    const { code, stderr } = await cli(['env'], { env: driver(path) })
    expect(stderr).toContain('/nonexistent/driver.so')
    expect(stderr).not.toContain('INCOMPATIBLE_DRIVER')
    expect(code).toBe(0)
  })
})

describe('withoutChatter', () => {
  it('gives what the function gives, and throws what it throws', () => {
    expect(withoutChatter([], () => 7)).toBe(7)
    const fails = () => {
      throw new Error('inside')
    }
    expect(() => withoutChatter([], fails)).toThrow('inside')
  })
})
