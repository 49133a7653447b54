// A producer in JavaScript: tokenizes a value and turns the token back, each request checked before it is sent, each
// reply before it is used.
//
//   npm install
//   echo -n grace@navy.example | node index.mjs shop-frontend email
//
// Arguments are the client and the type (str, email, bytes as base64, int64 as decimal text); at a terminal it makes a
// value up. Exit status 1, and the code on standard error, for a reply that is an error.
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { text } from 'node:stream/consumers'
import Ajv from 'ajv/dist/2020.js'
import { createClient } from 'redis'

const PATIENCE_MS = 10_000
const [client = 'demo-client', type = 'email'] = process.argv.slice(2)

const ajv = new Ajv()
const [checkRequest, checkReply] = await Promise.all(
  ['request', 'reply'].map(async (name) => {
    const schema = JSON.parse(await readFile(new URL(`../../${name}.schema.json`, import.meta.url)))
    const isValid = ajv.compile(schema)
    return (message) => {
      // Ajv says where and what was expected; it quotes no value.
      if (!isValid(message)) throw new Error(ajv.errorsText(isValid.errors, { dataVar: name }))
    }
  })
)

/** Sends one request and waits for its reply, on a stream that only this request names. */
async function ask (streams, op, value) {
  const id = randomUUID()
  const replyTo = `${op}:responses:${id}`
  const [seconds] = await streams.sendCommand(['TIME']) // not our own clock: workers go by that of the Redis
  const expiresAt = (Number(seconds) + 1) * 1000 + PATIENCE_MS
  const request = { id, op, client_id: client, type, value, reply_to: replyTo, expires_at: expiresAt }
  checkRequest(request)
  await streams.xAdd(`${op}:requests`, '*', { payload: JSON.stringify(request) })
  // From 0: the reply may be there by now.
  const found = await streams.xRead({ key: replyTo, id: '0' }, { COUNT: 1, BLOCK: PATIENCE_MS })
  if (found === null) throw new Error('no reply in time')
  const reply = JSON.parse(found[0].messages[0].message.payload)
  checkReply(reply)
  if (reply.status !== 'ok') throw new Error(`${reply.error.code}: ${reply.error.message}`)
  return reply.value
}

async function readValue () {
  if (process.stdin.isTTY) return `${randomUUID()}@example.com`
  return (await text(process.stdin)).replace(/\n$/, '')
}

const streams = createClient({
  url: process.env.TOKEN_WORKER_STREAMS_URL ?? 'redis://127.0.0.1:6379/0',
  socket: { reconnectStrategy: false }
})
streams.on('error', () => {}) // what fails says so itself
try {
  await streams.connect()
  const value = await readValue()
  const token = await ask(streams, 'tokenize', value)
  console.log(token)
  if (await ask(streams, 'detokenize', token) !== value) throw new Error('the token turned back into another value')
} catch (error) {
  console.error(error.message)
  process.exitCode = 1
} finally {
  if (streams.isOpen) streams.destroy()
}
