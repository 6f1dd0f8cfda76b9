// Counts handler calls in a BullMQ worker process and reports them to the harness through a file, ten times a
// second. process.hrtime is the machine's monotonic clock, the one that the Python probes read.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const target = path.join(process.env.BENCH_STATS || '.', `${process.pid}.json`);
let jobs = 0;
let first = 0n;
let last = 0n;
let written = 0;

exports.hit = function hit() {
  last = process.hrtime.bigint();
  if (jobs === 0) first = last;
  jobs += 1;
};

function report() {
  if (jobs === written) return;
  const seconds = (nanoseconds) => Number(nanoseconds) / 1e9;
  fs.writeFileSync(`${target}.tmp`, JSON.stringify({ jobs, first: seconds(first), last: seconds(last) }));
  fs.renameSync(`${target}.tmp`, target);
  written = jobs;
}

exports.start = function start() {
  setInterval(report, 100);
  // The harness may be gone by then: end at its time limit.
  setTimeout(() => process.exit(1), Number(process.env.BENCH_LIMIT) * 1000);
};
