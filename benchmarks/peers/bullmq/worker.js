// One BullMQ worker process: `concurrency` async no-op jobs at a time, finished jobs removed.
'use strict';

const { Worker } = require('bullmq');
const probe = require('./probe');

const url = new URL(process.env.BENCH_URL);

async function noop() {
  probe.hit();
}

const worker = new Worker('bench', noop, {
  connection: { host: url.hostname, port: Number(url.port) },
  concurrency: Number(process.env.BENCH_CONCURRENCY),
  removeOnComplete: { count: 0 },
});
worker.on('error', (error) => console.error(error.message));
probe.start();
