// Compiles src, scheduler and models into dist/ and puts the WebAssembly module beside its loader.
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, rmSync } from 'node:fs'

rmSync('dist', { recursive: true, force: true })
execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], {
  stdio: 'inherit',
})
copyFileSync('src/noise/noise.wasm', 'dist/src/noise/noise.wasm')
chmodSync('dist/src/cli/bin.js', 0o755)
