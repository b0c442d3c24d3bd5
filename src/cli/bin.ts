#!/usr/bin/env node
// Entry point of the `zo2` command. What keeps the program itself from being read is said in one
// sentence too.

try {
  const { main } = await import('./main.ts')
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  const { code, message } = error as NodeJS.ErrnoException
  const why =
    code === 'EMFILE' || code === 'ERR_MODULE_NOT_FOUND'
      ? `its own files cannot all be read (${code}): raise the limit of open files (ulimit -n), or install it again`
      : `internal error: ${message}`
  process.stderr.write(`zo2: ${why}\n`)
  process.exitCode = 1
}
