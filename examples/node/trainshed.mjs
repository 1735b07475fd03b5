// How any program watches a Trainshed stack over NATS: subscriptions and direct gets, nothing else.
// Owns the protocol (docs/contracts.md); knows neither how the connection was made nor what is shown.
//
// examples/browser uses this very file: there `nc` is a WebSocket connection.

import { createInbox } from "@nats-io/nats-core";

const PAGE = 500; // messages of one direct get
const ANSWER_WITHIN_MS = 5_000; // so long nothing of a page may arrive before it is asked for again
const AGAIN_AFTER_MS = 250;

/** What `watch` yields once, after the present. */
export const PRESENT = Symbol("present");

/**
 * @typedef {import("../../docs/schema/trainshed.d.ts").RunRecord} RunRecord
 * @typedef {import("../../docs/schema/trainshed.d.ts").SlotRecord} SlotRecord
 * @typedef {import("../../docs/schema/trainshed.d.ts").NodeRecord} NodeRecord
 * @typedef {import("../../docs/schema/trainshed.d.ts").QueueRecord} QueueRecord
 * @typedef {{runs: RunRecord, slots: SlotRecord, nodes: NodeRecord, queue: QueueRecord}} Records
 * @typedef {import("@nats-io/nats-core").NatsConnection} NatsConnection
 * @typedef {[number, string]} Age of a record: the event that changed it last, and the time of its last update
 */

/**
 * Where the records of a kind lie, where their changes are heard, and when one was made.
 * @type {{[K in keyof Records]: {bucket: string, live: string, age: (record: Records[K]) => Age}}}
 */
const KINDS = {
  runs: { bucket: "trainshed_runs", live: "trainshed.watch.runs.*", age: (r) => [r.seq, r.updated_at ?? ""] },
  slots: { bucket: "trainshed_slots", live: "trainshed.watch.slots.*.*", age: (r) => [r.seq, r.updated_at ?? ""] },
  nodes: { bucket: "trainshed_nodes", live: "trainshed.watch.nodes.*", age: (r) => [r.seq, r.updated_at ?? ""] },
  queue: { bucket: "trainshed_queue", live: "trainshed.watch.queue", age: (r) => [r.seq, r.at] },
};

/** Whether the age `a` is that of a newer record than `b`. */
export function newer(a, b) {
  return a[0] !== b[0] ? a[0] > b[0] : a[1] > b[1];
}

/**
 * Which of the records that arrive are to be handed out: never an older one after a newer, none twice. Pure.
 *
 * Within one connection the place in the bucket's stream decides. A restarted server has made that stream anew, and
 * places begin again: there the age decides, which is the log's.
 */
export class Newest {
  #known = new Map(); // key -> {place, age, here, seen}
  #age;

  constructor(age) {
    this.#age = age;
  }

  /** The present will be read, for the first time or again. */
  begin() {
    for (const known of this.#known.values()) Object.assign(known, { place: 0, seen: false });
  }

  /** A record, or null where the key has left its bucket; whether that is to be handed out. */
  take(key, place, record) {
    const known = this.#known.get(key);
    if (known && place <= known.place) return false;
    if (!record) {
      const wasHere = known?.here ?? false;
      this.#known.set(key, { place, age: known?.age ?? [0, ""], here: false, seen: true });
      return wasHere;
    }
    const age = this.#age(record);
    const older = known && newer(known.age, age);
    const same = known && !older && !newer(age, known.age);
    const here = (known?.here ?? false) || !older;
    this.#known.set(key, { place, age: older ? known.age : age, here, seen: true });
    return !older && !(same && known.here);
  }

  /** The present was read: the keys that were there before and are there no more. */
  over() {
    const left = [];
    for (const [key, known] of this.#known) {
      if (known.here && !known.seen) {
        known.here = false;
        left.push(key);
      }
    }
    return left;
  }
}

/**
 * The present records of a kind (`runs`, `slots`, `nodes`, `queue`), then each newer one as it changes.
 *
 * Yields `{key, record}`, with `record` null for a key that has left its bucket (a node or slot that is gone; a run that
 * ended long ago), and once `PRESENT`. Of changes that come faster than they are taken only the newest. After a
 * reconnection, as after a restart of the server, the present is read again and what has changed is yielded.
 *
 * @template {keyof Records} K
 * @param {NatsConnection} nc a connection that reconnects for ever
 * @param {K} what
 * @param {{inboxPrefix?: string, signal?: AbortSignal}} options
 * @returns {AsyncGenerator<typeof PRESENT | {key: string, record: Records[K] | null}>}
 */
export async function* watch(nc, what, { inboxPrefix, signal } = {}) {
  const { bucket, live, age } = KINDS[what];
  const newest = new Newest(age);
  const waiting = new Map(); // key -> record or null: what was not yielded yet
  const wake = new Bell();
  const stop = () => wake.ring();
  signal?.addEventListener("abort", stop);

  const receive = (subject, place, body) => {
    const key = subject.slice(`$KV.${bucket}.`.length);
    const record = body.length > 0 ? JSON.parse(new TextDecoder().decode(body)) : null;
    if (newest.take(key, place, record)) {
      waiting.delete(key);
      waiting.set(key, record);
      wake.ring();
    }
  };

  // Subscribe first, read then: what changes meanwhile is heard.
  let refused = null; // this user may not subscribe there
  const subscription = nc.subscribe(live, {
    callback: (error, m) => {
      if (error) {
        refused = error;
        wake.ring();
      } else {
        receive(m.headers.get("Nats-Subject"), Number(m.headers.get("Nats-Sequence")), m.data);
      }
    },
  });
  const reconnections = new Reconnections(nc, () => wake.ring());
  let read = 0; // the connection in which the present was last read, from 1 on
  let marked = false;
  try {
    while (!signal?.aborted) {
      if (refused) throw refused;
      if (read !== reconnections.count) {
        const connection = reconnections.count;
        newest.begin();
        for await (const m of stored(nc, `KV_${bucket}`, { inboxPrefix, signal, until: () => reconnections.count !== connection })) {
          receive(m.subject, m.seq, m.data);
        }
        if (reconnections.count !== connection) continue; // lost again meanwhile
        for (const key of newest.over()) waiting.set(key, null);
        read = connection;
      }
      for (const [key, record] of waiting) {
        waiting.delete(key);
        yield { key, record };
      }
      if (!marked && read === reconnections.count) {
        marked = true;
        yield PRESENT;
      }
      if (waiting.size === 0 && read === reconnections.count) await wake.rung();
    }
  } finally {
    signal?.removeEventListener("abort", stop);
    reconnections.stop();
    subscription.unsubscribe();
  }
}

/**
 * The events after sequence `since`, from the log and then live, each once and in order, over any reconnection.
 *
 * Yields `{seq, subject, event}`, with `event` as it is stored (a CloudEvent). Throws where the log was exchanged for another.
 *
 * @param {NatsConnection} nc
 * @param {{since?: number, inboxPrefix?: string, signal?: AbortSignal}} options
 */
export async function* events(nc, { since = 0, inboxPrefix, signal } = {}) {
  const log = (await health(nc)).log_id;
  const heard = []; // what came live and was not yielded yet
  const wake = new Bell();
  const stop = () => wake.ring();
  signal?.addEventListener("abort", stop);
  let refused = null;
  const subscription = nc.subscribe("trainshed.log.>", {
    callback: (error, m) => {
      if (error) refused = error;
      else heard.push({ seq: Number(m.headers.get("Nats-Sequence")), subject: m.headers.get("Nats-Subject"), data: m.data });
      wake.ring();
    },
  });
  const reconnections = new Reconnections(nc, () => wake.ring());
  let read = 0;
  let last = since;
  try {
    while (!signal?.aborted) {
      if (refused) throw refused;
      // The log has no gaps: where the next sequence is not the one after the last, it is read there.
      while (heard.length > 0 && heard[0].seq <= last) heard.shift();
      if (read !== reconnections.count || (heard.length > 0 && heard[0].seq > last + 1)) {
        const connection = reconnections.count;
        if (read !== 0 && connection !== read && (await health(nc)).log_id !== log) throw new Error("this is another log now");
        const until = () => reconnections.count !== connection;
        for await (const m of stored(nc, "TRAINSHED_EVENTS", { seq: last + 1, inboxPrefix, signal, until })) {
          last = m.seq;
          yield event(m);
        }
        read = connection;
      } else if (heard.length > 0) {
        const m = heard.shift();
        last = m.seq;
        yield event(m);
      } else {
        await wake.rung();
      }
    }
  } finally {
    signal?.removeEventListener("abort", stop);
    reconnections.stop();
    subscription.unsubscribe();
  }
}

function event({ seq, subject, data }) {
  return { seq, subject, event: JSON.parse(new TextDecoder().decode(data)) };
}

/** Which log it is (`log_id`), its last sequence (`last_seq`), and more: waits until a projector answers. */
export async function health(nc) {
  for (;;) {
    try {
      const answer = (await nc.request("trainshed.api.health", "{}", { timeout: ANSWER_WITHIN_MS })).json();
      if (answer.log_id) return answer;
    } catch (error) {
      if (nc.isClosed()) throw error; // else nobody answers yet
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER_MS));
  }
}

/**
 * What a stream holds from sequence `seq` on, to its end as it is when that is reached: `{seq, subject, data}`.
 *
 * A page that is lost with its connection, or that nobody answers, is asked for again; `until` ends that.
 *
 * @param {NatsConnection} nc
 * @param {string} stream
 * @param {{seq?: number, subject?: string, inboxPrefix?: string, signal?: AbortSignal, until?: () => boolean}} options
 */
export async function* stored(nc, stream, { seq = 1, subject = ">", inboxPrefix, signal, until = () => false } = {}) {
  for (let more = true; more && !signal?.aborted && !until(); ) {
    const page = await directGet(nc, stream, { seq, batch: PAGE, next_by_subj: subject }, inboxPrefix);
    for (const message of page.messages) {
      seq = message.seq + 1;
      yield message;
    }
    more = page.more;
    if (page.unanswered) await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER_MS));
  }
}

/**
 * One batched direct get (NATS ADR-31): messages, ended by one of status 204 that says how many more there are.
 *
 * @returns {Promise<{messages: {seq: number, subject: string, data: Uint8Array}[], more: boolean, unanswered?: boolean}>}
 */
function directGet(nc, stream, asked, inboxPrefix) {
  return new Promise((resolve, reject) => {
    const messages = [];
    const inbox = createInbox(inboxPrefix);
    const end = (result) => {
      clearTimeout(late);
      subscription.unsubscribe();
      resolve({ messages, ...result });
    };
    const unanswered = () => end({ more: true, unanswered: true });
    let late = setTimeout(unanswered, ANSWER_WITHIN_MS);
    const subscription = nc.subscribe(inbox, {
      callback: (error, m) => {
        clearTimeout(late);
        if (error) {
          reject(error);
          return;
        }
        switch (m.headers?.code || 0) {
          case 0:
            messages.push({
              seq: Number(m.headers.get("Nats-Sequence")),
              subject: m.headers.get("Nats-Subject"),
              data: m.data,
            });
            late = setTimeout(unanswered, ANSWER_WITHIN_MS);
            return;
          case 204: // the end of the page
            return end({ more: Number(m.headers.get("Nats-Num-Pending")) > 0 });
          case 404: // nothing from there on
            return end({ more: false });
          case 503: // no such stream, yet: a restarted server's buckets are made anew
            return unanswered();
          default:
            reject(new Error(`${stream} cannot be read: ${m.headers.code} ${m.headers.description}`));
        }
      },
    });
    nc.publish(`$JS.API.DIRECT.GET.${stream}`, JSON.stringify(asked), { reply: inbox });
  });
}

/** Counts connections, from 1 on: where it has changed, something may have been missed. */
class Reconnections {
  count = 1;
  #stopped = false;

  constructor(nc, changed) {
    (async () => {
      for await (const status of nc.status()) {
        if (this.#stopped) return;
        if (status.type === "reconnect") {
          this.count += 1;
          changed();
        }
      }
    })();
  }

  stop() {
    this.#stopped = true;
  }
}

/** A sleep that ends when somebody rings, also where that was before it began. */
class Bell {
  #rung = false;
  #wake = (/** @type {unknown} */ _ = null) => {};

  ring() {
    this.#rung = true;
    this.#wake();
  }

  async rung() {
    if (!this.#rung) await new Promise((resolve) => (this.#wake = resolve));
    this.#rung = false;
    this.#wake = () => {};
  }
}
