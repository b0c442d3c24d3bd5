import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

// Where Mesa keeps what it compiled: one folder for all tests, also for those with a cache folder of their own.
const shaders = process.env['MESA_SHADER_CACHE_DIR'] ?? join(tmpdir(), 'zo2-test-cache')

export default defineConfig({
  resolve: {
    alias: [
      {
        find: /^.*\/src\/util\/threads\.ts$|^(\.\.\/)+util\/threads\.ts$/,
        replacement: fileURLToPath(new URL('test/helpers/threads.ts', import.meta.url)),
      },
    ],
  },
  test: {
    include: ['test/**/*.test.ts'],
    setupFiles: ['test/helpers/typed-arrays.ts'],
    env: { MESA_SHADER_CACHE_DIR: shaders },
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})
