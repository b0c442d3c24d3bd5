// prepare, pretrain, sample and convert as commands with nanoGPT's spellings and checkpoints, and the shipped
// configurations. The runs themselves: pretrain.test.ts.
// Alone: npx vitest run test/runs/pretrain-commands.test.ts

import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { nanogptConfig } from '../../models/presets.ts'
import { readConfigFile } from '../../src/config/file.ts'
import { parseConfig } from '../../src/config/options.ts'
import { importNanogpt } from '../../src/checkpoint/torch/nanogpt.ts'
import { here, hereJson, ROOT } from '../helpers/cli.ts'
import { readSafetensors } from '../helpers/read-safetensors.ts'

import { CPU, data, folder, GPT, read, run, SHAPE, TEXT } from '../helpers/pretrain.ts'

const keptIn = (dir: string) => readdirSync(dir).find((name) => name.startsWith('ckpt-'))!

describe('the shipped configurations', () => {
  const NAMES = [
    'train_shakespeare_char',
    'train_shakespeare',
    'train_gpt2',
    'train_lozo_shakespeare',
    'train_lozo_gpt2',
    'train_kronzo_shakespeare',
    'train_kronzo_owt',
    'train_mezo_shakespeare',
  ]

  it('are those of the README, and in the package', () => {
    const files = readdirSync(join(ROOT, 'config'))
    expect(files.sort()).toEqual(NAMES.map((name) => `${name}.yaml`).sort())
    const readme = readFileSync(join(ROOT, 'README.md'), 'utf8')
    for (const name of NAMES) expect(readme).toContain(`\`${name}\``)
    const { files: shipped } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
      files: string[]
    }
    expect(shipped).toEqual(expect.arrayContaining(['config', 'examples']))
  })

  it.each(NAMES)('%s is whole, and runs', async (name) => {
    const { values } = readConfigFile(join(ROOT, 'config', `${name}.yaml`))
    const { nLayer, nHead, nEmbd, bias, maxLength, outputDir, dataset } = parseConfig(values)
    const shape = nanogptConfig({
      n_layer: nLayer!,
      n_head: nHead!,
      n_embd: nEmbd!,
      bias: bias!,
      block_size: maxLength,
    })
    expect(createModel(shape).layers).toBe(nLayer)
    expect(dataset).toMatch(/^(shakespeare|shakespeare_char|openwebtext)$/)
    expect(outputDir).toMatch(/^out-/)
    const small = { ...SHAPE, batchSize: 2, accumulate: 2, steps: 1, evalIters: 1 }
    const summary = await run(join(folder, name), {
      ...values,
      ...CPU,
      ...small,
      dataset: data,
      outputDir: join(folder, name),
      saveModel: false,
    })
    expect(summary.steps).toBe(1)
  })
})

describe('commands', () => {
  const args = (out: string) => [
    ...['pretrain', 'config/train_lozo_shakespeare', `--dataset=${data}`, `--out_dir=${out}`],
    ...['--n_layer=1', '--n_head=2', '--n_embd=16', '--block_size=16', '--batch_size=2'],
    ...['--gradient_accumulation_steps=1', '--eval_iters=1', '--eval_interval=1', '--max_iters=2'],
    ...['--bias=False', '--dropout=0.0', '--always_save_checkpoint=True', '--decay_lr=False'],
    ...[
      '--warmup_iters=0',
      '--learning_rate=1e-3',
      '--log_interval=1',
      '--device=cpu',
      '--threads=1',
    ],
  ]

  it("prepare, pretrain and sample with nanoGPT's spellings", async () => {
    const prepared = join(folder, 'prepared')
    const text = join(folder, 'text.txt')
    const meta = await hereJson([
      'prepare',
      'shakespeare_char',
      '--input',
      text,
      '--output-dir',
      prepared,
    ])
    expect(meta).toMatchObject({ vocab_size: 14, train_tokens: 2160, val_tokens: 240 })

    const out = join(folder, 'commands')
    const { code, stderr, stdout } = await here(args(out))
    expect(code, stderr).toBe(0)
    expect(stderr).toMatch(/^step 0: train loss \d\.\d{4}, val loss \d\.\d{4}$/m)
    expect(stderr).toMatch(/^step 2: train loss/m)
    expect(stdout).toContain(`checkpoint: ${join(out, 'ckpt-2')}`)
    expect(read(out, 'ckpt-2', 'meta.json').equals(read(data, 'meta.json'))).toBe(true)

    // 40 new tokens at a block of 16: the context slides.
    const start = join(folder, 'start.txt')
    writeFileSync(start, 'to be ')
    const ask = [
      'sample',
      `--out_dir=${out}`,
      `--start=FILE:${start}`,
      '--num_samples=2',
      '--max_new_tokens=40',
      '--temperature=0.9',
      '--top_k=5',
      '--seed=3',
      '--device=cpu',
    ]
    const first = await hereJson(ask)
    const samples = first['samples'] as string[]
    expect(samples.map((s) => [s.length, s.slice(0, 6)])).toEqual(Array(2).fill([46, 'to be ']))
    expect([...samples.join('')].every((c) => TEXT.includes(c))).toBe(true)
    expect(samples[0]).not.toBe(samples[1])
    expect((await hereJson(ask))['samples']).toEqual(samples)
    // The exported model has the same alphabet, and generate reads it.
    const said = await hereJson([
      'generate',
      join(out, 'model'),
      '--prompt',
      'to be',
      '--max-new-tokens',
      '3',
      '--device',
      'cpu',
    ])
    expect((said['tokens'] as number[][])[0]!.length).toBe(3)
  })

  it("converts a checkpoint to nanoGPT's ckpt.pt and back", async () => {
    const dir = join(folder, 'converted')
    await run(dir, { steps: 1, saveModel: false, lr: 1e-3, alwaysSaveCheckpoint: true })
    const [file, back] = [join(dir, 'ckpt.pt'), join(dir, 'back')]
    await hereJson(['convert', join(dir, keptIn(dir)), file])
    const { iterNum, runConfig } = await importNanogpt(file, join(dir, 'read'))
    expect([iterNum, runConfig]).toEqual([1, { dataset: 'shakespeare_char' }])
    await hereJson(['convert', file, back])
    const tensors = (of: string) => readSafetensors(read(dir, of, 'model.safetensors'))
    expect(tensors('back')).toEqual(tensors(keptIn(dir)))
    const { code, stderr } = await here(['convert', file, back, '--to', 'float16'])
    expect([code, stderr]).toEqual([2, expect.stringContaining('found --to')])
  })

  it("samples from nanoGPT's own ckpt.pt", async () => {
    const out = join(folder, 'theirs')
    mkdirSync(out)
    cpSync(join(GPT, 'nanogpt-no-bias/ckpt.pt'), join(out, 'ckpt.pt'))
    mkdirSync(join(folder, 'data', 'shakespeare_char'))
    cpSync(join(data, 'meta.json'), join(folder, 'data', 'shakespeare_char', 'meta.json'))
    const ask = [
      'sample',
      '--out_dir',
      out,
      '--start',
      'to be',
      '--num_samples',
      '1',
      '--max_new_tokens',
      '4',
      '--temperature',
      '0',
      '--device',
      'cpu',
    ]
    const { samples } = (await hereJson(ask, { cwd: folder })) as { samples: string[] }
    expect(samples[0]).toMatch(/^to be/)
  })
})
