// node events.mjs [SINCE]: every event of the log after that sequence (0), then each as it is stored. Ctrl-C ends it.
//
// A line each: sequence, time, what it is about, and its type.

import { toStack } from "./connect.mjs";
import { events, health } from "./trainshed.mjs";

const since = Number(process.argv[2] ?? 0);
if (!Number.isSafeInteger(since) || since < 0) {
  console.error("usage: node events.mjs [SINCE]      a sequence of the log, 0 or more");
  process.exit(2);
}
const nc = await toStack("node-events");
const { log_id, last_seq } = await health(nc);
console.error(`log ${log_id}, ${last_seq} events so far`);
for await (const { seq, subject, event } of events(nc, { since })) {
  const [, , scope, id, , type] = subject.split(".");
  console.log(seq, event.time, scope, id, type);
}
