// navigator.gpu for libraries that are made for browsers: npm `webgpu` on the named adapter, and
// the same slower polling as the project's own device has on a software adapter.

import { create, globals } from 'webgpu'
import { throttlePolling } from '../../../src/device/webgpu/node.ts'

/** Puts WebGPU's globals in place; the objects live as long as the process. */
export function provideNavigator(adapter) {
  Object.assign(globalThis, globals)
  const gpu = create([`adapter=${adapter}`])
  const value = { gpu, userAgent: 'node', platform: process.platform, language: 'en' }
  Object.defineProperty(globalThis, 'navigator', { value, configurable: true, writable: true })
  if (/llvmpipe|swiftshader/i.test(adapter)) throttlePolling()
}
