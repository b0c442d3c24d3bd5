// The WGSL kernels themselves, run without the device around them: compiler errors, the bits of
// noise and perturbation against their TypeScript twins, every matmul.
// Alone: npx vitest run test/device/webgpu-kernels.test.ts

import { describe, expect, it } from 'vitest'
import { Commands } from '../../src/device/webgpu/commands.ts'
import { defineKernel } from '../../src/device/webgpu/kernel.ts'
import { NOISE_WGSL } from '../../src/device/webgpu/kernels/noise.ts'
import { perturbKernel, perturbSpan } from '../../src/device/webgpu/kernels/perturb.ts'
import { noiseOf, NOISES, round16, stdOf, type Recipe } from '../../src/noise/distributions.ts'
import { applyTerms, noiseAt, probeVersion } from '../reference/noise.ts'
import { threefry2x32 } from '../../src/noise/threefry.ts'
import { convertElements, type DType } from '../../src/util/dtypes.ts'
import { adapter, commands, download, upload } from '../helpers/webgpu-buffers.ts'
import { randoms } from '../helpers/webgpu.ts'

describe('kernels', () => {
  it('with a fault are refused with the numbered source', async () => {
    const own = new Commands(adapter.gpu)
    own.compile(
      defineKernel({
        name: 'faulty',
        bindings: { y: 'read_write f32' },
        params: { count: 'u32' },
        body: '@compute @workgroup_size(1)\nfn main() {\n  y[0] = params.cuont;\n}',
      }),
    )
    await expect(own.settled()).rejects.toThrow(
      /kernel faulty was refused.*line 10:\d+: .*cuont[\s\S]*\n {2}10 {3}y\[0\] = params\.cuont;/,
    )
    expect(() => own.check()).toThrow(/kernel faulty/)
  })

  it('refuse a result that is also an input', () => {
    const y = upload(new Float32Array(4))
    const kernel = commands.compile(
      defineKernel({
        name: 'alias',
        bindings: { x: 'read f32', y: 'read_write f32' },
        params: { count: 'u32' },
        body: '@compute @workgroup_size(1)\nfn main() {\n  y[0] = x[params.count];\n}',
      }),
    )
    expect(() => commands.run(kernel, { x: y, y }, { count: 0 }, [1])).toThrow(
      /y must not be one of its inputs/,
    )
  })

  const threefry = defineKernel({
    name: 'threefry',
    bindings: { counters: 'read vec4<u32>', words: 'read_write u32' },
    params: { count: 'u32' },
    snippets: [NOISE_WGSL],
    body: /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  if (g.x < params.count) {
    let pair = threefry2x32(counters[g.x].xy, counters[g.x].zw);
    words[2u * g.x] = pair.x;
    words[2u * g.x + 1u] = pair.y;
  }
}`,
  })

  it('make the Threefry words of the TypeScript twin', async () => {
    const count = 1000
    const inputs = new Uint32Array(count * 4)
    for (let i = 4; i < inputs.length; i++) inputs[i] = threefry2x32(7, 8, i, 9)[0]
    const words = upload(new Uint32Array(count * 2))
    const kernel = commands.compile(threefry)
    commands.run(kernel, { counters: upload(inputs), words }, { count }, [Math.ceil(count / 64)])
    const got = new Uint32Array(await download(words))
    expect([...got.subarray(0, 2)]).toEqual([0x6b200159, 0x99ba4efe])
    const want = Array.from({ length: count }, (_, i) => {
      const [k0, k1, c0, c1] = inputs.subarray(i * 4, i * 4 + 4)
      return threefry2x32(k0!, k1!, c0!, c1!)
    }).flat()
    expect([...got]).toEqual(want)
  })

  /** Versions of `raw` as the perturb kernel makes them, as bits. */
  const perturb = async (
    raw: Uint8Array,
    dtype: DType,
    offset: number,
    count: number,
    first: number,
    recipe: Recipe,
  ) => {
    const versions = recipe.scales.length
    const rows = new Uint32Array((recipe.terms.length + versions) * 4)
    const floats = new Float32Array(rows.buffer)
    recipe.terms.forEach((t, i) => {
      rows.set([t.k0, t.k1], i * 4)
      floats.set([t.coefficient, t.decay], i * 4 + 2)
    })
    recipe.scales.forEach((s, p) => {
      floats[(recipe.terms.length + p) * 4] = recipe.probe ? s : 0
      const { k0, k1 } = recipe.probe ?? { k0: 0, k1: 0 }
      rows.set([k0, k1], (recipe.terms.length + p) * 4 + 1)
    })
    const words = new Uint32Array(Math.ceil(raw.length / 4))
    new Uint8Array(words.buffer).set(raw)
    const w = upload(new Uint32Array(versions * count))
    const noise = noiseOf(recipe)
    const { params, groups } = perturbSpan(noise, first, count)
    commands.run(
      commands.compile(perturbKernel(dtype, noise)),
      { raw: upload(words), recipe: upload(rows), w },
      { ...params, offset, recipe0: 0, versions, zero: 0, terms: recipe.terms.length },
      commands.flat(groups),
    )
    return new Uint32Array(await download(w), 0, versions * count)
  }

  it.each(['F16', 'BF16'] as const)('widen every %s pattern exactly', async (dtype) => {
    const halves = Uint16Array.from({ length: 65536 }, (_, i) => i)
    const raw = new Uint8Array(halves.buffer)
    const exact = new Uint32Array(convertElements(raw, dtype, 'F32').buffer)
    for (const noise of NOISES) {
      const got = await perturb(raw, dtype, 0, 65536, 0, { noise, terms: [], scales: [0] })
      expect(firstDifference(got, exact, isNaNBits), noise).toBe(-1)
    }
  })

  describe.each(NOISES)('with %s noise', (noise) => {
    const scale = round16(1e-3 / stdOf(noise))
    const decay = Math.fround(1 - 1e-2 / 3)
    const decaying = (count: number) =>
      Array.from({ length: count }, (_, i) => ({
        k0: i + 5,
        k1: (i + 5) ** 2,
        coefficient: round16(1e-4 / (i + 5)),
        decay,
      }))
    const recipes: Record<string, Recipe> = {
      'a probe': { noise, terms: [], probe: { k0: 3, k1: 4 }, scales: [scale, -scale] },
      'three probes and one of scale zero': {
        noise,
        terms: [],
        probe: { k0: 0xffffffff, k1: 0x80000000 },
        scales: [scale, 0, round16(0.3)],
      },
      'terms with decay': {
        noise,
        terms: decaying(5),
        probe: { k0: 1, k1: 2 },
        scales: [scale, -scale],
      },
      'more terms than are drawn at once': {
        noise,
        terms: decaying(35),
        probe: { k0: 1, k1: 2 },
        scales: [scale, -scale],
      },
    }
    const firsts = [0, 37, 2 ** 32 - 1001, 2 ** 33 - 1001]
    for (const [name, recipe] of Object.entries(recipes)) {
      it(`perturb with ${name} to the bits of the reference, at any element`, async () => {
        for (const [i, first] of firsts.entries()) {
          const dtype = (['F32', 'F16', 'BF16'] as const)[i % 3]!
          const [offset, count] = [i * 3, 2050]
          const f32 = new Uint8Array(randoms(offset + count, i).buffer)
          const raw = convertElements(f32, 'F32', dtype)
          const wide = convertElements(raw, dtype, 'F32')
          const e = new Float32Array(wide.slice().buffer).slice(offset)
          applyTerms(e, first, recipe)
          const want = recipe.scales.flatMap((_, p) => [...probeVersion(e, first, recipe, p)])
          const got = await perturb(raw, dtype, offset, count, first, recipe)
          expect(firstDifference(got, new Uint32Array(Float32Array.from(want).buffer))).toBe(-1)
        }
      })
    }

    /** Bits of f32 subnormals of both signs, the smallest and the largest among them, and of zeros. */
    const subnormals = (count: number) => {
      const bits = Uint32Array.from({ length: count }, (_, i) => {
        const size = [0, 1, 0x7fffff, 0x400000][i] ?? 1 + ((i * 2654435761) % 0x7fffff)
        return (size | (i % 3 === 0 ? 0x80000000 : 0)) >>> 0
      })
      return new Float32Array(bits.buffer)
    }

    it.each(['F32', 'BF16'] as const)(
      'keep subnormal %s weights and perturb them to the bits of the reference, without decay',
      async (dtype) => {
        const count = 1001
        const raw = convertElements(new Uint8Array(subnormals(count).buffer), 'F32', dtype)
        const wide = new Float32Array(convertElements(raw, dtype, 'F32').buffer)
        const term = { k0: 5, k1: 6, decay: 1 }
        const smallest = round16(2 ** -100)
        for (const [terms, scales] of [
          [[], [0]],
          [[], [scale, -scale]],
          [[{ ...term, coefficient: round16(1e-4) }], [smallest, 0]],
          [
            [
              { ...term, coefficient: smallest },
              { ...term, coefficient: 0 },
            ],
            [-smallest, smallest],
          ],
        ] as const) {
          const recipe = { noise, terms, probe: { k0: 3, k1: 4 }, scales }
          const e = wide.slice()
          applyTerms(e, 0, recipe)
          const want = scales.flatMap((_, p) => [...probeVersion(e, 0, recipe, p)])
          const got = await perturb(raw, dtype, 0, count, 0, recipe)
          expect(firstDifference(got, new Uint32Array(Float32Array.from(want).buffer))).toBe(-1)
          // Gaussian noise is 0 here and there; a sign leaves nothing as it is.
          const stay = noise === 'gaussian' || (terms.length === 0 && scales[0] === 0)
          expect(want.some((v) => v !== 0 && Math.abs(v) < 2 ** -126)).toBe(stay)
        }
      },
    )

    const product = defineKernel({
      name: 'product',
      bindings: { x: 'read f32', y: 'read_write f32' },
      params: { factor: 'f32' },
      body: '@compute @workgroup_size(1)\nfn main() {\n  y[0] = x[0] * params.factor;\n}',
    })

    it('decay subnormal weights as the adapter multiplies: exactly, or to zero', async () => {
      const y = upload(new Float32Array(4))
      const one = upload(Float32Array.of(2 ** -127))
      commands.run(commands.compile(product), { x: one, y }, { factor: 1 }, [1])
      const flushes = new Float32Array(await download(y))[0] === 0
      const w = subnormals(1001)
      const terms = [{ k0: 5, k1: 6, coefficient: 0, decay }]
      const want = w.slice()
      const recipe = { noise, terms, scales: [0] }
      applyTerms(want, 0, recipe)
      const found = await perturb(new Uint8Array(w.buffer), 'F32', 0, w.length, 0, recipe)
      const got = new Float32Array(found.buffer, found.byteOffset, found.length)
      expect([...got].every((v, i) => v === (flushes ? 0 : want[i]))).toBe(true)
    })

    it('round the decayed weight before the noise is added', async () => {
      // Weights for which a fused multiply-add gives other bits; the test shows that there are many.
      const count = 4096
      const w = randoms(count, 11)
      const term = { k0: 21, k1: 22, coefficient: round16(0.37), decay }
      const recipe = { noise, terms: [term], scales: [0] }
      const got = await perturb(new Uint8Array(w.buffer), 'F32', 0, count, 0, recipe)
      const want = w.slice()
      applyTerms(want, 0, recipe)
      // An exact product, then one rounding: f64 holds the 48-bit product and here also the sum.
      const fused = w.map((v, i) =>
        Math.fround(v * decay + term.coefficient * noiseAt(noise, term, i)),
      )
      expect(firstDifference(got, new Uint32Array(want.buffer))).toBe(-1)
      expect(fused.filter((v, i) => v !== want[i]).length).toBeGreaterThan(100)
    })
  })
})

const isNaNBits = (bits: number) => (bits & 0x7fffffff) > 0x7f800000

/** Index of the first differing word, -1 if there is none. */
function firstDifference(
  got: Uint32Array,
  want: Uint32Array,
  same: (bits: number) => boolean = () => false,
): number {
  if (got.length !== want.length) return 0
  return got.findIndex((bits, i) => bits !== want[i] && !(same(bits) && same(want[i]!)))
}
