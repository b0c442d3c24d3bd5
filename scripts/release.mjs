// Makes what is published to a registry: a package @zo2/<platform> with the native code of each platform,
// and zo2 without any, which names them as optional dependencies, so that a package manager fetches the
// one that fits. `npm pack` alone makes an archive with the native code of this platform.
//   node scripts/release.mjs [folder]     by default out/release; publish the platforms first, zo2 last

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildDist, isFresh } from './dist.mjs'

if (!isFresh()) buildDist()
// Reads dist/, which is there now.
const { layOut, npm, PLATFORMS } = await import('./native.mjs')

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const target = resolve(process.argv[2] ?? join(ROOT, 'out/release'))
const drafts = join(target, 'drafts')
const ours = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))

const write = (folder, manifest) =>
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
const pack = (folder, to) => npm(['pack', '--pack-destination', to, '--silent'], folder).trim()

/** The draft of a platform's package out of its native code. */
function draftPlatform(platform) {
  const [os, cpu] = platform.split('-')
  const { version, license, homepage, repository, engines } = ours
  const folder = join(drafts, platform)
  write(folder, {
    name: `@zo2/${platform}`,
    version,
    description: `Native code of zo2 for ${platform}: ONNX Runtime and Dawn`,
    license: `${license} AND MIT AND BSD-3-Clause`,
    homepage,
    repository,
    engines,
    os: [os],
    cpu: [cpu],
    ...(os === 'linux' ? { libc: ['glibc'] } : {}),
    preferUnplugged: true,
  })
  writeFileSync(
    join(folder, 'README.md'),
    `Native code that [zo2](${homepage}) calls on ${platform}. Each folder has its licence.\n`,
  )
  return folder
}

/** The draft of zo2: what npm pack gives, less the native code and what only a clone needs. */
function draftMain() {
  const archive = pack(ROOT, drafts)
  execFileSync('tar', ['-xzf', archive], { cwd: drafts })
  const folder = join(drafts, 'package')
  rmSync(join(folder, 'native'), { recursive: true })
  const manifest = { ...ours, optionalDependencies: { ...ours.optionalDependencies } }
  for (const key of ['scripts', 'devDependencies', 'allowScripts']) delete manifest[key]
  for (const platform of Object.keys(PLATFORMS)) {
    manifest.optionalDependencies[`@zo2/${platform}`] = ours.version
  }
  write(folder, manifest)
  return folder
}

rmSync(target, { recursive: true, force: true })
mkdirSync(drafts, { recursive: true })
layOut(Object.keys(PLATFORMS), drafts)
for (const folder of [...Object.keys(PLATFORMS).map(draftPlatform), draftMain()]) {
  console.log(join(target, pack(folder, target)))
}
rmSync(drafts, { recursive: true })
