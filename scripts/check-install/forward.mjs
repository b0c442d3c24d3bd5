// The only way out of check-install.sh's network namespace: hands connections to 127.0.0.1:PORT on to
// the registry's socket, a file, which namespaces share. Writes the number of bytes that came in when it
// is ended.
//   node forward.mjs PORT SOCKET COUNT-FILE

import { writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'

const [port, socket, file] = process.argv.slice(2)
let received = 0

const server = createServer((client) => {
  const registry = connect(socket)
  registry.on('data', ({ length }) => (received += length))
  for (const stream of [client, registry]) {
    stream.on('error', () => {
      client.destroy()
      registry.destroy()
    })
  }
  client.pipe(registry).pipe(client)
})
server.listen(Number(port), '127.0.0.1', () => writeFileSync(file, '0'))
process.on('SIGTERM', () => {
  writeFileSync(file, String(received))
  process.exit()
})
