// node watch.mjs: the present of runs, slots, nodes and the queue, then each change as it comes. Ctrl-C ends it.
//
// A line each: the kind, the key, and the record in short; "present" once a kind's present was shown.

import { toStack } from "./connect.mjs";
import { PRESENT, watch } from "./trainshed.mjs";

/** @typedef {import("./trainshed.mjs").Records} Records */

/** @type {{[K in keyof Records]: (record: Records[K]) => string}} */
const short = {
  runs: (r) => [r.status, r.name, ...(r.node ? [`on ${r.node}`] : []), ...(r.step === null ? [] : [`step ${r.step}`])].join(" "),
  slots: (s) => (s.healthy ? (s.run_id ? `held by ${s.run_id}` : "free") : `unhealthy: ${s.unhealthy_reason}`),
  nodes: (n) => `${n.status} ${n.slots_used} of ${n.slots_total} slots used`,
  queue: (q) => (q.total === 0 ? "empty" : `${q.total} wait: ${q.runs.map((run) => run.run_id).join(" ")}`),
};

/** What anybody named his run may hold escape codes of a terminal, or turn its text around. */
const printable = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "�");

async function show(nc, what) {
  for await (const change of watch(nc, what)) {
    if (change === PRESENT) console.log(what, "present");
    else console.log(what, change.key, change.record === null ? "gone" : printable(short[what](change.record)));
  }
}

const nc = await toStack("node-watch");
await Promise.all(Object.keys(short).map((what) => show(nc, what)));
