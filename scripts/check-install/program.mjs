// What a user's program does: imports zo2 from where it is installed, and takes one step.
//   node program.mjs MODEL

import { fromPretrained, VERSION, zoInit } from 'zo2'

const model = await fromPretrained(process.argv[2], { device: 'cpu' })
const zo = await zoInit(model, { method: 'mezo-sgd', lr: 1e-6, eps: 1e-3, seed: 0 })
const inputIds = [[2, 5, 6, 7, 8, 9]]
const { loss } = await zo.step({ inputIds, labels: inputIds })
await model.close()
if (!Number.isFinite(loss)) throw new Error(`the loss is ${loss}`)
console.log(`zo2 ${VERSION}, loss ${loss.toFixed(4)}`)
