// Conversion of whole folders: the same bits in another format, other element types, ties, shards,
// and that nothing half-made stays behind.
// Alone: npx vitest run test/unit/convert.test.ts

import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { convertCheckpoint, copyModelFiles } from '../../src/checkpoint/convert.ts'
import { convertElements } from '../../src/util/dtypes.ts'
import { openFiles } from '../../src/checkpoint/files.ts'
import { readSafetensorsHeader } from '../../src/checkpoint/safetensors.ts'
import type { Checkpoint } from '../../src/checkpoint/types.ts'
import { temporaryFolder } from '../helpers/hostile.ts'
import { writeTorchFile } from '../helpers/torch-file.ts'

const root = temporaryFolder()
const LAYOUTS = new URL('../fixtures/layouts/', import.meta.url).pathname
const HEAD = 'lm_head.weight'
const EMBED = 'model.decoder.embed_tokens.weight'

const newPath = (): string => join(mkdtempSync(join(root, 'out-')), 'model')

/** A folder with only the PyTorch file of a layout (or all shards of one). */
function binOnly(layout: string): string {
  const dir = mkdtempSync(join(root, 'bin-'))
  cpSync(join(LAYOUTS, layout), dir, {
    recursive: true,
    filter: (source) => !source.includes('safetensors'),
  })
  return dir
}

async function readAll({ tensors, files }: Checkpoint): Promise<Map<string, Uint8Array>> {
  const open = await openFiles(files)
  try {
    const result = new Map<string, Uint8Array>()
    for (const [name, entry] of tensors) {
      result.set(name, new Uint8Array(entry.bytes))
      await open.read(entry, 0, result.get(name)!)
    }
    return result
  } finally {
    await open.close()
  }
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

function leftovers(path: string): string[] {
  return readdirSync(join(path, '..')).filter((name) => name.endsWith('.tmp'))
}

describe('convertCheckpoint', () => {
  it.each(['f16', 'bf16', 'pre-norm-tied', 'decoder-prefix', 'sharded-bin'])(
    'turns the PyTorch folder %s into safetensors with the same bits',
    async (layout) => {
      const source = await openCheckpoint(binOnly(layout))
      expect(source.format).toBe('torch-bin')
      const out = newPath()
      const progress: number[][] = []
      const onProgress = (...numbers: number[]): void => void progress.push(numbers)
      await convertCheckpoint(source.dir, out, { onProgress })
      const result = await openCheckpoint(out)
      expect(result.format).toBe('safetensors')
      expect([...result.tensors.keys()].sort()).toEqual([...source.tensors.keys()].sort())
      const [before, after] = [await readAll(source), await readAll(result)]
      for (const [name, bytes] of before) {
        expect(same(after.get(name)!, bytes), name).toBe(true)
        const { dtype, shape } = result.tensors.get(name)!
        expect({ dtype, shape }).toEqual({
          dtype: source.tensors.get(name)!.dtype,
          shape: source.tensors.get(name)!.shape,
        })
      }
      expect(readFileSync(join(out, 'config.json'))).toEqual(
        readFileSync(join(source.dir, 'config.json')),
      )
      const [done, total] = progress.at(-1)!
      expect(done).toBe(total)
      expect(leftovers(out)).toEqual([])
    },
  )

  it('writes a tied head once and notes its name', async () => {
    const out = newPath()
    await convertCheckpoint(binOnly('f16'), out)
    const { tensors, metadata } = await readSafetensorsHeader(join(out, 'model.safetensors'))
    expect(tensors.map(({ name }) => name)).not.toContain(HEAD)
    expect(metadata).toEqual({ format: 'pt', [HEAD]: EMBED })
    const { tensors: all } = await openCheckpoint(out)
    expect(all.get(HEAD)).toEqual({ ...all.get(EMBED), name: HEAD })
  })

  it('writes both names where the config says that head and embedding are not tied', async () => {
    const dir = binOnly('f16')
    const path = join(dir, 'config.json')
    const config = JSON.parse(readFileSync(path, 'utf8')) as object
    writeFileSync(path, JSON.stringify({ ...config, tie_word_embeddings: false }))
    const out = newPath()
    await convertCheckpoint(dir, out)
    const { tensors } = await openCheckpoint(out)
    expect(tensors.get(HEAD)!.offsetBytes).not.toBe(tensors.get(EMBED)!.offsetBytes)
    expect(tensors.get(HEAD)!.bytes).toBe(tensors.get(EMBED)!.bytes)
  })

  it.each([
    ['f16', 'F32', 'float32'],
    ['pre-norm-tied', 'BF16', 'bfloat16'],
    ['bf16', 'F16', 'float16'],
  ] as const)(
    'converts the elements of %s to %s and says so in the config',
    async (layout, dtype, word) => {
      const source = await openCheckpoint(binOnly(layout))
      const out = newPath()
      await convertCheckpoint(source.dir, out, { dtype, maxShardBytes: 20_000 })
      const result = await openCheckpoint(out)
      expect(result.files.length).toBeGreaterThan(2)
      expect(result.config['dtype'] ?? result.config['torch_dtype']).toBe(word)
      const [before, after] = [await readAll(source), await readAll(result)]
      expect([...after.keys()].sort()).toEqual([...before.keys()].sort())
      for (const [name, bytes] of before) {
        const expected = convertElements(bytes, source.tensors.get(name)!.dtype, dtype)
        expect(same(after.get(name)!, expected), name).toBe(true)
      }
    },
  )

  it('converts tensors larger than its chunk', async () => {
    const dir = mkdtempSync(join(root, 'large-'))
    writeFileSync(join(dir, 'config.json'), '{"torch_dtype":"float32","keep":[1]}')
    const elements = 1_300_007
    writeTorchFile(join(dir, 'pytorch_model.bin'), [
      { name: 'w', storage: '0', elements, shape: [elements] },
    ])
    const out = newPath()
    await convertCheckpoint(dir, out, { dtype: 'BF16' })
    const source = (await readAll(await openCheckpoint(dir))).get('w')!
    const result = await openCheckpoint(out)
    expect(same((await readAll(result)).get('w')!, convertElements(source, 'F32', 'BF16'))).toBe(
      true,
    )
    expect(result.config).toEqual({ torch_dtype: 'bfloat16', keep: [1] })
  })

  it('refuses values that the new type cannot hold, and passes infinities on', async () => {
    const dir = mkdtempSync(join(root, 'range-'))
    writeFileSync(join(dir, 'config.json'), '{}')
    const bin = join(dir, 'pytorch_model.bin')
    writeTorchFile(bin, [{ name: 'w', storage: '0', elements: 2, shape: [2] }])
    const { tensors } = await openCheckpoint(dir)
    const put = (value: number): void => {
      const file = readFileSync(bin)
      file.writeFloatLE(value, tensors.get('w')!.offsetBytes + 4)
      writeFileSync(bin, file)
    }
    put(70000)
    const out = newPath()
    await expect(convertCheckpoint(dir, out, { dtype: 'F16' })).rejects.toMatchObject({
      name: 'UserError',
      message: expect.stringMatching(/F16 can hold, found a larger one in "w"/) as unknown,
    })
    expect(existsSync(out)).toBe(false)
    expect(leftovers(out)).toEqual([])
    put(-Infinity)
    await convertCheckpoint(dir, out, { dtype: 'F16' })
    const after = (await readAll(await openCheckpoint(out))).get('w')!
    expect([...after.subarray(2)]).toEqual([0x00, 0xfc])
  })

  it('refuses a folder that is not empty and a file, and fills an empty folder', async () => {
    const source = binOnly('f16')
    const full = mkdtempSync(join(root, 'full-'))
    writeFileSync(join(full, 'mine'), 'x')
    await expect(convertCheckpoint(source, full)).rejects.toThrow('found 1 entries in it')
    await expect(convertCheckpoint(source, join(full, 'mine'))).rejects.toMatchObject({
      name: 'UserError',
    })
    expect(readdirSync(full)).toEqual(['mine'])
    const empty = newPath()
    mkdirSync(empty)
    await convertCheckpoint(source, empty)
    expect(readdirSync(empty).sort()).toEqual(['config.json', 'model.safetensors'])
    const other = join(root, 'other')
    mkdirSync(other)
    expect(statSync(empty).mode).toBe(statSync(other).mode)
  })

  it('copies the tokenizer and generation files that are there, and nothing else', async () => {
    const source = mkdtempSync(join(root, 'files-'))
    const kept = ['config.json', 'generation_config.json', 'merges.txt', 'tokenizer_config.json']
    for (const name of [...kept, 'flax_model.msgpack', 'notes.txt']) {
      writeFileSync(join(source, name), `"${name}"`)
    }
    const out = mkdtempSync(join(root, 'copy-'))
    await copyModelFiles({ dir: source, config: {}, files: [] }, out)
    expect(readdirSync(out).sort()).toEqual(kept)
    for (const name of kept) expect(readFileSync(join(out, name), 'utf8')).toBe(`"${name}"`)
  })
})
