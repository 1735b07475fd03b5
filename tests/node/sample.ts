// What a GUI in TypeScript does with the types: it compiles, and each line that is marked must not.
import type { LogEvent, QueueRecord, RunConfig, RunRecord, RunStatus, Submission } from "../../docs/schema/trainshed.d.ts";

const ENDED: ReadonlySet<RunStatus> = new Set<RunStatus>(["COMPLETED", "FAILED", "CANCELLED"]);

export function shown(record: RunRecord): string {
  const metric = record.primary_metric === null ? undefined : record.metrics[record.primary_metric];
  const value = typeof metric === "number" ? metric.toFixed(2) : (metric ?? "-"); // "NaN" and the infinities are text
  const waited = record.waited_s.toFixed(0);
  switch (record.status) {
    case "PENDING":
      return `${record.name} waits (${waited} s)`;
    case "DISPATCHING":
    case "RUNNING":
      return `${record.name} on ${record.node ?? "?"}: ${value}`;
    case "COMPLETED":
    case "FAILED":
    case "CANCELLED":
    case "UNSPECIFIED":
      return `${record.name}: ${record.failure_reason ?? record.status}`;
  }
}

export function why(event: LogEvent): string | null {
  switch (event.type) {
    case "trainshed.run.failed.v1":
      return event.data.message ?? event.data.failure_reason;
    case "trainshed.node.node_lost.v1":
      return `${event.data.node} was silent for ${event.data.silent_s} s`;
    default:
      return null;
  }
}

export function first(queue: QueueRecord): string | undefined {
  return queue.runs.find((place) => place.place === 1)?.run_id;
}

export const config: RunConfig = { entry_point: "python3", arguments: ["train.py"], resources: { gpus: { requested: 1 } } };
export const isNew = (answer: Submission): boolean => answer.created && !ENDED.has(answer.status);

// @ts-expect-error: no run has such a status
export const status: RunStatus = "RUNNIN";
// @ts-expect-error: a slip in a field's name
export const slip: RunConfig = { entrypoint: "python3" };
// @ts-expect-error: a metric need not be a number
export const reward = (record: RunRecord): number | undefined => record.metrics["reward"];
