// Model folders: which weight file wins, shards and their index, aliases, and folders that are
// wrong.
// Alone: npx vitest run test/unit/checkpoint.test.ts

import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import { temporaryFolder } from '../helpers/hostile.ts'
import { writeTorchFile } from '../helpers/torch-file.ts'

const root = temporaryFolder()
const LAYOUTS = new URL('../fixtures/layouts/', import.meta.url).pathname
const EMBED = 'model.decoder.embed_tokens.weight'

/** A new model folder with the given JSON files; strings are written as they are. */
function makeFolder(files: Record<string, unknown> = {}): string {
  const dir = mkdtempSync(join(root, 'model-'))
  for (const [name, content] of Object.entries({
    'config.json': { model_type: 'opt' },
    ...files,
  })) {
    if (content === undefined) continue
    writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content))
  }
  return dir
}

/** A safetensors file of F32 vectors of three elements. */
async function addShard(
  dir: string,
  file: string,
  names: readonly string[],
  metadata?: Record<string, string>,
): Promise<void> {
  const tensors = names.map((name) => ({ name, dtype: 'F32', shape: [3] }) as const)
  await writeSafetensors(
    join(dir, file),
    { tensors, metadata: metadata ?? { format: 'pt' } },
    (index, sink) => sink.write(new Uint8Array(12).fill(index)),
  )
}

const addBin = (dir: string, file: string, names: readonly string[]): void =>
  writeTorchFile(
    join(dir, file),
    names.map((name, i) => ({ name, storage: `${i}`, elements: 3, shape: [3] })),
  )

const names = async (dir: string): Promise<string[]> =>
  [...(await openCheckpoint(dir)).tensors.keys()].sort()

describe('openCheckpoint', () => {
  it('reads real sharded folders of both formats', async () => {
    const safe = await openCheckpoint(join(LAYOUTS, 'sharded-safetensors'))
    expect(safe.format).toBe('safetensors')
    expect(safe.files).toHaveLength(3)
    expect(safe.config['model_type']).toBe('opt')
    const bin = await openCheckpoint(join(LAYOUTS, 'sharded-bin'))
    expect(bin.format).toBe('torch-bin')
    expect(bin.files).toHaveLength(2)
    for (const { tensors, files } of [safe, bin]) {
      expect(tensors.size).toBeGreaterThan(30)
      for (const [name, tensor] of tensors) {
        expect(tensor.name).toBe(name)
        expect(files).toContain(tensor.file)
      }
    }
  })

  it('prefers safetensors to PyTorch files and a single file to shards', async () => {
    const dir = makeFolder()
    const index = (shard: string, name: string): string =>
      JSON.stringify({ weight_map: { [name]: shard } })
    writeFileSync(join(dir, 'pytorch_model.bin.index.json'), index('d.bin', 'fourth'))
    addBin(dir, 'd.bin', ['fourth'])
    expect(await names(dir)).toEqual(['fourth'])
    addBin(dir, 'pytorch_model.bin', ['third'])
    expect(await names(dir)).toEqual(['third'])
    writeFileSync(join(dir, 'model.safetensors.index.json'), index('b.safetensors', 'second'))
    await addShard(dir, 'b.safetensors', ['second'])
    expect(await names(dir)).toEqual(['second'])
    await addShard(dir, 'model.safetensors', ['first'])
    expect(await names(dir)).toEqual(['first'])
  })

  it('adds the names that a conversion removed, from the note in the metadata', async () => {
    const dir = makeFolder()
    await addShard(dir, 'model.safetensors', ['lm_head.weight', 'x'], {
      [EMBED]: 'lm_head.weight',
      chain: EMBED,
      x: 'lm_head.weight',
      format: 'pt',
    })
    const { tensors } = await openCheckpoint(dir)
    expect([...tensors.keys()].sort()).toEqual(['lm_head.weight', EMBED, 'x'])
    expect(tensors.get(EMBED)).toEqual({ ...tensors.get('lm_head.weight'), name: EMBED })
    expect(tensors.get('x')!.offsetBytes).not.toBe(tensors.get(EMBED)!.offsetBytes)
  })

  it('tolerates an indexed name that no shard holds for tied names only', async () => {
    const dir = makeFolder()
    const writeIndex = (map: Record<string, string>): void =>
      writeFileSync(join(dir, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }))
    await addShard(dir, 'a.safetensors', [EMBED, 'x'])
    const map = { [EMBED]: 'a.safetensors', x: 'a.safetensors' }
    writeIndex({ ...map, 'lm_head.weight': 'a.safetensors' })
    expect(await names(dir)).toEqual([EMBED, 'x'])
    writeIndex({ ...map, y: 'a.safetensors' })
    await expect(openCheckpoint(dir)).rejects.toThrow('expected tensor "y" because model.safetens')
    await addShard(dir, 'a.safetensors', ['x'])
    writeIndex({ ...map, 'lm_head.weight': 'a.safetensors' })
    await expect(openCheckpoint(dir)).rejects.toThrow(`expected tensor "${EMBED}"`)
  })

  it('lets the index decide between shards and refuses a name that it leaves open', async () => {
    const dir = makeFolder()
    await addShard(dir, 'a.safetensors', ['pad', 'x'])
    await addShard(dir, 'b.safetensors', ['x', 'y'])
    const writeIndex = (map: Record<string, string>): void =>
      writeFileSync(join(dir, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }))
    writeIndex({ x: 'b.safetensors', pad: 'a.safetensors' })
    const { tensors } = await openCheckpoint(dir)
    expect(tensors.get('x')!.file).toBe(join(dir, 'b.safetensors'))
    writeIndex({ pad: 'a.safetensors', y: 'b.safetensors' })
    await expect(openCheckpoint(dir)).rejects.toThrow('expected "x" in one shard only')
  })

  it.each([
    '../a.safetensors',
    '/etc/passwd',
    'sub/a',
    'a\\b',
    '..',
    '.',
    '',
    'c:x',
    'a\0',
    7,
    null,
  ])('refuses %j as the name of a shard', async (shard) => {
    const dir = makeFolder({ 'model.safetensors.index.json': { weight_map: { x: shard } } })
    await expect(openCheckpoint(dir)).rejects.toMatchObject({
      name: 'UserError',
      message: expect.stringContaining('expected a file name of this folder for "x"') as unknown,
    })
  })

  it('names a shard that is missing', async () => {
    const dir = makeFolder({ 'model.safetensors.index.json': { weight_map: { x: 'gone.st' } } })
    await expect(openCheckpoint(dir)).rejects.toThrow(
      /gone\.st: expected this shard .* download it/,
    )
  })

  it('follows the symbolic links of a download cache', async () => {
    const blobs = makeFolder()
    await addShard(blobs, 'blob', ['x'])
    const dir = makeFolder()
    symlinkSync(join(blobs, 'blob'), join(dir, 'model.safetensors'))
    expect(await names(dir)).toEqual(['x'])
  })

  it.each<[string, () => string, string]>([
    ['a missing folder', () => join(root, 'none'), 'expected a model folder, found none'],
    ['a missing config', () => makeFolder({ 'config.json': undefined }), 'with config.json'],
    ['a folder without weights', () => makeFolder(), 'in one of model.safetensors, model.safetens'],
    ['a broken config', () => makeFolder({ 'config.json': '{' }), 'config.json: not valid JSON'],
    ['a config that is a list', () => makeFolder({ 'config.json': [] }), 'found a list of 0'],
    [
      'a giant config',
      () => makeFolder({ 'config.json': ' '.repeat(17 << 20) }),
      'at most 16777216',
    ],
    [
      'a config that is a pointer',
      () => makeFolder({ 'config.json': 'version https://git-lfs.github.com/spec/v1\n' }),
      'run git lfs pull',
    ],
    [
      'an index without a map',
      () => makeFolder({ 'pytorch_model.bin.index.json': { metadata: {} } }),
      'expected weight_map to name the shards, found undefined',
    ],
    [
      'an index with an empty map',
      () => makeFolder({ 'model.safetensors.index.json': { weight_map: {} } }),
      'expected weight_map',
    ],
  ])('refuses %s', async (_, make, expected) => {
    await expect(openCheckpoint(make())).rejects.toMatchObject({
      name: 'UserError',
      message: expect.stringContaining(expected) as unknown,
    })
  })

  it('refuses a weight file that is a folder, as if it were absent', async () => {
    const dir = makeFolder()
    mkdirSync(join(dir, 'model.safetensors'))
    await expect(openCheckpoint(dir)).rejects.toThrow('expected weights in one of')
    rmSync(join(dir, 'model.safetensors'), { recursive: true })
    cpSync(join(LAYOUTS, 'f16', 'pytorch_model.bin'), join(dir, 'pytorch_model.bin'))
    expect((await openCheckpoint(dir)).format).toBe('torch-bin')
  })
})
