// interop-node: @grpc/grpc-js's client and server of undermesh.interop.v1 (see ../README.md).
'use strict';

const path = require('node:path');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const LANGUAGE = 'node';
const OPTIONS = {
  'grpc.max_receive_message_length': 80 << 20,
  'grpc.max_send_message_length': 80 << 20,
  'grpc.enable_http_proxy': 0,
};
const FAIL_MESSAGE = 'näh: 100 % sure\nsecond line';
const PROTO = process.env.INTEROP_PROTO || path.join(__dirname, 'interop.proto');
const definition = loader.loadSync(PROTO, { keepCase: true, longs: Number, defaults: true });
const { Interop } = grpc.loadPackageDefinition(definition).undermesh.interop.v1;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function server({ port, name, bind }) {
  const stats = { name, language: LANGUAGE, calls: 0, cancelled: 0 };
  // Returns the trailing metadata.
  const begin = (call) => {
    stats.calls += 1;
    const header = new grpc.Metadata();
    const trailer = new grpc.Metadata();
    call.metadata.get('x-interop-echo').forEach((v) => header.set('x-interop-echo', v));
    call.metadata.get('x-interop-echo-bin').forEach((v) => trailer.set('x-interop-echo-bin', v));
    call.sendMetadata(header);
    return trailer;
  };
  const reply = (call, request, bytes, messages) => {
    const left = Number(call.getDeadline()) - Date.now();
    return {
      payload: Buffer.alloc(request.reply_bytes),
      pod: name,
      language: LANGUAGE,
      received_bytes: bytes,
      received_messages: messages,
      deadline_ms: Number.isFinite(left) ? Math.max(Math.floor(left), 1) : 0,
    };
  };
  const failure = (request, metadata) =>
    request.fail_code ? { code: request.fail_code, details: request.fail_message, metadata } : null;
  // The one end of a call.
  const answer = (call, end) => {
    if (call.answered) return;
    call.answered = true;
    end();
  };
  // Writes replies no faster than the client reads them.
  const write = (call, message) =>
    new Promise((resolve) => (call.write(message) || call.cancelled ? resolve() : call.once('drain', resolve)));

  const grpcServer = new grpc.Server(OPTIONS);
  grpcServer.addService(Interop.service, {
    async Unary(call, done) {
      const trailer = begin(call);
      await sleep(call.request.delay_ms);
      const error = failure(call.request, trailer);
      answer(call, () => {
        if (error) done(error);
        else done(null, reply(call, call.request, call.request.payload.length, 1), trailer);
      });
    },
    async ServerStream(call) {
      const trailer = begin(call);
      await sleep(call.request.delay_ms);
      for (let i = 0; i < call.request.replies && !call.cancelled; i += 1) {
        await write(call, reply(call, call.request, call.request.payload.length, 1));
      }
      const error = failure(call.request, trailer);
      answer(call, () => (error ? call.emit('error', error) : call.end(trailer)));
    },
    ClientStream(call, done) {
      const trailer = begin(call);
      let last = { reply_bytes: 0 };
      let bytes = 0;
      let messages = 0;
      call.on('data', (request) => {
        last = request;
        bytes += request.payload.length;
        messages += 1;
      });
      call.on('end', () => {
        const error = failure(last, trailer);
        answer(call, () => (error ? done(error) : done(null, reply(call, last, bytes, messages), trailer)));
      });
    },
    BidiStream(call) {
      const trailer = begin(call);
      // grpc-js says so at the end of good calls as well.
      call.on('cancelled', () => (stats.cancelled += call.answered ? 0 : 1));
      let bytes = 0;
      let messages = 0;
      // Requests are obeyed one after the other. (An async iterator would destroy the call at half-close.)
      let turn = Promise.resolve();
      call.on('data', (request) => {
        turn = turn.then(async () => {
          bytes += request.payload.length;
          messages += 1;
          await sleep(request.delay_ms);
          for (let i = 0; i < request.replies && !call.cancelled; i += 1) {
            await write(call, reply(call, request, bytes, messages));
          }
          const error = failure(request, trailer);
          if (error) answer(call, () => call.emit('error', error));
        });
      });
      call.on('end', () => turn.then(() => answer(call, () => call.end(trailer))));
    },
  });
  grpcServer.bindAsync(`${bind || '[::]'}:${port}`, grpc.ServerCredentials.createInsecure(), (error, bound) => {
    if (error) throw error;
    console.log(JSON.stringify({ ready: bound }));
  });
  const stop = () => {
    setTimeout(() => grpcServer.forceShutdown(), 5000).unref();
    grpcServer.tryShutdown(() => {
      console.log(JSON.stringify(stats));
      process.exit(0);
    });
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
}

function check(good, text) {
  if (!good) throw new Error(text);
}

async function expect(code, details, promise) {
  let error = null;
  try {
    await promise;
  } catch (e) {
    error = e;
  }
  check(error, `want status ${code}, got an answer`);
  check(error.code === code && (details === null || error.details === details), `${error.code}: ${error.details}`);
}

function cases(stub, { count, large }, pods, servers) {
  const soon = (ms = 60_000) => ({ deadline: Date.now() + ms });
  const unary = (request, options = soon(), metadata = new grpc.Metadata()) =>
    new Promise((resolve, reject) => {
      const seen = {};
      const call = stub.Unary(request, metadata, options, (error, reply) => {
        if (error) reject(error);
        else seen.reply = reply;
      });
      call.on('metadata', (m) => (seen.header = m));
      call.on('status', (status) => {
        seen.trailer = status.metadata;
        if (status.code === 0) setImmediate(() => resolve(seen));
      });
    });
  const collect = async (call) => {
    const got = [];
    for await (const reply of call) got.push(reply);
    return got;
  };
  return {
    async unary_sizes() {
      for (const size of [0, 1, 1000, 65_536, large]) {
        const { reply } = await unary({ payload: Buffer.alloc(size), reply_bytes: size });
        check(reply.payload.length === size && reply.received_bytes === size, `${size} bytes: ${reply.received_bytes}`);
      }
    },
    async server_stream() {
      for (const [replies, reply_bytes] of [[0, 0], [200, 128], [20, 65_536], [3, 0]]) {
        const got = await collect(stub.ServerStream({ replies, reply_bytes }, soon()));
        check(got.length === replies, `${got.length} replies, want ${replies}`);
        check(got.every((reply) => reply.payload.length === reply_bytes), 'a reply of another length');
      }
    },
    async client_stream() {
      for (const messages of [0, 1, 100]) {
        const reply = await new Promise((resolve, reject) => {
          const call = stub.ClientStream(soon(), (error, answer) => (error ? reject(error) : resolve(answer)));
          for (let i = 0; i < messages; i += 1) call.write({ payload: Buffer.alloc(1000) });
          call.end();
        });
        const good = reply.received_messages === messages && reply.received_bytes === messages * 1000;
        check(good, `server got ${reply.received_messages} messages of ${messages}`);
      }
    },
    async bidi_stream() {
      const call = stub.BidiStream(soon());
      const replies = call[Symbol.asyncIterator]();
      for (let i = 0; i < 20; i += 1) {
        call.write({ payload: Buffer.alloc(i), replies: 2, reply_bytes: i });
        for (let k = 0; k < 2; k += 1) {
          const { value } = await replies.next();
          const good = value && value.payload.length === i && value.received_messages === i + 1;
          check(good, `turn ${i}: ${JSON.stringify(value)}`);
        }
      }
      call.end();
      check((await replies.next()).done, 'a reply after half-close');
    },
    async metadata() {
      const binary = Buffer.from([0, 1, 0xfe, 0xff]);
      const sent = new grpc.Metadata();
      sent.set('x-interop-echo', 'hello');
      sent.set('x-interop-echo-bin', binary);
      sent.set('x-interop-large', 'm'.repeat(6000));
      const { header, trailer, reply } = await unary({}, soon(), sent);
      // tonic has no trailers beside a good status: its server sends both in the initial metadata.
      const trailing = reply.language === 'rust' ? header : trailer;
      check(header.get('x-interop-echo')[0] === 'hello', `initial metadata ${header.get('x-interop-echo')}`);
      check(binary.equals(trailing.get('x-interop-echo-bin')[0] || Buffer.alloc(0)), 'trailing metadata');
    },
    async deadline_passed_on() {
      const seen = (await unary({}, soon(30_000))).reply.deadline_ms;
      check(seen > 0 && seen <= 31_000, `server saw a deadline of ${seen} ms, want 1 to 31000`);
    },
    async deadline_exceeded() {
      const began = Date.now();
      const error = await unary({ delay_ms: 10_000 }, soon(300)).then(() => ({ code: 0 }), (e) => e);
      // A server's own timer may win the race: grpc-go resets the stream, tonic answers CANCELLED. Nobody else cancels here. A proxy may show that reset as UNAVAILABLE, as Envoy does.
      const late = [grpc.status.DEADLINE_EXCEEDED, grpc.status.CANCELLED].includes(error.code);
      check(late || /(remote reset CANCEL|upstream request timeout)/.test(error.details), `status ${error.code}: ${error.details}`);
      check(Date.now() - began < 3000, `only after ${Date.now() - began} ms`);
    },
    async cancel() {
      const call = stub.BidiStream(soon());
      const replies = call[Symbol.asyncIterator]();
      call.write({ replies: 1 });
      check(!(await replies.next()).done, 'no first reply');
      // Node ends the requests before it resets the stream: a server that had nothing to do would be done by then.
      call.write({ replies: 1, delay_ms: 3_000 });
      await sleep(100);
      call.cancel();
      await expect(grpc.status.CANCELLED, null, replies.next());
    },
    async status() {
      await expect(9, FAIL_MESSAGE, unary({ fail_code: 9, fail_message: FAIL_MESSAGE }));
    },
    async status_after_replies() {
      const request = { replies: 3, reply_bytes: 10, fail_code: 9, fail_message: FAIL_MESSAGE };
      const call = stub.ServerStream(request, soon());
      let got = 0;
      const ended = new Promise((resolve, reject) => {
        call.on('data', () => (got += 1));
        call.on('error', reject);
        call.on('end', resolve);
      });
      await expect(9, FAIL_MESSAGE, ended);
      check(got === 3, `${got} replies before the status, want 3`);
    },
    async unimplemented() {
      const same = (bytes) => bytes;
      const missing = new Promise((resolve, reject) => {
        const done = (error, reply) => (error ? reject(error) : resolve(reply));
        stub.makeUnaryRequest('/undermesh.interop.v1.Interop/Missing', same, same, Buffer.alloc(0), soon(), done);
      });
      await expect(grpc.status.UNIMPLEMENTED, null, missing);
    },
    async spread() {
      for (let i = 0; i < count; i += 1) {
        const { reply } = await unary({ payload: Buffer.alloc(64), reply_bytes: 64 });
        pods[reply.pod] = (pods[reply.pod] || 0) + 1;
        servers[reply.language] = (servers[reply.language] || 0) + 1;
      }
    },
  };
}

async function client({ target, count, large }) {
  const stub = new Interop(target, grpc.credentials.createInsecure(), OPTIONS);
  const out = { language: LANGUAGE, target, ok: true, cases: {}, pods: {}, servers: {} };
  for (const [name, run] of Object.entries(cases(stub, { count, large }, out.pods, out.servers))) {
    try {
      await run();
      out.cases[name] = 'ok';
    } catch (error) {
      out.cases[name] = String(error.message || error);
      out.ok = false;
    }
  }
  stub.close();
  console.log(JSON.stringify(out));
  process.exitCode = out.ok ? 0 : 1;
}

const command = process.argv[2];
const { values } = parseArgs({
  args: process.argv.slice(3),
  options: {
    target: { type: 'string', default: '127.0.0.1:50051' },
    count: { type: 'string', default: '100' },
    large: { type: 'string', default: String(1 << 20) },
    port: { type: 'string', default: '50051' },
    name: { type: 'string', default: LANGUAGE },
    bind: { type: 'string', default: '' },
  },
});
if (command === 'client') client({ target: values.target, count: Number(values.count), large: Number(values.large) });
else if (command === 'server') server({ port: Number(values.port), name: values.name, bind: values.bind });
else {
  console.error('usage: interop-node client|server …');
  process.exitCode = 2;
}
