// One system of the WebGPU bench in a process of its own, told by its parent what to do (webgpu.ts).
//   argv: system, adapter

import type { Answer, Open, Request, System, SystemName, Work } from './work.ts'
import { operandsOf, SYSTEMS } from './work.ts'

const SAMPLE_EVERY = 997

let system: System | undefined
let work: Work | undefined

async function answer(request: Request): Promise<Answer> {
  if (request.do === 'close') {
    await system?.close()
    return {}
  }
  if (request.do === 'prepare') {
    work = await system!.prepare(request.shape, operandsOf(request.shape))
    await work.run() // compiles what there is to compile
    const output = await work.output()
    return { sample: Array.from(output.filter((_, i) => i % SAMPLE_EVERY === 0)) }
  }
  const ms: number[] = []
  for (let i = 0; i < request.times; i++) {
    const started = performance.now()
    await work!.run()
    ms.push(performance.now() - started)
  }
  return { ms, rssBytes: process.resourceUsage().maxRSS * 1024 }
}

async function serve(name: SystemName, adapter: string) {
  const send = (message: Answer) => process.send!(message)
  const failed = (error: unknown) => send({ error: String(error) })
  try {
    const { open } = (await import(SYSTEMS[name])) as { open: Open }
    system = await open(adapter)
    send({ version: system.version })
  } catch (error) {
    failed(error)
    return
  }
  process.on('message', (request: Request) => {
    answer(request).then((done) => {
      send(done)
      if (request.do === 'close') process.exit()
    }, failed)
  })
}

await serve(process.argv[2] as SystemName, process.argv[3]!)
