// A run's output and telemetry as they come, in one pane. A page hears what is new; what was written before it listened
// stays in the run's files (`trainshed logs RUN`), and each byte that it did not hear is said to be missing.

const MOST_PIECES = 2_000; // of the pane: the oldest go

/** Shows in `pane` the output of a run, and in `fields` its last line of telemetry, until `stop()`. */
export class FollowedOutput {
  #subscriptions;
  #streams = new Map(); // attempt, node and stream -> where the next byte is due, and the decoder of its text

  constructor(nc, runId, pane, fields) {
    this.pane = pane;
    this.fields = fields;
    pane.replaceChildren();
    fields.replaceChildren();
    this.#subscriptions = [
      nc.subscribe(`trainshed.watch.output.${runId}.>`, { callback: (_, m) => this.#receive(m) }),
      nc.subscribe(`trainshed.watch.telemetry.${runId}.>`, { callback: (_, m) => this.#measured(m) }),
    ];
  }

  stop() {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  #receive(m) {
    const [attempt, node, stream] = m.subject.split(".").slice(4);
    if (stream !== "stdout" && stream !== "stderr") return; // `metrics` comes there too
    const offset = Number(m.headers.get("Trainshed-Offset"));
    const name = `${attempt}.${node}.${stream}`;
    const known = this.#streams.get(name);
    const due = known?.due ?? 0;
    if (offset > due) this.#show("note", known ? `[${stream}: bytes ${due} to ${offset} were missed]\n` : `[${stream} of attempt ${attempt} before byte ${offset} was not heard here]\n`);
    const decoder = known && offset <= due ? known.decoder : new TextDecoder();
    const fresh = m.data.subarray(Math.max(0, due - offset)); // a restarted agent may send a part again
    this.#streams.set(name, { due: Math.max(due, offset + m.data.length), decoder });
    if (fresh.length > 0) this.#show(stream, decoder.decode(fresh, { stream: true }));
  }

  #measured(m) {
    const line = m.json();
    this.fields.replaceChildren(
      ...Object.entries(line).map(([name, value]) => {
        const field = document.createElement("div");
        field.append(element("dt", name), element("dd", typeof value === "object" ? JSON.stringify(value) : value));
        return field;
      }),
    );
  }

  #show(kind, text) {
    const { pane } = this;
    const atEnd = pane.scrollTop + pane.clientHeight >= pane.scrollHeight - 4;
    const piece = element("span", text);
    piece.className = kind;
    pane.append(piece);
    while (pane.childElementCount > MOST_PIECES) pane.firstElementChild.remove();
    if (atEnd) pane.scrollTop = pane.scrollHeight;
  }
}

/** An element with this text, which is never read as HTML. */
export function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
