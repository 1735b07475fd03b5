// Connects a Node program to the stack that runs here: NATS_URL, else the state folder's endpoint.json.

import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { connect } from "@nats-io/transport-node";

/** A connection that reconnects for ever. Where nothing says where to go, or nobody answers, the program ends with that. */
export async function toStack(name) {
  try {
    return await connected(name);
  } catch (error) {
    console.error(error.message);
    process.exit(3);
  }
}

async function connected(name) {
  const endpoint = process.env.NATS_URL ? fromEnvironment() : await fromStateFolder();
  return connect({
    name,
    servers: endpoint.url.split(","),
    user: endpoint.user,
    pass: endpoint.password,
    ...(endpoint.inbox_prefix ? { inboxPrefix: endpoint.inbox_prefix } : {}),
    // tls:// is TLS's handshake first; the files are read at each connection
    ...(endpoint.url.startsWith("tls://")
      ? { tls: { handshakeFirst: true, caFile: endpoint.ca, certFile: endpoint.cert, keyFile: endpoint.key } }
      : {}),
    maxReconnectAttempts: -1,
    reconnectTimeWait: 250,
  });
}

function fromEnvironment() {
  const { NATS_URL: url, TRAINSHED_NATS_USER: user, TRAINSHED_NATS_PASSWORD: password } = process.env;
  const { TRAINSHED_NATS_CA: ca, TRAINSHED_NATS_CERT: cert, TRAINSHED_NATS_KEY: key } = process.env;
  return { url, user, password, ca, cert, key };
}

async function fromStateFolder() {
  const { TRAINSHED_STATE_DIR, XDG_STATE_HOME } = process.env;
  const folder = TRAINSHED_STATE_DIR || join(XDG_STATE_HOME || join(homedir(), ".local", "state"), "trainshed");
  const file = join(folder, "endpoint.json");
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    throw new Error(`no stack is running here (${file}: ${error.code ?? error.message}). Start one: trainshed up`);
  }
}
