// The page: connects with what stands behind the address's #, and shows what the watches of trainshed.mjs yield.

import { wsconnect } from "@nats-io/nats-core";
import { element, FollowedOutput } from "./output.mjs";
import { PRESENT, watch } from "./trainshed.mjs";

const LIVE = ["RUNNING", "DISPATCHING", "PENDING"]; // in the order in which they are shown
const runs = new Map(); // run id -> record, the live ones
let followed = null; // {runId, output}

const $ = (id) => document.getElementById(id);

function connection(state, text) {
  document.body.className = state;
  $("connection").textContent = text;
}

/** The rows of a table by their keys: put in at their place, changed or taken out, one at a time. */
class Table {
  #rows = new Map();

  constructor(id, clicked) {
    this.body = $(id).tBodies[0];
    this.clicked = clicked;
  }

  put(key, cells, order = key) {
    let row = this.#rows.get(key);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.key = key;
      if (this.clicked) row.onclick = () => this.clicked(key);
      this.#rows.set(key, row);
    }
    row.replaceChildren(...cells.map((text) => element("td", text ?? "")));
    if (row.dataset.order !== order) {
      row.dataset.order = order;
      row.remove();
      const after = [...this.body.rows].find((other) => inOrder(order, other.dataset.order));
      this.body.insertBefore(row, after ?? null);
    }
  }

  remove(key) {
    this.#rows.get(key)?.remove();
    this.#rows.delete(key);
  }

  get keys() {
    return [...this.#rows.keys()];
  }
}

/** Whether `a` comes before `b`: as people count, box.2 before box.10. */
function inOrder(a, b) {
  return a.localeCompare(b, "en", { numeric: true }) < 0;
}

/** The one metric to show: the run's own choice, else what is mostly looked for, else the first. */
function metricOf({ primary_metric, labels, metrics }) {
  const names = Object.keys(metrics);
  const likely = ["reward", "return", "score", "accuracy", "loss"].find((name) => name in metrics);
  return [primary_metric, labels.metric, likely, names[0]].find((name) => name in metrics);
}

function showRun(table, nc, key, run) {
  if (followed?.runId === key && run) $("followed-status").textContent = run.status;
  if (run === null || !LIVE.includes(run.status)) {
    runs.delete(key);
    table.remove(key);
  } else {
    runs.set(key, run);
    const metric = metricOf(run);
    const cells = [
      key.slice(0, 6),
      run.name,
      run.status,
      run.node && [run.node, ...(run.slots.length ? [run.slots.join(",")] : [])].join(":"),
      run.step,
      metric && `${metric} ${run.metrics[metric]}`,
    ];
    table.put(key, cells, `${LIVE.indexOf(run.status)} ${run.submit_seq}`);
    if (followed === null && run.status === "RUNNING") follow(table, nc, key);
  }
  $("runs-count").textContent = runs.size;
}

function showSlot(table, key, slot) {
  if (slot === null) table.remove(key);
  else table.put(key, [key, slot.healthy ? slot.run_id?.slice(0, 6) ?? "free" : `unhealthy: ${slot.unhealthy_reason}`]);
}

function showQueue(table, queue) {
  const waiting = queue?.runs ?? [];
  const there = new Set(waiting.map((run) => run.run_id));
  for (const runId of table.keys) if (!there.has(runId)) table.remove(runId);
  for (const [index, { run_id, place, waiting: wait }] of waiting.entries()) {
    table.put(run_id, [place ?? "–", run_id.slice(0, 6), wait?.reason], String(index));
  }
  $("queue-total").textContent = queue?.total ?? "";
}

function follow(table, nc, runId) {
  followed?.output.stop();
  for (const row of table.body.rows) row.className = row.dataset.key === runId ? "followed" : "";
  const run = runs.get(runId);
  $("followed").hidden = false;
  $("followed-name").textContent = `${runId.slice(0, 6)} ${run.name}`;
  $("followed-status").textContent = run.status;
  followed = { runId, output: new FollowedOutput(nc, runId, $("output"), $("telemetry")) };
}

async function show(nc, what, inboxPrefix, change) {
  for await (const changed of watch(nc, what, { inboxPrefix })) {
    if (changed === PRESENT) document.body.dataset[what] = "present";
    else change(changed.key, changed.record);
  }
}

async function connected({ url, user, password, inbox_prefix }) {
  for (;;) {
    try {
      return await wsconnect({
        name: "page",
        servers: url,
        user,
        pass: password,
        inboxPrefix: inbox_prefix,
        maxReconnectAttempts: -1,
        reconnectTimeWait: 250,
      });
    } catch (error) {
      connection("lost", `no connection to ${url} (${error.message}). It takes pages of here where it was started so: trainshed up --websocket --websocket-origin ${location.origin}`);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

async function main() {
  const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!given.url || !given.password) {
    connection("lost", "open the address that `node serve.mjs` prints: behind its # stands where to connect, and as whom");
    return;
  }
  const nc = await connected(given);
  connection("connected", "connected");
  (async () => {
    for await (const { type } of nc.status()) {
      if (type === "disconnect") connection("lost", "connection lost: what is shown may have changed since");
      if (type === "reconnect") connection("connected", "connected");
      if (type === "close") connection("lost", "closed: the server refuses this page. Open the address that `node serve.mjs` prints now");
    }
  })();
  const runsTable = new Table("runs", (key) => follow(runsTable, nc, key));
  const slotsTable = new Table("slots");
  const queueTable = new Table("queue");
  await Promise.all([
    show(nc, "runs", given.inbox_prefix, (key, run) => showRun(runsTable, nc, key, run)),
    show(nc, "slots", given.inbox_prefix, (key, slot) => showSlot(slotsTable, key, slot)),
    show(nc, "queue", given.inbox_prefix, (_, queue) => showQueue(queueTable, queue)),
  ]);
}

main().catch((error) => connection("lost", `this page cannot go on: ${error.message}`));
