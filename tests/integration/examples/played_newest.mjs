// node played_newest.mjs trainshed.mjs STORIES: random stories of a bucket, its pages and a server that restarts, and of
// each what `Newest` hands out: never an older record after a newer, none twice, and the last of each at the end.

import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

const { Newest, newer } = await import(pathToFileURL(process.argv[2]));
const stories = Number(process.argv[3]);
const age = (record) => [record.seq, record.updated_at];
let state = 1;

function random(most) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * most);
}

function play() {
  const newest = new Newest(age);
  const log = new Map(); // key -> the true record
  const before = new Map(); // key -> the true record before that
  let bucket = new Map(); // key -> {place, record or null}
  let place = 0;
  let seq = 0;
  let live = []; // on their way to the watcher
  const shown = new Map(); // key -> record, as a watcher has it
  const last = new Map(); // key -> the age of the last record that was handed out
  let handed = 0;

  const hand = (key, record) => {
    handed += 1;
    if (record === null) {
      assert(shown.delete(key), "gone without having been there");
      return;
    }
    const before = last.get(key);
    assert(!before || !newer(before, age(record)), "an older record after a newer");
    assert(!shown.has(key) || newer(age(record), age(shown.get(key))), "the same record twice");
    shown.set(key, record);
    last.set(key, age(record));
  };
  const take = (key, at, record) => newest.take(key, at, record) && hand(key, record);
  const put = (key, record, heard = true) => {
    place += 1;
    bucket.set(key, { place, record });
    if (heard) live.push([key, place, record]);
  };
  const change = () => {
    const key = "abc"[random(3)];
    if (log.has(key) && random(5) === 0) {
      log.delete(key);
      before.delete(key);
      put(key, null, connected);
      return;
    }
    if (random(3) > 0 || !log.has(key)) seq += 1; // else a heartbeat, which moves its time alone
    if (log.has(key)) before.set(key, log.get(key));
    log.set(key, { seq, updated_at: String(place + 1000 * restarts).padStart(9, "0") });
    put(key, log.get(key), connected);
  };
  const hear = (count) => {
    for (; count > 0 && live.length > 0; count -= 1) take(...live.shift());
  };
  let restarts = 1;
  let filling = []; // what a bucket that was made anew lacks yet
  let connected = true;
  const restart = () => {
    // The buckets are in memory: made anew, they are filled from the log, while the watcher is already back or not yet.
    restarts += 1;
    [bucket, place, live] = [new Map(), 0, []];
    connected = random(2) === 0;
    filling = [...log.keys()];
    fill(random(4));
    connected = true;
  };
  const fill = (count) => {
    for (; count > 0 && filling.length > 0; count -= 1) {
      const key = filling.shift();
      if (!log.has(key)) continue;
      // A projector that is behind puts what it knows, and later the rest.
      const behind = before.has(key) && random(3) === 0;
      put(key, behind ? before.get(key) : log.get(key), connected);
      if (behind) filling.push(key);
    }
  };
  const present = () => {
    newest.begin();
    const page = [];
    for (const [key, { place: at, record }] of bucket) page.push([key, at, record]); // read now, arriving later
    for (const one of page) {
      if (random(2) === 0) change();
      fill(random(2));
      hear(random(3));
      take(...one);
    }
    for (const key of newest.over()) hand(key, null);
  };

  for (let step = random(5); step > 0; step -= 1) change();
  live = [];
  present();
  for (let step = random(20); step > 0; step -= 1) {
    if (random(8) === 0) {
      restart();
      hear(random(3));
      present();
    } else {
      change();
      hear(random(3));
    }
  }
  fill(Infinity);
  hear(Infinity);
  for (const [key, record] of log) assert.deepEqual(shown.get(key), record, "the last record of each is shown");
  for (const key of shown.keys()) assert(log.has(key), "what is gone is not shown");
  return handed;
}

let handed = 0;
for (let story = 1; story <= stories; story += 1) {
  state = story;
  try {
    handed += play();
  } catch (error) {
    error.message = `story ${story}: ${error.message}`;
    throw error;
  }
}
console.log(`played ${stories} stories, ${handed} records handed out`);
