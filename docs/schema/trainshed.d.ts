// Every record, answer, request, event and heartbeat of Trainshed, a definition each: what this release writes. A newer one may add fields, and names to enums that have UNSPECIFIED.
// Made of Trainshed's JSON Schema by json-schema-to-typescript.

/**
 * Status of a run and of an attempt (an attempt is never PENDING).
 */
export type RunStatus =
  "PENDING" | "DISPATCHING" | "RUNNING" | "COMPLETED" | "FAILED" | "CANCELLED" | "UNSPECIFIED";
/**
 * Whose trouble kept a worker from starting: the node's (storage, descriptors, shim) or the run's own (program, folder).
 */
export type AtFault = "node" | "run" | "UNSPECIFIED";
/**
 * Why an attempt or a run did not complete.
 */
export type FailureReason =
  | "exit_code"
  | "signal"
  | "worker_timeout"
  | "time_limit"
  | "out_of_memory"
  | "spawn_error"
  | "shim_lost"
  | "node_lost"
  | "node_reclaimed"
  | "dependency_failed"
  | "not_started"
  | "UNSPECIFIED";
/**
 * What a node saw of a run's code beside its worker's start: as submitted, another, or not all of it.
 */
export type CodeSeen = "same" | "changed" | "unknown" | "UNSPECIFIED";
/**
 * What kind of "no" an answer is; the API's `error.code`.
 */
export type ErrorCode =
  "invalid" | "not_found" | "conflict" | "denied" | "unavailable" | "too_large" | "too_many";
/**
 * Why a PENDING run is not running, in the order in which it is looked for.
 */
export type WaitReason =
  | "cancel"
  | "dependency"
  | "backoff"
  | "no_node"
  | "too_large"
  | "gpus"
  | "cpus"
  | "memory"
  | "suspect"
  | "reservation"
  | "turn"
  | "UNSPECIFIED";
/**
 * Status of a node; only an `up` and not drained one is granted runs.
 */
export type NodeStatus = "up" | "lost" | "left" | "removed" | "UNSPECIFIED";
/**
 * Any event of the log, as CloudEvents 1.0 in structured mode.
 */
export type LogEvent =
  | SubmittedEvent
  | CancelRequestedEvent
  | RetryRequestedEvent
  | NodeDrainedEvent
  | NodeResumedEvent
  | NodeRemovedEvent
  | LogAcceptedEvent
  | ElectedEvent
  | DispatchedEvent
  | StoppingEvent
  | NodeLostEvent
  | NodeJoinedEvent
  | NodeLeftEvent
  | SlotUnhealthyEvent
  | SlotHealthyEvent
  | StartedEvent
  | CompletedEvent
  | FailedEvent
  | CancelledEvent
  | TimedOutEvent
  | ArtifactsHashedEvent;
/**
 * What a person may do; each may do what the one before may.
 */
export type PersonRole = "viewer" | "submitter" | "admin";

/**
 * Why the log is no longer what was signed before.
 */
export interface AcceptRequest {
  reason: string;
}
/**
 * The last LogAccepted of a tree as it is stored; `body` in base64.
 */
export interface AcceptedEvent {
  seq: number;
  stored_ns: number;
  subject: string;
  body: string;
}
/**
 * The answer to a cancel or a retry: the run's status, and the sequence it is true at.
 */
export interface Acknowledged {
  run_id: string;
  status: RunStatus;
  seq: number;
}
/**
 * The answer to an acceptance. `seq`: of its event in the log.
 */
export interface AppendedAnswer {
  /**
   * Of its event in the log.
   */
  seq: number;
}
/**
 * A file that the worker left; `sha256` up to 64 MiB.
 */
export interface Artifact {
  path: string;
  bytes: number;
  sha256?: string | null;
}
/**
 * A file that a worker left, by its path below artifacts/. `sha256`: as it was at the end, null where not known.
 */
export interface ArtifactFile {
  path: string;
  bytes: number;
  /**
   * As it was at the end, null where not known.
   */
  sha256: string | null;
}
/**
 * Files in the order of their folders; `next`: what to ask for to go on, null with the last.
 */
export interface ArtifactPage {
  node: string;
  artifacts: ArtifactFile[];
  /**
   * What to ask for to go on, null with the last.
   */
  next?: string | null;
  v?: number;
}
/**
 * What lies in the run's `artifacts/`: the first 200 entries and, once hashed, the digest of the full list.
 *
 * `partial`: there was no time to list more.
 */
export interface Artifacts {
  count: number;
  bytes: number;
  entries?: Artifact[];
  sha256?: string | null;
  /**
   * There was no time to list more.
   */
  partial?: boolean;
}
/**
 * Kept for the clients that send it: shown, not acted on.
 */
export interface ArtifactsConfig {
  /**
   * Not acted on.
   */
  output_prefix?: string;
  /**
   * Not acted on.
   */
  persist_logs?: boolean;
  /**
   * Not acted on.
   */
  keep_checkpoints?: boolean;
}
/**
 * What a completed attempt left, with its hashes: follows its Completed once. null: it is gone meanwhile.
 */
export interface ArtifactsHashed {
  run_id: string;
  attempt: number;
  artifacts?: Artifacts | null;
}
/**
 * CloudEvents 1.0 around ArtifactsHashed.
 */
export interface ArtifactsHashedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.artifacts_hashed.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: ArtifactsHashed;
}
/**
 * What lies in the `artifacts/` of a completed attempt: how many files, and their bytes together.
 *
 * `partial`: there are more, which there was no time to count.
 */
export interface ArtifactsLeft {
  count: number;
  bytes: number;
  /**
   * There are more, which there was no time to count.
   */
  partial: boolean;
}
/**
 * Which attempt's. `after`: what the page before has as `next`.
 */
export interface ArtifactsRequest {
  run_id: string;
  attempt: number;
  /**
   * What the page before has as `next`.
   */
  after?: string | null;
}
/**
 * `at`: as it was after this event and before the next; without it as it is now.
 */
export interface AtRequest {
  /**
   * As it was after this event and before the next; without it as it is now.
   */
  at?: number | null;
}
/**
 * What an attempt left, as it is on its node's disk: output, `list` (artifacts.json), and the files that were asked for.
 *
 * `pruned_at`: when all of it was deleted by `trainshed prune`; `error`: why it cannot be read.
 */
export interface AttemptFiles {
  run_id: string;
  attempt: number;
  output: OutputNow;
  list: FileNow | null;
  artifacts: FileNow[];
  /**
   * When all of it was deleted by `trainshed prune`.
   */
  pruned_at: string | null;
  /**
   * Why it cannot be read.
   */
  error: string | null;
}
/**
 * How large the files of an attempt's output are; null: there is none.
 */
export interface OutputNow {
  stdout: number | null;
  stderr: number | null;
}
/**
 * A file as it is on its node's disk. `bytes` is null where there is none; `sha256` also of more than 64 MiB.
 */
export interface FileNow {
  path: string;
  bytes: number | null;
  sha256: string | null;
}
/**
 * Which files of an attempt. `artifacts`: paths below artifacts/. `list`: artifacts.json too.
 */
export interface AttemptFilesRequest {
  run_id: string;
  attempt: number;
  /**
   * Paths below artifacts/.
   */
  artifacts?: string[] | null;
  /**
   * Artifacts.json too.
   */
  list?: boolean | null;
}
/**
 * How much of a device's memory the processes of one attempt use, in MiB.
 */
export interface AttemptMemory {
  run_id: string;
  attempt: number;
  memory_mb: number;
}
/**
 * One grant of a run. `late_result` keeps an end that came after the first (it changes nothing). `folder` and `artifacts`: as in the run's.
 *
 * `at_fault`: whose trouble it was that no worker was started; null where one was, or that is not known.
 */
export interface AttemptRecord {
  run_id: string;
  attempt: number;
  status: RunStatus;
  node: string;
  host: string | null;
  slots: number[];
  pid: number | null;
  dispatched_at: string | null;
  started_at: string | null;
  ready_at: string | null;
  ended_at: string | null;
  last_heartbeat_at: string | null;
  duration_s: number | null;
  exit_code: number | null;
  signal: number | null;
  failure_reason: FailureReason | null;
  error: string | null;
  /**
   * Whose trouble it was that no worker was started; null where one was, or that is not known.
   */
  at_fault: AtFault | null;
  code: CodeSeen | null;
  step: number | null;
  progress: number | null;
  status_text: string | null;
  primary_metric: string | null;
  metrics: {
    [k: string]: number | "-Infinity" | "Infinity" | "NaN";
  };
  passed_over: {
    [k: string]: string;
  };
  gpu_memory_mb: number | null;
  usage: AttemptUsage;
  memory_enforced: boolean | null;
  late_result: string | null;
  folder: string | null;
  /**
   * As in the run's.
   */
  artifacts: ArtifactsLeft | null;
}
/**
 * What an attempt used, from its worker's exec to the end of its tree; null where that is not known.
 *
 * `cpu_s`: seconds of CPU time; `memory_peak_mb`: MiB; `gpu_busy_s`: seconds of its devices at work, two at work for one second being two; `gpu_memory_peak_mb`: MiB of GPU memory. (docs/contracts/events.md has what each measures.)
 */
export interface AttemptUsage {
  /**
   * Seconds of CPU time.
   */
  cpu_s?: number | null;
  /**
   * MiB.
   */
  memory_peak_mb?: number | null;
  /**
   * Seconds of its devices at work, two at work for one second being two.
   */
  gpu_busy_s?: number | null;
  /**
   * MiB of GPU memory. (docs/contracts/events.md has what each measures.)
   */
  gpu_memory_peak_mb?: number | null;
}
/**
 * One attempt of one run.
 */
export interface AttemptRef {
  run_id: string;
  attempt: number;
}
/**
 * Which attempt, of a run by its whole id.
 */
export interface AttemptRequest {
  run_id: string;
  attempt: number;
}
/**
 * Run configs that are accepted all or none. `caller_path` and `provenance` are of all runs that bear none.
 */
export interface BatchRequest {
  /**
   * @minItems 1
   * @maxItems 1000
   */
  runs: (RunConfig | SubmitRequest)[];
  caller_path?: string | null;
  provenance?: Provenance | null;
}
/**
 * What a user asks for. Only the program is required: `entry_point`, or the older `metadata.worker`. The same config is the same run.
 */
export interface RunConfig {
  /**
   * By which it can be named everywhere; the program's name where it is left out.
   */
  run_name?: string;
  /**
   * The program: an absolute path, one with a slash below `working_dir`, or a name looked for in the PATH.
   */
  entry_point?: string;
  /**
   * Its arguments; `{{run_id}}`, `{{attempt}}`, `{{run_dir}}` and `{{node}}` are filled in.
   */
  arguments?: string[];
  /**
   * Variables, over what the node has for every worker. No credentials.
   */
  environment?: {
    [k: string]: string;
  };
  /**
   * Names and texts to find runs by.
   */
  labels?: {
    [k: string]: string;
  };
  /**
   * Anything; kept and shown. Only `worker` in it has a meaning.
   */
  metadata?: {
    worker?: {
      /**
       * It is run as `python -m module`.
       */
      module?: string | null;
      /**
       * In place of `module`: a script's path.
       */
      script?: string | null;
      /**
       * Its arguments.
       */
      arguments?: string[] | null;
      /**
       * Written to a file, which `--config PATH` and `TRAINER_WORKER_CONFIG_PATH` name.
       */
      config?: {
        [k: string]: unknown;
      } | null;
      /**
       * Told as `--worker-id` and `WORKER_ID`.
       */
      worker_id?: string | null;
      [k: string]: unknown;
    } | null;
    [k: string]: unknown;
  };
  /**
   * The folder that it starts in; null: the run's own.
   */
  working_dir?: string | null;
  resources?: Resources;
  artifacts?: ArtifactsConfig;
  schedule?: Schedule;
  /**
   * Higher runs first; of the same, the one submitted first.
   */
  priority?: number;
  retry?: RetryPolicy;
  stop?: StopPolicy;
  heartbeat?: HeartbeatConfig;
  /**
   * It waits until these runs have completed, and is cancelled where one ends otherwise.
   */
  after?: string[];
  /**
   * Variables whose values the node finds.
   */
  secrets?: {
    [k: string]: Secret;
  };
  /**
   * Any text: another one makes another run of the same config.
   */
  submission_key?: string | null;
  /**
   * A digest of the program files, so that an edited program is another run.
   */
  code?: Code | null;
}
/**
 * What one attempt holds of its node; `memory_mb` 0 means that memory is not accounted.
 */
export interface Resources {
  /**
   * CPU cores, and how many threads it is told to start.
   */
  cpus?: number;
  /**
   * Memory in MiB; 0: not accounted.
   */
  memory_mb?: number;
  gpus?: GpusConfig;
}
/**
 * GPUs asked for: so many different devices, of each one slot, or with `whole` all of its slots.
 *
 * With `mandatory` false the run starts with fewer, or none, rather than wait.
 */
export interface GpusConfig {
  /**
   * So many different GPUs, a slot of each.
   */
  requested?: number;
  /**
   * False: it starts with fewer, or none, rather than wait.
   */
  mandatory?: boolean;
  /**
   * True: all slots of each, so that nobody shares these GPUs.
   */
  whole?: boolean;
}
/**
 * Limits of an attempt: seconds from exec (enforced by the shim), and steps (only told to the worker).
 */
export interface Schedule {
  /**
   * Seconds that an attempt may take, from its start; null: no limit.
   */
  max_duration_seconds?: number | null;
  /**
   * Told to the worker as `TRAINSHED_MAX_STEPS`; nobody enforces it.
   */
  max_steps?: number | null;
}
/**
 * When a failed attempt is followed by another; `backoff_s` seconds after its end, constant.
 */
export interface RetryPolicy {
  /**
   * Attempts in all.
   */
  max_attempts?: number;
  /**
   * Seconds between an attempt's end and the next, constant.
   */
  backoff_s?: number;
  /**
   * Only after such an end.
   */
  on?: (
    | "exit_code"
    | "signal"
    | "worker_timeout"
    | "spawn_error"
    | "shim_lost"
    | "node_lost"
    | "node_reclaimed"
    | "time_limit"
    | "out_of_memory"
  )[];
}
/**
 * How the worker's tree is stopped: the signal, and seconds until SIGKILL.
 */
export interface StopPolicy {
  /**
   * What its processes are sent first.
   */
  signal?:
    | "SIGHUP"
    | "SIGINT"
    | "SIGQUIT"
    | "SIGILL"
    | "SIGTRAP"
    | "SIGABRT"
    | "SIGIOT"
    | "SIGBUS"
    | "SIGFPE"
    | "SIGKILL"
    | "SIGUSR1"
    | "SIGSEGV"
    | "SIGUSR2"
    | "SIGPIPE"
    | "SIGALRM"
    | "SIGTERM"
    | "SIGSTKFLT"
    | "SIGCHLD"
    | "SIGCLD"
    | "SIGCONT"
    | "SIGSTOP"
    | "SIGTSTP"
    | "SIGTTIN"
    | "SIGTTOU"
    | "SIGURG"
    | "SIGXCPU"
    | "SIGXFSZ"
    | "SIGVTALRM"
    | "SIGPROF"
    | "SIGWINCH"
    | "SIGIO"
    | "SIGPOLL"
    | "SIGPWR"
    | "SIGSYS"
    | "SIGRTMIN"
    | "SIGRTMAX";
  /**
   * Seconds from that to SIGKILL.
   */
  grace_s?: number;
}
/**
 * What counts as a sign of life, and seconds of silence that end an attempt (null: the node's).
 */
export interface HeartbeatConfig {
  /**
   * `process`: it is there; `output`: it writes some; `notify`: it reports.
   */
  source?: "process" | "output" | "notify";
  /**
   * Seconds without one that end the attempt; null: the node's, 300.
   */
  timeout_s?: number | null;
}
/**
 * Where the node finds a secret's value: exactly one of a file's path and a variable's name.
 */
export interface Secret {
  /**
   * A file's path on the node. Exactly one of `file` and `env` is given.
   */
  file?: string | null;
  /**
   * The name of a variable of the node's agent.
   */
  env?: string | null;
}
/**
 * SHA-256 of what was read; `partial`: of a part alone, since there is more than counts, or some cannot be read.
 */
export interface Code {
  /**
   * SHA-256 in hex, as `trainshed_client.code_of(folder)` makes it.
   */
  sha256: string;
  /**
   * Of a part alone, since there is more than counts, or some cannot be read.
   */
  partial?: boolean;
}
/**
 * A run config, with what goes beside it and is no part of its digest.
 *
 * `caller_path`: the PATH of who submits a command, for its worker. `provenance`: where the run's code was read.
 */
export interface SubmitRequest {
  config: RunConfig;
  /**
   * The PATH of who submits a command, for its worker.
   */
  caller_path?: string | null;
  /**
   * Where the run's code was read.
   */
  provenance?: Provenance | null;
}
/**
 * Where code was read: the folder, and of a git repository its commit, and whether what is there differs from it.
 *
 * `ignore`: the patterns of what was left out. null is unknown.
 */
export interface Provenance {
  folder?: string;
  commit?: string | null;
  dirty?: boolean | null;
  /**
   * The patterns of what was left out.
   */
  ignore?: string[];
}
/**
 * Somebody wants the run to end.
 */
export interface CancelRequested {
  run_id: string;
  reason?: string | null;
  requested_by?: string;
}
/**
 * CloudEvents 1.0 around CancelRequested.
 */
export interface CancelRequestedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.cancel_requested.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: CancelRequested;
}
/**
 * The attempt was stopped by a cancel or, by the dispatcher (`epoch`), never started.
 */
export interface Cancelled {
  run_id: string;
  attempt: number;
  duration_s?: number | null;
  last_heartbeat?: LastHeartbeat | null;
  /**
   * null where no worker ran, or nobody measured it.
   */
  usage?: AttemptUsage | null;
  /**
   * Whether the run's code was still that of its config when the worker started; null where it names none.
   */
  code?: CodeSeen | null;
  /**
   * null where no worker ran, and in older logs.
   */
  output?: OutputBytes | null;
  reason?: string | null;
  failure_reason?: FailureReason | null;
  exit_code?: number | null;
  signal?: number | null;
  epoch?: number | null;
}
/**
 * What an end sets for good, with the heartbeat's sequence (0: none was stored).
 */
export interface LastHeartbeat {
  ready_at?: string | null;
  last_heartbeat_at?: string | null;
  step?: number | null;
  progress?: number | null;
  status_text?: string | null;
  /**
   * The name of the metric that the worker said matters most; null: it said none.
   */
  primary_metric?: string | null;
  metrics?: {
    [k: string]: number | "-Infinity" | "Infinity" | "NaN";
  };
  /**
   * What it told that could not be taken, the first of each kind (`trainshed_client.rendering.passed_over`)
   */
  passed_over?: {
    [k: string]: string;
  };
  seq?: number;
}
/**
 * How many bytes each file of an attempt's output had at its end; null: its storage did not say so in time.
 */
export interface OutputBytes {
  stdout?: number | null;
  stderr?: number | null;
}
/**
 * CloudEvents 1.0 around Cancelled.
 */
export interface CancelledEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.cancelled.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: Cancelled;
}
/**
 * What `cert.renew` takes. `request`: a signing request; without it is answered whether a renewal is due.
 *
 * `using`: the public key (SHA-256, hex) that the caller connects with now; his older ones count no more.
 */
export interface CertRenewRequest {
  /**
   * A signing request; without it is answered whether a renewal is due.
   */
  request?: string | null;
  /**
   * The public key (SHA-256, hex) that the caller connects with now; his older ones count no more.
   */
  using?: string | null;
}
/**
 * What a submit would do. `status` is that of the run that exists; `nodes` could hold the run when empty.
 */
export interface Check {
  run_id: string;
  digest: string;
  new: boolean;
  status: RunStatus | null;
  nodes: string[];
}
/**
 * A signed checkpoint of the log's tree. `root`: base64. `vkey`: of who signed it, as signed-note writes a verifier key. `checkpoint`: as C2SP's tlog-checkpoint has it. `cosigned_by`: nodes. `gap`: the missing sequence at which the tree ended.
 */
export interface CheckpointAnswer {
  v: number;
  seq: number;
  origin: string;
  size: number;
  /**
   * Base64.
   */
  root: string;
  /**
   * Of who signed it, as signed-note writes a verifier key.
   */
  vkey: string;
  /**
   * As C2SP's tlog-checkpoint has it.
   */
  checkpoint: string;
  /**
   * Nodes.
   */
  cosigned_by: string[];
  /**
   * The missing sequence at which the tree ended.
   */
  gap: number | null;
  stale?: boolean;
  progress?: FoldProgress | null;
}
/**
 * `folded` of the `events` that are to be read.
 */
export interface FoldProgress {
  folded: number;
  events: number;
}
/**
 * The log's tree, signed. `vkey`: of who signed it, as signed-note writes a verifier key. `checkpoint`: as C2SP's tlog-checkpoint has it. `accepted`: the last acceptance that is in it.
 */
export interface CheckpointMessage {
  v: number;
  log_id: string;
  /**
   * Of who signed it, as signed-note writes a verifier key.
   */
  vkey: string;
  /**
   * As C2SP's tlog-checkpoint has it.
   */
  checkpoint: string;
  /**
   * The last acceptance that is in it.
   */
  accepted: AcceptedEvent | null;
}
/**
 * `size`: of the log's tree in leaves; without it the whole tree. `cosigned`: in place of a size, that which most nodes have cosigned.
 */
export interface CheckpointRequest {
  /**
   * Of the log's tree in leaves; without it the whole tree.
   */
  size?: number | null;
  /**
   * In place of a size, that which most nodes have cosigned.
   */
  cosigned?: boolean | null;
}
/**
 * The worker exited with 0.
 */
export interface Completed {
  run_id: string;
  attempt: number;
  duration_s?: number | null;
  last_heartbeat?: LastHeartbeat | null;
  /**
   * null where no worker ran, or nobody measured it.
   */
  usage?: AttemptUsage | null;
  /**
   * Whether the run's code was still that of its config when the worker started; null where it names none.
   */
  code?: CodeSeen | null;
  /**
   * null where no worker ran, and in older logs.
   */
  output?: OutputBytes | null;
  exit_code?: number;
  artifacts?: Artifacts | null;
}
/**
 * CloudEvents 1.0 around Completed.
 */
export interface CompletedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.completed.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: Completed;
}
/**
 * A proof that the tree of `to` leaves extends that of `from` (RFC 9162), each hash in base64.
 */
export interface ConsistencyAnswer {
  v: number;
  seq: number;
  from: number;
  to: number;
  from_root: string;
  to_root: string;
  proof: string[];
  stale?: boolean;
  progress?: FoldProgress | null;
}
/**
 * Two sizes of the log's tree, in leaves; `to`: without it the whole tree.
 */
export interface ConsistencyRequest {
  from: number;
  /**
   * Without it the whole tree.
   */
  to?: number | null;
}
/**
 * A slot's device as the node's inventory has it; no UUID where NVML knows none.
 *
 * `index` is the slot's. `gpu` is the device's place among those of the node, where several slots may be of one; absent: the slot has a device of its own, whose place is the slot's.
 */
export interface Device {
  index: number;
  uuid?: string | null;
  name?: string | null;
  memory_mb?: number | null;
  gpu?: number | null;
}
/**
 * A question for stored messages (NATS ADR-31). With `batch` it is answered in many messages, and last in one of status 204.
 *
 * `seq`: the first sequence. `next_by_subj`: only messages of this subject, which may have wildcards. `multi_last`: the last message of each of these subjects, of 1,024 at most. `batch`: messages of one page. `max_bytes`: of one page. `up_to_seq`: with `multi_last`, as of this sequence: the `Nats-UpTo-Sequence` of the page before.
 */
export interface DirectGet {
  /**
   * The first sequence.
   */
  seq?: number | null;
  last_by_subj?: string | null;
  /**
   * Only messages of this subject, which may have wildcards.
   */
  next_by_subj?: string | null;
  /**
   * The last message of each of these subjects, of 1,024 at most.
   */
  multi_last?: string[] | null;
  /**
   * Messages of one page.
   */
  batch?: number | null;
  /**
   * Of one page.
   */
  max_bytes?: number | null;
  /**
   * With `multi_last`, as of this sequence: the `Nats-UpTo-Sequence` of the page before.
   */
  up_to_seq?: number | null;
}
/**
 * A grant: attempt `attempt` of the run may start on the node with these slots.
 *
 * `launch` is all that the node needs to start the worker (the run config's part of it, as JSON).
 */
export interface Dispatched {
  run_id: string;
  attempt: number;
  epoch: number;
  node: string;
  incarnation: string;
  slots: number[];
  cpus: number;
  memory_mb: number;
  launch: {
    [k: string]: unknown;
  };
  view: View;
  why: Why;
}
/**
 * What the scheduler saw: the last sequence folded and the clock it was given (RFC 3339).
 */
export interface View {
  seq: number;
  now: string;
}
/**
 * Why this grant: free slots of its node before it, and the runs ahead of it that could not start.
 */
export interface Why {
  free: number;
  passed_over?: string[];
  passed_over_count?: number;
}
/**
 * CloudEvents 1.0 around Dispatched.
 */
export interface DispatchedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.dispatched.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: Dispatched;
}
/**
 * A dispatcher became the active one; the event's sequence is its epoch.
 *
 * `rules`: the rules of `evolve` for what is stored after it (`events/rules.py`); absent in release 0.1.
 */
export interface Elected {
  name: string;
  scheduler: SchedulerInfo;
  /**
   * The rules of `evolve` for what is stored after it (`events/rules.py`); absent in release 0.1.
   */
  rules?: number;
}
/**
 * Which scheduler decides in an epoch, so that a replay can take the same.
 */
export interface SchedulerInfo {
  name: string;
  version: number;
  settings?: {
    [k: string]: unknown;
  };
}
/**
 * CloudEvents 1.0 around Elected.
 */
export interface ElectedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.control.elected.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: Elected;
}
/**
 * The answer to a request that was refused: nothing was appended.
 */
export interface ErrorAnswer {
  error: ErrorDetail;
}
/**
 * What was wrong, and what to do.
 *
 * `path`: the field, as in `resources.gpus.requested`. `errors`: all that is wrong, where that is more than one thing. `more`: how many there are beside these. `progress`: of a service that cannot answer yet, how far it is.
 */
export interface ErrorDetail {
  code: ErrorCode;
  message: string;
  /**
   * The field, as in `resources.gpus.requested`.
   */
  path?: string | null;
  /**
   * All that is wrong, where that is more than one thing.
   */
  errors?: WrongPart[];
  /**
   * How many there are beside these.
   */
  more?: number;
  /**
   * Of a service that cannot answer yet, how far it is.
   */
  progress?: FoldProgress | null;
}
/**
 * One thing that is wrong with a request. `path`: of its field, as in `resources.gpus.requested`; absent: the whole.
 */
export interface WrongPart {
  message: string;
  /**
   * Of its field, as in `resources.gpus.requested`; absent: the whole.
   */
  path?: string | null;
}
/**
 * Why a run waits (`waiting`), and the last things that happened to it.
 */
export interface Explanation {
  seq: number;
  v: number;
  /**
   * The read model had not yet seen everything that was acknowledged before the question, but `progress`.
   */
  stale?: boolean;
  progress?: FoldProgress | null;
  run: QueuedRunRecord;
  waiting?: Waiting | null;
  timeline: TimelineEntry[];
}
/**
 * A run's record in an answer: with what a PENDING one waits for, and the node's status where a live one's is away.
 *
 * `waiting` is null in that of an older release. `node_status`: `lost` or `left`, else null.
 */
export interface QueuedRunRecord {
  run_id: string;
  name: string;
  status: RunStatus;
  attempt: number;
  digest: string;
  seq: number;
  submit_seq: number;
  priority: number;
  labels: {
    [k: string]: string;
  };
  /**
   * Whether somebody gave it its name; else that is only what its command gives (null: an older release's)
   */
  named: boolean | null;
  node: string | null;
  host: string | null;
  slots: number[];
  cpus: number;
  gpus: number;
  pid: number | null;
  command: string[];
  cancel_requested: boolean;
  submitted_by: string | null;
  submitted_at: string | null;
  queued_at: string | null;
  /**
   * Seconds in the queue up to the last grant; since `queued_at` it waits again.
   */
  waited_s: number;
  dispatched_at: string | null;
  started_at: string | null;
  ready_at: string | null;
  ended_at: string | null;
  updated_at: string | null;
  last_heartbeat_at: string | null;
  /**
   * The worker's own time by its node's clock, once it has ended (null: nobody saw it)
   */
  duration_s: number | null;
  exit_code: number | null;
  signal: number | null;
  failure_reason: FailureReason | null;
  /**
   * The line that tells most of why it failed.
   */
  error: string | null;
  code: CodeSeen | null;
  step: number | null;
  progress: number | null;
  status_text: string | null;
  primary_metric: string | null;
  metrics: {
    [k: string]: number | "-Infinity" | "Infinity" | "NaN";
  };
  passed_over: {
    [k: string]: string;
  };
  usage: AttemptUsage;
  memory_enforced: boolean | null;
  /**
   * Of its schedule.
   */
  max_steps: number | null;
  /**
   * The run's on its node (null: it was not started there yet, or by an older release)
   */
  folder: string | null;
  /**
   * What a completed one left.
   */
  artifacts: ArtifactsLeft | null;
  /**
   * Of what code it is (null: its config names none)
   */
  submitted_code: SubmittedCode | null;
  waits_for?: WaitsFor | null;
  waiting?: Wait | null;
  /**
   * `lost` or `left`, else null.
   */
  node_status?: NodeStatus | null;
}
/**
 * Of what code a run is: the digest in its config, and what was said with it when it was submitted; null: unknown.
 *
 * `partial`: the digest is of a part alone. `folder`: where it was read, on the submitter's machine; of a git repository `commit`, and `dirty`: whether what was there differed from it.
 */
export interface SubmittedCode {
  sha256: string;
  /**
   * The digest is of a part alone.
   */
  partial: boolean;
  /**
   * Where it was read, on the submitter's machine; of a git repository `commit`, and `dirty`: whether what was there differed from it.
   */
  folder: string | null;
  commit: string | null;
  /**
   * Whether what was there differed from it.
   */
  dirty: boolean | null;
}
/**
 * The same as text.
 */
export interface WaitsFor {
  reason: string;
  text: string;
}
/**
 * Why a queued run is not running yet, as data: made when asked, never stored.
 *
 * What `numbers` there are, and of which `runs` and `nodes`, depends on the reason (docs/contracts/records.md); `trainshed_client.rendering.waiting` makes text of it.
 */
export interface Wait {
  reason: WaitReason;
  numbers: {
    [k: string]: number;
  };
  runs: string[];
  nodes: string[];
}
/**
 * What a PENDING run waits for. `place`: from 1 on, in the order of the queue; null while it is not in it.
 *
 * `of`: how many are in the queue. `avoids`: nodes that could not start it, while another could hold it. `commands`: what would help, if it is wanted. `text`: the reason as text.
 */
export interface Waiting {
  reason: WaitReason;
  numbers: {
    [k: string]: number;
  };
  runs: string[];
  nodes: string[];
  /**
   * The reason as text.
   */
  text: string;
  /**
   * How many are in the queue.
   */
  of: number;
  /**
   * From 1 on, in the order of the queue; null while it is not in it.
   */
  place: number | null;
  reservation: Reserved | null;
  holders: Holder[];
  holders_total: number;
  suspects: SuspectNode[];
  /**
   * Nodes that could not start it, while another could hold it.
   */
  avoids: string[];
  /**
   * What would help, if it is wanted.
   */
  commands: string[];
}
/**
 * The first run in the queue that has to wait, and the node kept for it; `starts_by`: at the latest, if known.
 */
export interface Reserved {
  run_id: string;
  name: string;
  node: string;
  /**
   * At the latest, if known.
   */
  starts_by: string | null;
}
/**
 * An attempt that holds what a waiting run lacks: where, since when (its grant, then its worker's start), and `ends_by` when it has ended by its time limit; null without one.
 */
export interface Holder {
  run_id: string;
  name: string;
  node: string;
  slots: number[];
  cpus: number;
  memory_mb: number;
  since: string;
  ends_by: string | null;
}
/**
 * A node that could start none of the last three runs: since when, why not the last, and when one is tried there.
 *
 * `probe_at` is null while one is being tried.
 */
export interface SuspectNode {
  node: string;
  since: string;
  why: string;
  probe_at: string | null;
}
/**
 * One event of a run's life: what it bears, and that in words (`rendering/timeline.py` makes them).
 */
export interface TimelineEntry {
  seq: number;
  time: string;
  type: string;
  data: {
    [k: string]: unknown;
  };
  text: string;
}
/**
 * The attempt failed; the dispatcher's bears its `epoch` (docs/protocol.md rule 8).
 *
 * `output_of`: of which stream `output_tail` is; null: not known.
 *
 * `at_fault`: of an attempt whose worker was never started, whose trouble that was; null: not known.
 */
export interface Failed {
  run_id: string;
  attempt: number;
  duration_s?: number | null;
  last_heartbeat?: LastHeartbeat | null;
  /**
   * null where no worker ran, or nobody measured it.
   */
  usage?: AttemptUsage | null;
  /**
   * Whether the run's code was still that of its config when the worker started; null where it names none.
   */
  code?: CodeSeen | null;
  /**
   * null where no worker ran, and in older logs.
   */
  output?: OutputBytes | null;
  failure_reason: FailureReason;
  /**
   * Of an attempt whose worker was never started, whose trouble that was; null: not known.
   */
  at_fault?: AtFault | null;
  exit_code?: number | null;
  signal?: number | null;
  message?: string | null;
  output_tail?: string | null;
  /**
   * Of which stream `output_tail` is; null: not known.
   */
  output_of?: string | null;
  epoch?: number | null;
}
/**
 * CloudEvents 1.0 around Failed.
 */
export interface FailedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.failed.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: Failed;
}
/**
 * The attempts that are asked about, with 2,000 paths in all at most.
 */
export interface FilesRequest {
  attempts?: AttemptFilesRequest[] | null;
}
/**
 * One device at one moment, by its first slot; what NVML does not know is null, or left out of `attempts`.
 */
export interface GpuReading {
  index: number;
  utilisation?: number | null;
  memory_used_mb?: number | null;
  temperature_c?: number | null;
  other_pids?: number[];
  attempts?: AttemptMemory[];
}
/**
 * A proof that an event is in the tree of `size` leaves (RFC 9162), each hash in base64. `event`: its sequence; `index`: of its leaf, from 0 on.
 */
export interface InclusionAnswer {
  v: number;
  seq: number;
  /**
   * Its sequence.
   */
  event: number;
  /**
   * Of its leaf, from 0 on.
   */
  index: number;
  size: number;
  root: string;
  leaf: string;
  proof: string[];
  stale?: boolean;
  progress?: FoldProgress | null;
}
/**
 * `event`: its sequence. `size`: of the log's tree in leaves; without it the whole tree.
 */
export interface InclusionRequest {
  /**
   * Its sequence.
   */
  event: number;
  /**
   * Of the log's tree in leaves; without it the whole tree.
   */
  size?: number | null;
}
/**
 * Which runs, newest first.
 *
 * `labels`: those that a run must bear. `name`: the runs of this name. `run`: what a person calls a run, as on the command line: at most six that it may mean. `prefix`: an older word for `run`. `live`: those that have not ended. `ended`: those that ended last, the last first, in one page. `ended_before`: RFC 3339; those whose end was stored before it. `limit`: of one page. `before_seq`: the `submit_seq` of the last one of the page before. `at`: as it was after this event and before the next.
 */
export interface ListRequest {
  status?: RunStatus[] | null;
  /**
   * Those that a run must bear.
   */
  labels?: {
    [k: string]: string;
  } | null;
  /**
   * The runs of this name.
   */
  name?: string | null;
  /**
   * What a person calls a run, as on the command line: at most six that it may mean.
   */
  run?: string | null;
  /**
   * An older word for `run`.
   */
  prefix?: string | null;
  /**
   * Those that have not ended.
   */
  live?: boolean | null;
  /**
   * Those that ended last, the last first, in one page.
   */
  ended?: boolean | null;
  /**
   * RFC 3339; those whose end was stored before it.
   */
  ended_before?: string | null;
  /**
   * Of one page.
   */
  limit?: number | null;
  /**
   * The `submit_seq` of the last one of the page before.
   */
  before_seq?: number | null;
  /**
   * As it was after this event and before the next.
   */
  at?: number | null;
}
/**
 * A slot's record in an answer: with the name of the run that holds it, as a list shows it.
 */
export interface ListedSlotRecord {
  node: string;
  index: number;
  /**
   * The place of its device among the node's, which slots of one device share; so do `memory_used_mb`, `utilisation` and `other_pids`.
   */
  gpu: number | null;
  uuid: string | null;
  device: string | null;
  memory_mb: number | null;
  memory_used_mb: number | null;
  attempt_memory_mb: number | null;
  utilisation: number | null;
  other_pids: number[];
  healthy: boolean;
  unhealthy_reason: string | null;
  run_id: string | null;
  attempt: number | null;
  seq: number;
  updated_at: string | null;
  run_name?: string | null;
}
/**
 * Somebody answers for it that the log is no longer what was signed before, as after a restore from a backup.
 *
 * It changes nothing that is folded: it tells the witnesses where to begin anew, and every later audit that they did.
 */
export interface LogAccepted {
  reason: string;
  accepted_by?: string;
}
/**
 * CloudEvents 1.0 around LogAccepted.
 */
export interface LogAcceptedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.control.log_accepted.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: LogAccepted;
}
/**
 * CloudEvents 1.0 around Submitted.
 */
export interface SubmittedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.submitted.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: Submitted;
}
/**
 * A run config was accepted. `config` is the normalised config, as JSON.
 *
 * `caller_path`: the PATH of who submitted a command, for its worker; it stands outside the digest, so that two terminals ask for one run. null: the worker has its node's. `provenance`, of its code, is outside the digest too, and so is `named`: whether somebody gave the run its name, which may be the one that it would have anyway; null: not known.
 */
export interface Submitted {
  run_id: string;
  config: StoredRunConfig;
  digest: string;
  submitted_by?: string;
  /**
   * The PATH of who submitted a command, for its worker; it stands outside the digest, so that two terminals ask for one run.
   */
  caller_path?: string | null;
  provenance?: Provenance | null;
  /**
   * Whether somebody gave the run its name, which may be the one that it would have anyway; null: not known.
   */
  named?: boolean | null;
}
/**
 * A run config as it is stored: what equals its default is left out.
 */
export interface StoredRunConfig {
  run_name?: string | null;
  entry_point?: string | null;
  arguments?: string[];
  environment?: {
    [k: string]: string;
  };
  labels?: {
    [k: string]: string;
  };
  metadata?: {
    [k: string]: unknown;
  };
  working_dir?: string | null;
  resources?: {
    cpus?: number;
    memory_mb?: number;
    gpus?: {
      requested?: number;
      mandatory?: boolean;
      whole?: boolean;
    };
  };
  artifacts?: {
    output_prefix?: string;
    persist_logs?: boolean;
    keep_checkpoints?: boolean;
  };
  schedule?: {
    max_duration_seconds?: number | null;
    max_steps?: number | null;
  };
  priority?: number;
  retry?: {
    max_attempts?: number;
    backoff_s?: number;
    on?: string[];
  };
  stop?: {
    signal?: string;
    grace_s?: number;
  };
  heartbeat?: {
    source?: string;
    timeout_s?: number | null;
  };
  after?: string[];
  secrets?: {
    [k: string]: {
      file?: string | null;
      env?: string | null;
    };
  };
  submission_key?: string | null;
  code?: {
    sha256?: string;
    partial?: boolean;
  } | null;
}
/**
 * CloudEvents 1.0 around RetryRequested.
 */
export interface RetryRequestedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.retry_requested.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: RetryRequested;
}
/**
 * Somebody wants an ended run again; `attempt` is the one that it ended with.
 */
export interface RetryRequested {
  run_id: string;
  attempt: number;
  reason?: string | null;
  requested_by?: string;
}
/**
 * CloudEvents 1.0 around NodeDrained.
 */
export interface NodeDrainedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.node_drained.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: NodeDrained;
}
/**
 * The node is granted nothing until NodeResumed.
 */
export interface NodeDrained {
  node: string;
  incarnation: string;
  reason?: string | null;
  requested_by?: string;
}
/**
 * CloudEvents 1.0 around NodeResumed.
 */
export interface NodeResumedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.node_resumed.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: NodeResumed;
}
/**
 * The node is granted runs again.
 */
export interface NodeResumed {
  node: string;
  incarnation: string;
  reason?: string | null;
  requested_by?: string;
}
/**
 * CloudEvents 1.0 around NodeRemoved.
 */
export interface NodeRemovedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.node_removed.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: NodeRemoved;
}
/**
 * The operator's word that the machine is off: ends the live attempts of this incarnation.
 */
export interface NodeRemoved {
  node: string;
  incarnation: string;
  reason?: string | null;
  requested_by?: string;
}
/**
 * CloudEvents 1.0 around Stopping.
 */
export interface StoppingEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.stopping.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: Stopping;
}
/**
 * The node is to end this attempt: its run was cancelled, or the log has it ended (`ended`).
 */
export interface Stopping {
  run_id: string;
  attempt: number;
  epoch: number;
  node: string;
  incarnation: string;
  reason: string;
}
/**
 * CloudEvents 1.0 around NodeLost.
 */
export interface NodeLostEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.node_lost.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: NodeLost;
}
/**
 * A verdict, not an end: the node was silent too long and is granted nothing until it joins again.
 */
export interface NodeLost {
  node: string;
  incarnation: string;
  epoch: number;
  silent_s: number;
}
/**
 * CloudEvents 1.0 around NodeJoined.
 */
export interface NodeJoinedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.node_joined.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: NodeJoined;
}
/**
 * An agent's session begins; `attempts` are those whose end it has not seen acknowledged.
 *
 * `memory_enforced`: whether a worker that needs more than its `memory_mb` is ended; null: an older agent's. `witness`: the key with which the node cosigns the log's checkpoints, as signed-note writes a verifier key; null: an older agent's, or it has none.
 */
export interface NodeJoined {
  node: string;
  incarnation: string;
  host: string;
  cpus: number;
  memory_mb: number;
  gpus?: Device[];
  attempts?: AttemptRef[];
  borrowed?: boolean;
  version?: string | null;
  /**
   * Whether a worker that needs more than its `memory_mb` is ended; null: an older agent's.
   */
  memory_enforced?: boolean | null;
  /**
   * The key with which the node cosigns the log's checkpoints, as signed-note writes a verifier key; null: an older agent's, or it has none.
   */
  witness?: string | null;
}
/**
 * CloudEvents 1.0 around NodeLeft.
 */
export interface NodeLeftEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.node_left.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: NodeLeft;
}
/**
 * A clean shutdown: no new grants. `upto` is the last decision that the agent wrote down.
 */
export interface NodeLeft {
  node: string;
  incarnation: string;
  upto: number;
  attempts?: AttemptRef[];
  reason?: string | null;
}
/**
 * CloudEvents 1.0 around SlotUnhealthy.
 */
export interface SlotUnhealthyEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.slot_unhealthy.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: SlotUnhealthy;
}
/**
 * A device cannot be used; its slot is granted to nobody.
 */
export interface SlotUnhealthy {
  node: string;
  incarnation: string;
  index: number;
  reason?: string | null;
}
/**
 * CloudEvents 1.0 around SlotHealthy.
 */
export interface SlotHealthyEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.slot_healthy.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: SlotHealthy;
}
/**
 * The device can be used again.
 */
export interface SlotHealthy {
  node: string;
  incarnation: string;
  index: number;
}
/**
 * CloudEvents 1.0 around Started.
 */
export interface StartedEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.started.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: Started;
}
/**
 * The worker runs. `threads`: how many its libraries were told to start; null: nothing was told.
 *
 * `memory_enforced`: whether it is held to its `memory_mb`; null where it asked for none. `folder`: the run's on its node, an absolute path; null: an older agent's.
 */
export interface Started {
  run_id: string;
  attempt: number;
  pid: number;
  host: string;
  /**
   * How many its libraries were told to start; null: nothing was told.
   */
  threads?: number | null;
  slots?: number[];
  devices?: string[];
  /**
   * Whether it is held to its `memory_mb`; null where it asked for none.
   */
  memory_enforced?: boolean | null;
  /**
   * The run's on its node, an absolute path; null: an older agent's.
   */
  folder?: string | null;
}
/**
 * CloudEvents 1.0 around TimedOut.
 */
export interface TimedOutEvent {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.timed_out.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: TimedOut;
}
/**
 * The attempt was silent too long or over its time limit, and its tree is gone.
 */
export interface TimedOut {
  run_id: string;
  attempt: number;
  duration_s?: number | null;
  last_heartbeat?: LastHeartbeat | null;
  /**
   * null where no worker ran, or nobody measured it.
   */
  usage?: AttemptUsage | null;
  /**
   * Whether the run's code was still that of its config when the worker started; null where it names none.
   */
  code?: CodeSeen | null;
  /**
   * null where no worker ran, and in older logs.
   */
  output?: OutputBytes | null;
  failure_reason: FailureReason;
  timeout_s?: number | null;
  exit_code?: number | null;
  signal?: number | null;
}
/**
 * An event of the log: its sequence, when it was stored, and the state hash of what was true from then on.
 */
export interface MomentAnswer {
  seq: number;
  time: string;
  state_hash: string;
  v: number;
}
/**
 * Exactly one of the two. `time`: RFC 3339; the last event that was stored by then.
 */
export interface MomentRequest {
  seq?: number | null;
  /**
   * RFC 3339; the last event that was stored by then.
   */
  time?: string | null;
}
/**
 * Of a call that takes nothing: an empty object, or no bytes at all.
 */
export interface NoFields {}
/**
 * The answer to drain, resume and remove.
 */
export interface NodeAnswer {
  node: string;
  status: NodeStatus;
  seq: number;
}
/**
 * What is to be drained, resumed or removed. `reason`: for people, kept in the log.
 */
export interface NodeCommand {
  node: string;
  /**
   * For people, kept in the log.
   */
  reason?: string | null;
}
/**
 * That the node has seen the log's tree at this size, with this root, at this time (s since 1970, as it is signed); `root` and `signature`, the 64 bytes of Ed25519, in base64.
 */
export interface NodeCosignature {
  size: number;
  root: string;
  time: number;
  signature: string;
}
/**
 * What one call had a node look at, in the order of the question.
 *
 * `handled`: of how many attempts all that was asked for is there; of the one after these perhaps the first files.
 */
export interface NodeFiles {
  node: string;
  incarnation: string;
  /**
   * Of how many attempts all that was asked for is there; of the one after these perhaps the first files.
   */
  handled: number;
  attempts: AttemptFiles[];
  v: number;
}
/**
 * The node is alive. `disk_free_mb`: MiB free where its runs' folders lie; null where that is not known.
 *
 * `cosignature`: the last that it gave as a witness of the log; `objection`: what it has against it (docs/protocol.md rule 20).
 */
export interface NodeHeartbeat {
  node: string;
  incarnation: string;
  gpus?: GpuReading[];
  /**
   * MiB free where its runs' folders lie; null where that is not known.
   */
  disk_free_mb?: number | null;
  /**
   * The last that it gave as a witness of the log.
   */
  cosignature?: NodeCosignature | null;
  /**
   * What it has against it (docs/protocol.md rule 20)
   */
  objection?: NodeObjection | null;
}
/**
 * What the node as a witness has against the log. `kept_size`: of the checkpoint that it holds to; `size`: of the one that does not fit it; `since`: RFC 3339; `text`: for people; `event`: the sequence of the one that it did not say.
 */
export interface NodeObjection {
  kind: string;
  /**
   * Of the checkpoint that it holds to.
   */
  kept_size: number;
  /**
   * Of the one that does not fit it.
   */
  size: number;
  /**
   * RFC 3339.
   */
  since: string;
  /**
   * For people.
   */
  text: string;
  /**
   * The sequence of the one that it did not say.
   */
  event?: number | null;
}
/**
 * CloudEvents 1.0 around NodeHeartbeat.
 */
export interface NodeHeartbeatMessage {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.node.heartbeat.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: NodeHeartbeat;
}
/**
 * All nodes that are known or still have attempts.
 */
export interface NodePage {
  seq: number;
  v: number;
  /**
   * The read model had not yet seen everything that was acknowledged before the question, but `progress`.
   */
  stale?: boolean;
  progress?: FoldProgress | null;
  nodes: NodeRecord[];
}
/**
 * A machine with an agent, what it has and what is granted of it.
 *
 * `disk_free_mb`: MiB free where its runs' folders lie, by its last heartbeat. `suspect_since`: when the first of the last three runs ended that it could not start, and `suspect_reason` why the last of them was not; null where it starts what it is granted. `witness`: the key with which it cosigns the log's checkpoints; by its last heartbeat `witnessed_size`, `witnessed_root` (base64), `witnessed_at` (s since 1970) and `witness_signature` (base64): the last that it cosigned; `witness_objection`: what it has against the log.
 */
export interface NodeRecord {
  node: string;
  host: string;
  incarnation: string;
  status: NodeStatus;
  drained: boolean;
  cpus: number;
  memory_mb: number;
  gpus: number;
  slots_total: number;
  cpus_used: number;
  memory_used_mb: number;
  slots_used: number;
  joined_at: string | null;
  last_heartbeat_at: string | null;
  /**
   * MiB free where its runs' folders lie, by its last heartbeat.
   */
  disk_free_mb: number | null;
  memory_enforced: boolean | null;
  /**
   * When the first of the last three runs ended that it could not start, and `suspect_reason` why the last of them was not; null where it starts what it is granted.
   */
  suspect_since: string | null;
  suspect_reason: string | null;
  /**
   * The key with which it cosigns the log's checkpoints; by its last heartbeat `witnessed_size`, `witnessed_root` (base64), `witnessed_at` (s since 1970) and `witness_signature` (base64): the last that it cosigned.
   */
  witness: string | null;
  witnessed_size: number | null;
  witnessed_root: string | null;
  witnessed_at: number | null;
  /**
   * The last that it cosigned.
   */
  witness_signature: string | null;
  /**
   * What it has against the log.
   */
  witness_objection: WitnessObjection | null;
  seq: number;
  updated_at: string | null;
}
/**
 * What a node as a witness has against the log: the checkpoint of `kept_size` leaves, which it holds to, does not go with that of `size`; or the node did not say `event` (a sequence), which stands in its name. `text`: that for people; `since`: RFC 3339.
 */
export interface WitnessObjection {
  kind: string;
  kept_size: number;
  size: number;
  /**
   * RFC 3339.
   */
  since: string;
  /**
   * That for people.
   */
  text: string;
  event: number | null;
}
/**
 * A range: `limit` bytes (128 KiB at most) from `offset` on; a negative offset counts from the end.
 *
 * `path`: of the stream `artifact` which file it is.
 */
export interface OutputRequest {
  run_id: string;
  attempt: number;
  stream?: string;
  offset?: number;
  limit?: number;
  /**
   * Of the stream `artifact` which file it is.
   */
  path?: string | null;
}
/**
 * A run of which a node kept something, and why.
 */
export interface PruneKept {
  run_id: string;
  reason: string;
}
/**
 * Runs, each with the number of its last attempt. `dry_run`: delete nothing.
 */
export interface PruneRequest {
  runs?: AttemptRequest[] | null;
  /**
   * Delete nothing.
   */
  dry_run?: boolean | null;
}
/**
 * What one call had a node delete, or would have: `bytes` as they lie on its disk.
 *
 * `handled`: how many of the runs that were asked for, in their order, were looked at.
 */
export interface Pruned {
  node: string;
  /**
   * How many of the runs that were asked for, in their order, were looked at.
   */
  handled: number;
  runs: string[];
  bytes: number;
  kept: PruneKept[];
  v: number;
}
/**
 * A queued run, its place among those that could be granted (from 1 on; null while it waits for something else), and what it waits for.
 */
export interface QueuePlace {
  run_id: string;
  place: number | null;
  waiting: Wait | null;
}
/**
 * The queue as a whole, as it is once event `seq` is folded: how many wait, and the first 500 in their order.
 *
 * `at`: when it was made (RFC 3339).
 */
export interface QueueRecord {
  seq: number;
  /**
   * When it was made (RFC 3339)
   */
  at: string;
  total: number;
  runs: QueuePlace[];
  v: number;
}
/**
 * How the read model is.
 *
 * `state_hash`: of what is folded, 64 hex digits. `schema_version`: of its tables. `quarantined`: messages of the log that are no event. `objections`: the nodes that object to the log. `gap`: the missing sequence at which the log's tree ended. `ok`: whether it has all that was acknowledged before the question. `records`: whether it is the one that keeps the records. `log_id`: which log there is now, and `last_seq` its last sequence; null: it does not answer. `person` and `role`: who asks, where people are enrolled.
 */
export interface ReadModelHealth {
  v: number;
  seq: number;
  /**
   * Of what is folded, 64 hex digits.
   */
  state_hash: string;
  /**
   * Of its tables.
   */
  schema_version: number;
  /**
   * Messages of the log that are no event.
   */
  quarantined: number;
  /**
   * The nodes that object to the log.
   */
  objections: string[];
  /**
   * The missing sequence at which the log's tree ended.
   */
  gap: number | null;
  /**
   * Which log there is now, and `last_seq` its last sequence; null: it does not answer.
   */
  log_id: string | null;
  last_seq: number | null;
  /**
   * Whether it has all that was acknowledged before the question.
   */
  ok: boolean;
  /**
   * Whether it is the one that keeps the records.
   */
  records: boolean;
  person?: string | null;
  /**
   * Who asks, where people are enrolled.
   */
  role?: PersonRole | null;
  stale?: boolean;
  progress?: FoldProgress | null;
}
/**
 * How far a rebuild is: one of the messages before the last.
 */
export interface RebuildProgress {
  v: number;
  progress: FoldProgress;
}
/**
 * What `audit.rebuild` answers in the end. `same`: whether the state hash was that of the read model before.
 */
export interface Rebuilt {
  v: number;
  seq: number;
  state_hash: string;
  /**
   * Whether the state hash was that of the read model before.
   */
  same: boolean;
  seconds: number;
  database: string;
  host: string;
}
/**
 * The answer to `cert.renew`. `certificate`: where one was asked for; `due`: whether one should be.
 */
export interface RenewAnswer {
  /**
   * Whether one should be.
   */
  due: boolean;
  authorities: string;
  /**
   * Where one was asked for.
   */
  certificate?: string | null;
}
/**
 * The first message of all rows. `counts`: how many rows each table has.
 */
export interface RowsHead {
  v: number;
  seq: number;
  state_hash: string;
  log_id: string;
  schema_version: number;
  /**
   * How many rows each table has.
   */
  counts: {
    [k: string]: number;
  };
}
/**
 * Rows of one table; `part`: from 1 on. An empty message comes last.
 */
export interface RowsPart {
  /**
   * From 1 on.
   */
  part: number;
  table: string;
  rows: {
    [k: string]: unknown;
  }[];
}
/**
 * What is to be cancelled, or run again. `reason`: for people, kept in the log.
 */
export interface RunCommand {
  run_id: string;
  /**
   * For people, kept in the log.
   */
  reason?: string | null;
}
/**
 * Where an attempt's run has its folder on its node, and how much is in it.
 *
 * `exists`: whether it is (still) there. `output`: the folder of stdout.log and stderr.log; `output_bytes` how long each is, null where it is not there. `artifacts` and `artifacts_bytes`: the files in artifacts/ and their sizes together; `partial`: there are more, which there was no time to count.
 */
export interface RunFolder {
  node: string;
  host: string;
  folder: string;
  /**
   * Whether it is (still) there.
   */
  exists: boolean;
  /**
   * The folder of stdout.log and stderr.log.
   */
  output: string;
  output_bytes: {
    [k: string]: number | null;
  };
  artifacts: number;
  /**
   * The files in artifacts/ and their sizes together.
   */
  artifacts_bytes: number;
  /**
   * There are more, which there was no time to count.
   */
  partial: boolean;
  v: number;
}
/**
 * What a live attempt's worker has reported so far.
 */
export interface RunHeartbeat {
  ready_at?: string | null;
  last_heartbeat_at?: string | null;
  step?: number | null;
  progress?: number | null;
  status_text?: string | null;
  /**
   * The name of the metric that the worker said matters most; null: it said none.
   */
  primary_metric?: string | null;
  metrics?: {
    [k: string]: number | "-Infinity" | "Infinity" | "NaN";
  };
  /**
   * What it told that could not be taken, the first of each kind (`trainshed_client.rendering.passed_over`)
   */
  passed_over?: {
    [k: string]: string;
  };
  run_id: string;
  attempt: number;
}
/**
 * CloudEvents 1.0 around RunHeartbeat.
 */
export interface RunHeartbeatMessage {
  specversion: "1.0";
  /**
   * A UUIDv7; also the message's `Nats-Msg-Id`.
   */
  id: string;
  type: "trainshed.run.heartbeat.v1";
  /**
   * Who wrote it.
   */
  source: string;
  /**
   * What it is about: the id of a run, a node's name, or `log`, `dispatch`.
   */
  subject: string;
  /**
   * Of its writing, by the writer's clock.
   */
  time: string;
  datacontenttype: "application/json";
  data: RunHeartbeat;
}
/**
 * One page of runs, newest first, each as the server's own JSON (`records` decodes them).
 *
 * `total`: how many match in all pages together; only the first page tells it.
 */
export interface RunPage {
  seq: number;
  v: number;
  /**
   * The read model had not yet seen everything that was acknowledged before the question, but `progress`.
   */
  stale?: boolean;
  progress?: FoldProgress | null;
  runs: QueuedRunRecord[];
  /**
   * How many match in all pages together; only the first page tells it.
   */
  total?: number | null;
}
/**
 * Which run. `at`: as it was after this event and before the next.
 */
export interface RunQuestion {
  run_id: string;
  /**
   * As it was after this event and before the next.
   */
  at?: number | null;
}
/**
 * A run's row. `seq` is the sequence of the event that last changed it.
 *
 * `named`: whether somebody gave it its name; else that is only what its command gives (null: an older release's). `waited_s`: seconds in the queue up to the last grant; since `queued_at` it waits again. `duration_s`: the worker's own time by its node's clock, once it has ended (null: nobody saw it). `error`: the line that tells most of why it failed. `max_steps`: of its schedule. `folder`: the run's on its node (null: it was not started there yet, or by an older release); `artifacts`: what a completed one left; `submitted_code`: of what code it is (null: its config names none).
 */
export interface RunRecord {
  run_id: string;
  name: string;
  status: RunStatus;
  attempt: number;
  digest: string;
  seq: number;
  submit_seq: number;
  priority: number;
  labels: {
    [k: string]: string;
  };
  /**
   * Whether somebody gave it its name; else that is only what its command gives (null: an older release's)
   */
  named: boolean | null;
  node: string | null;
  host: string | null;
  slots: number[];
  cpus: number;
  gpus: number;
  pid: number | null;
  command: string[];
  cancel_requested: boolean;
  submitted_by: string | null;
  submitted_at: string | null;
  queued_at: string | null;
  /**
   * Seconds in the queue up to the last grant; since `queued_at` it waits again.
   */
  waited_s: number;
  dispatched_at: string | null;
  started_at: string | null;
  ready_at: string | null;
  ended_at: string | null;
  updated_at: string | null;
  last_heartbeat_at: string | null;
  /**
   * The worker's own time by its node's clock, once it has ended (null: nobody saw it)
   */
  duration_s: number | null;
  exit_code: number | null;
  signal: number | null;
  failure_reason: FailureReason | null;
  /**
   * The line that tells most of why it failed.
   */
  error: string | null;
  code: CodeSeen | null;
  step: number | null;
  progress: number | null;
  status_text: string | null;
  primary_metric: string | null;
  metrics: {
    [k: string]: number | "-Infinity" | "Infinity" | "NaN";
  };
  passed_over: {
    [k: string]: string;
  };
  usage: AttemptUsage;
  memory_enforced: boolean | null;
  /**
   * Of its schedule.
   */
  max_steps: number | null;
  /**
   * The run's on its node (null: it was not started there yet, or by an older release)
   */
  folder: string | null;
  /**
   * What a completed one left.
   */
  artifacts: ArtifactsLeft | null;
  /**
   * Of what code it is (null: its config names none)
   */
  submitted_code: SubmittedCode | null;
}
/**
 * Everything about one run; `config` is the normalised run config.
 */
export interface RunView {
  seq: number;
  v: number;
  /**
   * The read model had not yet seen everything that was acknowledged before the question, but `progress`.
   */
  stale?: boolean;
  progress?: FoldProgress | null;
  run: QueuedRunRecord;
  config: StoredRunConfig;
  attempts: AttemptRecord[];
  timeline: TimelineEntry[];
}
/**
 * All slots.
 */
export interface SlotPage {
  seq: number;
  v: number;
  /**
   * The read model had not yet seen everything that was acknowledged before the question, but `progress`.
   */
  stale?: boolean;
  progress?: FoldProgress | null;
  slots: ListedSlotRecord[];
}
/**
 * One schedulable GPU share of a node and who holds it.
 *
 * `gpu`: the place of its device among the node's, which slots of one device share; so do `memory_used_mb`, `utilisation` and `other_pids`. `attempt_memory_mb` is what its holder uses of that device.
 */
export interface SlotRecord {
  node: string;
  index: number;
  /**
   * The place of its device among the node's, which slots of one device share; so do `memory_used_mb`, `utilisation` and `other_pids`.
   */
  gpu: number | null;
  uuid: string | null;
  device: string | null;
  memory_mb: number | null;
  memory_used_mb: number | null;
  attempt_memory_mb: number | null;
  utilisation: number | null;
  other_pids: number[];
  healthy: boolean;
  unhealthy_reason: string | null;
  run_id: string | null;
  attempt: number | null;
  seq: number;
  updated_at: string | null;
}
/**
 * The answer to a submit. `created` is false where the config was a run already; `seq`: of its Submitted.
 */
export interface Submission {
  run_id: string;
  digest: string;
  created: boolean;
  status: RunStatus;
  /**
   * Of its Submitted.
   */
  seq: number;
}
/**
 * The answer to a batch: one submission a config, in order.
 */
export interface Submissions {
  runs: Submission[];
}
/**
 * A line of a worker's stdout that is a JSON object with a `type` or an `event`; what else is in it is the worker's.
 */
export interface TelemetryLine {
  [k: string]: unknown;
}
