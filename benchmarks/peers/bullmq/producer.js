// Enqueues jobs with BullMQ: node producer.js <mode> <jobs> <names>; prints one JSON line with the seconds taken.
'use strict';

const { Queue } = require('bullmq');

const PRODUCERS = 64;
const BATCH = 1000;

const [mode, count, names] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const url = new URL(process.env.BENCH_URL);
const queue = new Queue('bench', { connection: { host: url.hostname, port: Number(url.port) } });
const jobs = Array.from({ length: count }, (_, number) => `job${number % names}`);

const modes = {
  async sequential() {
    for (const name of jobs) await queue.add(name, {});
  },
  async concurrent() {
    const shared = jobs[Symbol.iterator]();
    const drain = async () => {
      for (const name of shared) await queue.add(name, {});
    };
    await Promise.all(Array.from({ length: PRODUCERS }, drain));
  },
  async bulk() {
    for (let start = 0; start < count; start += BATCH) {
      await queue.addBulk(jobs.slice(start, start + BATCH).map((name) => ({ name, data: {} })));
    }
  },
};

async function main() {
  await queue.waitUntilReady();
  const started = process.hrtime.bigint();
  await modes[mode]();
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  console.log(JSON.stringify({ jobs: count, seconds }));
  await queue.close();
}

main();
