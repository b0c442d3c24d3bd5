// Lays out the native code of a platform in native/<platform>/: ONNX Runtime's library, out of the
// archive of npm's onnxruntime-node, and the package webgpu with the Dawn of that platform only. Neither
// is a dependency: their archives hold every platform's code, and both have an install script (that of
// onnxruntime-node asks a host for CUDA libraries). npm fetches the archive, from whatever registry and
// through whatever proxy it is set up for; its checksum is below. Needs dist/, which has names and version.
// Used by build.mjs and release.mjs.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ORT_LIBRARIES, ORT_VERSION, ortPlace } from '../dist/src/device/cpu/library.js'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** Of onnxruntime-node-<ORT_VERSION>.tgz, as the registry has it; changes with the version. */
const INTEGRITY =
  'sha512-twhs1C2C/BFkz1yc5OY0KIU2GUq6DURO7hD4bx5Q2Qy3nAMJwRXW8xU3NVczE29VA9lolLOYepoD8fjTGOfIqw=='

/** Platforms and Dawn's folder for each. */
export const PLATFORMS = {
  'linux-x64': 'linux-x64',
  'linux-arm64': 'linux-arm64',
  'darwin-x64': 'darwin-universal',
  'darwin-arm64': 'darwin-universal',
  'win32-x64': 'win32-x64',
  'win32-arm64': 'win32-arm64',
}

const WEBGPU = join(ROOT, 'node_modules/webgpu')

/** What a folder holds; when this file is there and says the same, nothing is done. */
const contents = () => {
  const { version } = JSON.parse(readFileSync(join(WEBGPU, 'package.json'), 'utf8'))
  return `${JSON.stringify({ onnxruntime: ORT_VERSION, webgpu: version })}\n`
}

/** Lays out this platform in native/, unless zo2 has nothing for it. */
export function layOutHere() {
  const platform = `${process.platform}-${process.arch}`
  if (PLATFORMS[platform]) layOut([platform], join(ROOT, 'native'))
}

/** Lays out the platforms in folder/<platform>, each whole or not at all. */
export function layOut(platforms, folder) {
  const wanted = contents()
  const due = platforms.filter((platform) => {
    const path = join(folder, platform, 'contents.json')
    return !existsSync(path) || readFileSync(path, 'utf8') !== wanted
  })
  if (due.length === 0) return
  mkdirSync(folder, { recursive: true })
  const temporary = mkdtempSync(`${folder}-draft-`)
  try {
    const archive = due.some((platform) => ORT_LIBRARIES[platform]) && fetchArchive(temporary)
    for (const platform of due) {
      const draft = join(temporary, platform)
      mkdirSync(draft)
      if (ORT_LIBRARIES[platform]) addLibrary(platform, archive, draft)
      addDawn(platform, draft)
      writeFileSync(join(draft, 'contents.json'), wanted)
      rmSync(join(folder, platform), { recursive: true, force: true })
      renameSync(draft, join(folder, platform))
    }
  } finally {
    rmSync(temporary, { recursive: true, force: true })
  }
}

/** Path of onnxruntime-node's archive. */
function fetchArchive(folder) {
  const spec = `onnxruntime-node@${ORT_VERSION}`
  console.error(`fetching ${spec} (114 MB, unless npm has it) for ONNX Runtime's library ...`)
  // Also against the flags of an npm that started this, which it passes on in the environment.
  const flags = ['--pack-destination', folder, '--no-dry-run', '--no-json', '--prefer-offline']
  npm(['pack', spec, ...flags, '--ignore-scripts', '--loglevel=error'])
  const path = join(folder, `onnxruntime-node-${ORT_VERSION}.tgz`)
  const found = `sha512-${createHash('sha512').update(readFileSync(path)).digest('base64')}`
  if (found !== INTEGRITY) {
    throw new Error(`${spec}: expected checksum ${INTEGRITY}, the registry's archive has ${found}`)
  }
  return path
}

/** Runs npm: the one that runs this script, if one does. */
export function npm(args, cwd = ROOT) {
  const own = process.env.npm_execpath
  const [file, ...first] = own && basename(own) === 'npm-cli.js' ? [process.execPath, own] : ['npm']
  const shell = file === 'npm' && process.platform === 'win32'
  return execFileSync(file, [...first, ...args], {
    cwd,
    shell,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
}

function addLibrary(platform, archive, draft) {
  const place = `package/${ortPlace(platform).replaceAll('\\', '/')}`
  // Relative names: GNU tar takes what is before a colon for a host.
  execFileSync('tar', ['-xzf', basename(archive), place], {
    cwd: join(draft, '..'),
    stdio: 'inherit',
  })
  mkdirSync(join(draft, 'onnxruntime'))
  renameSync(join(draft, '..', place), join(draft, 'onnxruntime', ORT_LIBRARIES[platform]))
  cpSync(
    join(ROOT, 'scripts/native/onnxruntime-LICENSE.txt'),
    join(draft, 'onnxruntime/LICENSE.txt'),
  )
}

function addDawn(platform, draft) {
  const to = join(draft, 'webgpu')
  for (const name of ['index.js', 'LICENSE.md', join('dist', PLATFORMS[platform])]) {
    cpSync(join(WEBGPU, name), join(to, name), { recursive: true })
  }
  const { name, version, license, homepage } = JSON.parse(
    readFileSync(join(WEBGPU, 'package.json'), 'utf8'),
  )
  writeFileSync(
    join(to, 'package.json'),
    `${JSON.stringify({ name, version, license, homepage, private: true, type: 'module' }, null, 2)}\n`,
  )
}
