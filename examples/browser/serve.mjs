// node serve.mjs [PORT]: serves the page on this machine (8080), and prints the address to open.
//
// The address carries the page's user and password behind its #, which a browser sends to nobody: this server never
// sees it, and hands out nothing but the files below.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { homedir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";

const HOST = "127.0.0.1";
const here = new URL(".", import.meta.url);

/** The NATS library as one ES module: its package is CommonJS, which no browser reads. */
async function natsCore() {
  const bundled = await build({
    stdin: { contents: 'export { createInbox, wsconnect } from "@nats-io/nats-core";', resolveDir: here.pathname },
    bundle: true,
    format: "esm",
    platform: "browser",
    write: false,
  });
  return bundled.outputFiles[0].contents;
}

const FILES = {
  "/": ["text/html", () => readFile(new URL("index.html", here))],
  "/page.css": ["text/css", () => readFile(new URL("page.css", here))],
  "/page.mjs": ["text/javascript", () => readFile(new URL("page.mjs", here))],
  "/output.mjs": ["text/javascript", () => readFile(new URL("output.mjs", here))],
  "/trainshed.mjs": ["text/javascript", () => readFile(new URL("../node/trainshed.mjs", here))],
  "/nats-core.mjs": ["text/javascript", natsCore],
};

/** What `trainshed up --websocket` wrote for pages. */
async function webSocket() {
  const { TRAINSHED_STATE_DIR, XDG_STATE_HOME } = process.env;
  const folder = TRAINSHED_STATE_DIR || join(XDG_STATE_HOME || join(homedir(), ".local", "state"), "trainshed");
  const file = join(folder, "websocket.json");
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    throw new Error(`no stack here is open to pages (${file}: ${error.code ?? error.message}). Open it: trainshed up --websocket`);
  }
}

const port = Number(process.argv[2] ?? 8080);
try {
  const { url, user, password, inbox_prefix, origins } = await webSocket();
  const origin = `http://${HOST}:${port}`;
  if (!origins.includes(origin)) {
    throw new Error(`pages of ${origin} may not connect, those of ${origins.join(", ")} may: trainshed up --websocket --websocket-origin ${origin}`);
  }
  const server = createServer(async (request, response) => {
    const [type, content] = FILES[request.url] ?? [];
    if (!type) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { "Content-Type": `${type}; charset=utf-8` }).end(await content());
  });
  server.on("error", (error) => {
    console.error(`${origin} cannot be served: ${error.code}. Name another port: node serve.mjs PORT`);
    process.exitCode = 3;
  });
  server.listen(port, HOST, () => {
    console.log(`${origin}/#${new URLSearchParams({ url, user, password, inbox_prefix })}`);
  });
} catch (error) {
  console.error(error.message);
  process.exitCode = 3;
}
