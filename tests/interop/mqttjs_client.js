// One scenario with MQTT.js: mqttjs_client.js KIND HOST PORT VERSION NAME CA
// Round trips at QoS 0, 1 and 2, a retained message, a session that is resumed, a Will. Exits 0 when all went well.
'use strict'
const assert = require('node:assert')
const fs = require('node:fs')
const mqtt = require('mqtt')

const [kind, host, port, version, name, ca] = process.argv.slice(2)
const DEADLINE = 20000

function device (id, options = {}) {
  const stored = options.stored === true
  const settings = {
    clientId: id,
    clean: !stored,
    reconnectPeriod: 0,
    protocolId: version === '3.1' ? 'MQIsdp' : 'MQTT',
    protocolVersion: { 3.1: 3, '3.1.1': 4, 5: 5 }[version],
    ca: fs.readFileSync(ca),
    will: options.will && { topic: options.will, payload: Buffer.from('gone'), qos: 1 }
  }
  if (version === '5') settings.properties = { sessionExpiryInterval: stored ? 60 : 0 }
  const tls = kind === 'mqtts' || kind === 'wss'
  const path = kind.startsWith('ws') ? '/mqtt' : ''
  const client = mqtt.connect(`${kind}://${tls ? 'localhost' : host}:${port}${path}`, settings)
  const queue = []
  const waiting = []
  client.on('message', (topic, payload, packet) => {
    const message = { topic, payload, qos: packet.qos, retain: packet.retain }
    if (waiting.length > 0) waiting.shift()(message)
    else queue.push(message)
  })
  const next = () => queue.length > 0 ? Promise.resolve(queue.shift()) : new Promise(resolve => waiting.push(resolve))
  return new Promise((resolve, reject) => {
    client.on('error', reject)
    client.once('connect', connack => resolve({ client, next, connack, leave: () => client.endAsync() }))
  })
}

async function main () {
  const sender = await device(name + 's')
  const receiver = await device(name + 'r')
  await receiver.client.subscribeAsync(name + '/#', { qos: 2 })
  for (const qos of [0, 1, 2]) {
    for (const payload of ['short', 'x'.repeat(50000)]) {
      await sender.client.publishAsync(`${name}/${qos}`, payload, { qos })
      const message = await receiver.next()
      assert.strictEqual(message.payload.toString(), payload)
      assert.strictEqual(message.qos, qos)
    }
  }
  await sender.client.publishAsync(name + '/kept', 'kept', { qos: 1, retain: true })
  assert.strictEqual((await receiver.next()).retain, false)
  const late = await device(name + 'l')
  await late.client.subscribeAsync(name + '/kept', { qos: 1 })
  assert.strictEqual((await late.next()).retain, true)
  await late.leave()
  await sender.client.publishAsync(name + '/kept', '', { qos: 1, retain: true })
  await receiver.next()

  const first = await device(name + 'q', { stored: true })
  await first.client.subscribeAsync(name + '/queue', { qos: 2 })
  await first.leave()
  for (let number = 0; number < 20; number++) {
    await sender.client.publishAsync(name + '/queue', String(number), { qos: number < 10 ? 1 : 2 })
    await receiver.next()
  }
  const second = await device(name + 'q', { stored: true })
  if (version !== '3.1') assert.strictEqual(second.connack.sessionPresent, true)
  for (let number = 0; number < 20; number++) {
    assert.strictEqual((await second.next()).payload.toString(), String(number))
  }
  await second.leave()
  await (await device(name + 'q')).leave()

  const doomed = await device(name + 'd', { will: name + '/will' })
  doomed.client.stream.destroy()
  assert.strictEqual((await receiver.next()).payload.toString(), 'gone')
  await receiver.leave()
  await sender.leave()
}

setTimeout(() => { console.error('the scenario did not end in time'); process.exit(1) }, DEADLINE).unref()
main().then(() => process.exit(0), error => { console.error(error); process.exit(1) })
