// Starts the emulator's Google on a free loopback port. Options come as one JSON line on standard input (a client
// secret does not belong in argv); when that closes, our parent is gone, and so are we.
import { createInterface } from 'node:readline'
import { createEmulator } from 'emulate'

const lines = createInterface({ input: process.stdin })
lines.on('close', () => process.exit(0))
lines.once('line', async (line) => {
  const google = await createEmulator({ service: 'google', port: 0, hostname: '127.0.0.1', seed: JSON.parse(line) })
  console.log(`listening ${new URL(google.url).port}`)
})
