// The commands on a GGUF file: training it is training its safetensors copy, bit for bit; what a run writes of it is a
// model folder, which becomes GGUF again.
// Alone: npx vitest run test/runs/gguf.test.ts

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { here, hereJson, ROOT } from '../helpers/cli.ts'
import { temporaryFolder } from '../helpers/hostile.ts'
import { readSafetensors } from '../helpers/read-safetensors.ts'

const GPT2 = join(ROOT, 'test/fixtures/gguf/gpt2.gguf')
const LLAMA = join(ROOT, 'test/fixtures/gguf/llama.gguf')
const TEXTS = ['ab a!ab ab a', 'a b a b', 'ab!', 'b ab a']

/** `steps` of what the options say, on a text file. */
async function train(model: string, ...options: readonly string[]) {
  const folder = temporaryFolder()
  const file = join(folder, 'train.jsonl')
  writeFileSync(file, TEXTS.map((text) => `${JSON.stringify({ text })}\n`).join(''))
  const out = join(folder, 'run')
  const args = ['finetune', model, '--train', file, '--output-dir', out, '--device', 'cpu']
  const numbers = ['--batch-size', '2', '--max-length', '8', '--lr', '1e-3', '--eps', '1e-3']
  const { code, stderr } = await here([...args, ...numbers, ...options])
  expect(code, stderr).toBe(0)
  return { out, file, journal: readFileSync(join(out, 'journal.jsonl'), 'utf8') }
}

describe('a GGUF file', () => {
  it('is trained as its safetensors copy is, streamed and folded', async () => {
    const copy = join(temporaryFolder(), 'copy')
    expect((await here(['convert', GPT2, copy])).code).toBe(0)
    for (const options of [
      ['--steps', '4'],
      ['--steps', '4', '--replay-window', '1', '--resident', 'none'],
    ]) {
      const [a, b] = [await train(GPT2, ...options), await train(copy, ...options)]
      expect(a.journal.split('\n').length).toBe(5)
      expect(a.journal).toBe(b.journal)
      const [model, other] = [a, b].map(({ out }) =>
        readSafetensors(readFileSync(join(out, 'model/model.safetensors'))),
      )
      expect(model!.size).toBe(16)
      expect(model).toEqual(other)
    }
  })

  it('resumes, is scored, continued and written again', async () => {
    const { out, file } = await train(GPT2, '--steps', '2')
    const whole = await train(GPT2, '--steps', '4')
    const args = ['finetune', GPT2, '--train', file, '--output-dir', out, '--device', 'cpu']
    const numbers = ['--batch-size', '2', '--max-length', '8', '--lr', '1e-3', '--eps', '1e-3']
    expect((await here([...args, ...numbers, '--steps', '4', '--resume'])).code).toBe(0)
    const gradients = (text: string) =>
      text
        .trim()
        .split('\n')
        .map((line) => (JSON.parse(line) as { projected_grad: number }).projected_grad)
    const resumed = readFileSync(join(out, 'journal.jsonl'), 'utf8')
    expect(gradients(resumed)).toEqual(gradients(whole.journal))
    const evaluate = async (model: string) =>
      (await hereJson([
        'eval',
        model,
        '--eval-file',
        file,
        '--max-length',
        '8',
        '--device',
        'cpu',
      ])) as {
        loss: number
      }
    const gguf = join(temporaryFolder(), 'trained.gguf')
    expect((await here(['convert', join(out, 'model'), gguf])).code).toBe(0)
    const { loss } = await evaluate(join(out, 'model'))
    expect((await evaluate(gguf)).loss).toBe(loss)
    expect((await evaluate(GPT2)).loss).not.toBe(loss)
    const said = await hereJson([
      'generate',
      gguf,
      '--prompt',
      'ab',
      '--max-new-tokens',
      '3',
      '--device',
      'cpu',
    ])
    expect(said).toMatchObject({ prompts: ['ab'] })
  })

  it('is planned and inspected, alone in a folder too', async () => {
    const folder = join(temporaryFolder(), 'model')
    mkdirSync(folder)
    copyFileSync(LLAMA, join(folder, 'llama.gguf'))
    const [file, alone] = [await hereJson(['inspect', LLAMA]), await hereJson(['inspect', folder])]
    expect(file).toMatchObject({ format: 'gguf', model_type: 'llama', layers: 1, heads: 4 })
    expect(alone).toMatchObject({ fingerprint: (file as { fingerprint: string }).fingerprint })
    const { tensors } = file as { tensors: { name: string; dtype: string; bytes: number }[] }
    expect(tensors.find(({ name }) => name.endsWith('q_proj.weight'))).toMatchObject({
      dtype: 'Q4_1',
      bytes: 2560,
    })
    const plan = await hereJson(['plan', folder, '--max-length', '8', '--device', 'cpu'])
    expect(plan).toHaveProperty('device_peak_bytes')
  })

  it('has types of its own that a folder has not', async () => {
    const out = join(temporaryFolder(), 'out')
    const folder = await here(['convert', GPT2, out, '--to', 'q8_0'])
    expect([folder.code, folder.stderr]).toEqual([2, expect.stringContaining('NAME.gguf')])
    const unknown = await here(['convert', GPT2, `${out}.gguf`, '--to', 'q4_0'])
    expect([unknown.code, unknown.stderr]).toEqual([2, expect.stringContaining('bfloat16, q8_0')])
    expect((await here(['convert', GPT2, join(out, 'a.gguf'), '--to', 'q8_0'])).code).toBe(0)
  })
})
