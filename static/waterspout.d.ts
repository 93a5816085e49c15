// The types of waterspout.js. Its comments say what everything does.

export type State = "connecting" | "open" | "waiting" | "closed";
export type Transport = "websocket" | "sse" | "poll";
export type Off = () => void;

/** One message of a channel. Those of ephemeral channels have neither offset, cursor nor key. */
export interface Message<Data = any> {
  type: "message";
  channel: string;
  offset: number;
  cursor: string;
  key: string;
  user: string | null;
  time: number;
  data: Data;
  /** Of an ephemeral message. */
  tag?: string;
  /** The one that was subscribed to, if it was one: then `channel` is another, and there is neither offset, cursor nor key. */
  pattern?: string;
  /** Where messages can be amended: the offset of what has made it what it is. */
  version?: number;
  edited?: boolean;
  /** It was erased: then `data` is null. */
  deleted?: { user?: string | null; time?: number };
  pinned?: boolean;
  /** Members of the channel, or `*`: all of them. */
  mentions?: string[];
  reactions?: Reaction[];
  replies?: Replies;
  /** The thread that it was published in as well. */
  thread?: string;
}

/** What becomes of the message `of`: of an edit `data` is the new data, of an append what comes behind it, of a pin whether it is one. */
export interface Amend {
  type: "amend";
  channel: string;
  offset: number;
  cursor: string;
  of: number;
  op: "edit" | "append" | "delete" | "pin" | "reactions" | "replies";
  key: string;
  user: string | null;
  time: number;
  version: number;
  data?: any;
  /** Of an append: the number of the last part in it, if they are numbered; and whether it was said to be the last. */
  part?: number;
  done?: boolean;
  /** False where the whole message is told because it was appended to: nobody has edited it. */
  edited?: false;
  /** All there are now; of two the one with the higher `at` is right. */
  reactions?: Reaction[];
  replies?: Replies;
  at?: number;
}

/** What there is in the thread about a message: how much, the cursor of the newest, and who has answered last. */
export interface Replies {
  count: number;
  newest: string | null;
  users: string[];
}

/** How often there was this reaction, and the first who have it. */
export interface Reaction {
  k: string;
  n: number;
  u: string[];
}

/** What is told of the message with this `at`, or a higher one, has it. */
export interface Reacted {
  channel: string;
  of: number;
  kind: string;
  on: boolean;
  at: number;
}

export interface Amended {
  offset: number;
  cursor: string;
  key: string;
  duplicate: boolean;
}

/** Messages that are gone for good, both ends inclusive. */
export interface Gap {
  from: number | null;
  to: number | null;
  reason?: string;
  cursor?: string;
}

export interface Options {
  token?: string | (() => string | Promise<string>);
  transports?: Transport[];
  msgpack?: { encode(value: any): Uint8Array; decode(bytes: Uint8Array): any };
  storage?: Pick<Storage, "getItem" | "setItem">;
  storagePrefix?: string;
  WebSocket?: any;
  minDelay?: number;
  maxDelay?: number;
  patience?: number;
  ping?: number;
  window?: number;
  maxQueue?: number;
  name?: string;
  version?: string;
}

export class WaterspoutError extends Error {
  constructor(error: { code?: any; reason?: any; retry?: any; retry_after?: any; rev?: any; details?: any });
  code: string;
  reason: string;
  retry: boolean;
  retryAfter: number | null;
  rev: string | null;
  details: any;
}

declare class Emitter<Events> {
  on<Name extends keyof Events & string>(name: Name, listener: (event: Events[Name]) => void): Off;
}

export interface ClientEvents {
  state: { state: State; [detail: string]: any };
  connecting: { state: "connecting" };
  open: { state: "open" };
  waiting: { state: "waiting"; delay: number; at: number; code: number; reason: string };
  closed: { state: "closed"; code: number; reason: string };
  resumed: { count: number };
  /** Seconds until the next of the commands that wait for the rate limit; none waits any more: `waiting` is 0. */
  limited: { delay: number; waiting: number; reason: string };
  warning: { about: "storage"; reason: string; channel: string };
  /** By the server, without having been asked. */
  subscribed: { channel: Channel };
}

export class Waterspout extends Emitter<ClientEvents> {
  constructor(url?: string | URL, options?: Options);
  readonly options: Options &
    Required<Pick<Options, "transports" | "minDelay" | "maxDelay" | "patience" | "window" | "maxQueue">>;
  readonly state: State;
  readonly transport: Transport | null;
  readonly session: { session?: string; user?: string | null; node?: string; [field: string]: any } | null;
  channel<Data = any>(name: string): Channel<Data>;
  rooms(options?: { threads?: boolean }): Rooms;
  direct<Data = any>(namespace: string, user: string): Channel<Data>;
  block(user: string, on?: boolean): Promise<{ user: string; blocked: boolean }>;
  blocked(): Promise<string[]>;
  collection<Fields = Record<string, any>>(name: string): Collection<Fields>;
  watch<Fields = Record<string, any>>(
    collection: string,
    where?: object,
    options?: { conflate?: number },
  ): LiveCopy<Fields>;
  connect(): void;
  close(): void;
  request(type: string, fields?: object): Promise<any>;
  cancel(scheduled: string): Promise<void>;
  search(
    q: string,
    options?: { channels?: string[]; after?: string; limit?: number },
  ): Promise<{ messages: Message[]; cursor: string | null; more: boolean }>;
  call<Answer = any>(method: string, data?: any, options?: { key?: string; timeout?: number }): Promise<Answer>;
  consume<Data = any>(
    consumer: string,
    options?: { limit?: number; onGap?: (gap: LostJobs) => void },
  ): AsyncGenerator<Job<Data>, void, void>;
}

/** A message to work on: one worker's until its lease is over. */
export class Job<Data = any> {
  private constructor();
  readonly id: string;
  readonly channel: string;
  readonly offset: number;
  readonly key: string;
  readonly user: string | null;
  readonly time: number;
  readonly data: Data;
  readonly delivery: number;
  readonly type: "message" | "amend";
  readonly of?: number;
  readonly op?: string;
  readonly fields: Record<string, any>;
  readonly settled: boolean;
  ack(): Promise<void>;
  nack(delay?: number): Promise<void>;
}

/** What retention has taken before it was handed out. */
export interface LostJobs {
  channel: string;
  from: number | null;
  to: number | null;
  reason?: string;
}

export interface ChannelEvents<Data = any> {
  message: Message<Data>;
  amend: Amend;
  gap: Gap;
  dropped: { count: number };
  join: { user: string; info?: any };
  leave: { user: string; info?: any };
  /** A member has read up to there, where the namespace has receipts. */
  read: { user: string; offset: number };
  /** What `client.rooms` says of the channel has changed: null, it is none of them; undefined, nobody knows. */
  room: Room | null | undefined;
  occupancy: { count: number; guests: number };
  progress: { cursor: string };
  snapshot: { documents: any[]; more: boolean; start?: boolean; cursor?: string };
  subscribed: { cursor?: string | null; head?: string; recovered?: boolean; resumed: boolean };
  live: { count: number; resumed: boolean };
  ended: WaterspoutError;
}

/** What a channel has where it has members. */
declare class Membered<Events> extends Emitter<Events> {
  join(): Promise<{ channel: string; user: string; role: string }>;
  leave(): Promise<{ channel: string; user: string; role: null }>;
  setMember(user: string, role: string | null): Promise<{ channel: string; user: string; role: string | null }>;
  prefer(wanted: { mute?: boolean; pin?: boolean }): Promise<{ role: string; mute: boolean; pin: boolean }>;
  memberships(page?: {
    after?: string;
    limit?: number;
  }): Promise<{ members: { user: string; role: string; joined: number; read?: string }[]; more: boolean }>;
  receipts(): Receipts;
  markRead(cursor?: string | null, options?: { set?: boolean }): Promise<{ channel: string; cursor: string }>;
}

/** Of each member the offset up to which a channel is read. */
export class Receipts extends Emitter<{ change: void; failed: WaterspoutError }> {
  private constructor();
  readonly users: Map<string, number>;
  of(offset: number): string[];
  refresh(): Promise<void>;
}

/** What becomes of a channel's messages. */
declare class Amendable<Data> extends Membered<ChannelEvents<Data>> {
  edit(of: number, data: Data, options?: { key?: string }): Promise<Amended>;
  append(of: number, text: string, options?: { part?: number; done?: boolean; key?: string }): Promise<Amended>;
  remove(of: number, options?: { key?: string }): Promise<Amended>;
  pin(of: number, pinned?: boolean, options?: { key?: string }): Promise<Amended>;
  react(of: number, kind: string): Promise<Reacted>;
  unreact(of: number, kind: string): Promise<Reacted>;
  thread(of: number): Channel<Data>;
}

export class Channel<Data = any> extends Amendable<Data> {
  private constructor();
  readonly name: string;
  readonly state: "idle" | "joining" | "replaying" | "live";
  cursor: string | null;
  subscribe(options?: {
    after?: string;
    last?: number;
    where?: object;
    snapshot?: boolean;
    conflate?: number;
    threads?: boolean;
  }): Promise<{ cursor?: string | null; head?: string; recovered?: boolean; snapshot?: boolean }>;
  unsubscribe(): Promise<void>;
  publish(
    data: Data,
    options?: {
      key?: string;
      tag?: string;
      echo?: boolean;
      ephemeral?: boolean;
      at?: number | string;
      mentions?: string[];
      broadcast?: boolean;
    },
  ): Promise<{
    offset?: number;
    cursor?: string;
    key?: string;
    duplicate?: boolean;
    scheduled?: string;
    at?: number;
  }>;
  timeline(): Timeline<Data>;
  history(bounds?: { before?: string; after?: string; limit?: number }): Promise<{
    messages: Message<Data>[];
    amends?: Amend[];
    cursor: string;
    head: string;
    mine?: Record<string, string[]>;
    more: boolean;
    gap: Gap | null;
  }>;
  presence(options?: { left?: number }): Promise<{ users: Member[]; count: number; guests: number; left?: any[] }>;
  members(): Members;
}

/** A channel that the user is a member of; in a `change` with the role null: no more. */
export interface Room {
  channel: string;
  role: string | null;
  read: string;
  head: string;
  count: number;
  unread: number;
  mentions: number;
  newest: string | null;
  time: number | null;
  mute?: boolean;
  pin?: boolean;
  /** Of a thread that the user follows: what it is about. */
  thread?: { channel: string; of: number };
}

export class Rooms extends Emitter<{ change: Room | null; ended: WaterspoutError }> {
  private constructor();
  readonly rooms: Map<string, Room>;
  readonly ready: boolean;
  readonly unread: number;
  readonly mentions: number;
  /** Of threads, if they were asked for; the two before are of rooms alone. */
  readonly threadUnread: number;
  readonly threadMentions: number;
  list(): Room[];
  threads(channel?: string): Room[];
  close(): Promise<void>;
}

/** A message as it is shown. What is being sent has no offset yet; what was refused has an error. */
export type Shown<Data = any> = Partial<Message<Data>> & {
  key: string;
  data: Data | null;
  pending?: boolean;
  /** How this user has reacted. */
  mine?: string[];
  error?: WaterspoutError;
};

export interface TimelineEvents<Data = any> {
  change: void;
  refused: { error: WaterspoutError; message?: Message<Data> };
}

export class Timeline<Data = any> extends Emitter<TimelineEvents<Data>> {
  private constructor();
  readonly channel: Channel<Data>;
  readonly messages: Shown<Data>[];
  readonly more: boolean | null;
  /** As `client.rooms` knows it, of a thread `client.rooms({ threads: true })`; else null. */
  readonly unread: number | null;
  readonly following: boolean | null;
  follow(): Promise<{ channel: string; user: string; role: string }>;
  unfollow(): Promise<{ channel: string; user: string; role: null }>;
  markRead(cursor?: string | null, options?: { set?: boolean }): Promise<{ channel: string; cursor: string }>;
  start(options?: { last?: number }): Promise<{ cursor?: string | null; head?: string; recovered?: boolean }>;
  close(): void;
  loadOlder(limit?: number): Promise<boolean>;
  send(
    data: Data,
    options?: { key?: string; mentions?: string[]; broadcast?: boolean },
  ): Promise<{ offset?: number; cursor?: string; duplicate?: boolean }>;
  again(key: string): Promise<{ offset?: number; cursor?: string; duplicate?: boolean }>;
  discard(key: string): void;
  edit(offset: number, data: Data): Promise<Amended>;
  append(message: number | { offset?: number }): WritableStream<string>;
  remove(offset: number): Promise<Amended>;
  pin(offset: number, pinned?: boolean): Promise<Amended>;
  react(message: number | { offset?: number }, kind: string): Promise<Reacted>;
  unreact(message: number | { offset?: number }, kind: string): Promise<Reacted>;
  thread(message: number | { offset?: number; thread?: string }): Timeline<Data>;
}

/** Its former name. */
export type Subscription<Data = any> = Channel<Data>;

export interface Member {
  user: string;
  sessions: number;
  info?: any;
}

export class Members extends Emitter<{ change: void; join: Member; leave: Member; failed: WaterspoutError }> {
  private constructor();
  readonly users: Map<string, Member>;
  readonly count: number;
  readonly guests: number;
  refresh(): Promise<void>;
}

export type Document<Fields = Record<string, any>> = Fields & { _id: string; _rev: string };

export interface Guard {
  rev?: string;
}

export class Collection<Fields = Record<string, any>> {
  private constructor();
  readonly name: string;
  get(id: string): Promise<Document<Fields>>;
  find(query?: {
    where?: object;
    sort?: string;
    limit?: number;
    page?: string;
    fields?: string;
    count?: boolean;
  }): Promise<{ documents: Document<Fields>[]; page: string | null; count?: number }>;
  create(document: Fields): Promise<Document<Fields>>;
  put(id: string, document: Fields, guard?: Guard & { absent?: boolean }): Promise<Document<Fields>>;
  patch(id: string, changes: object, guard?: Guard): Promise<Document<Fields>>;
  delete(id: string, guard?: Guard): Promise<void>;
  watch(where?: object, options?: { conflate?: number }): LiveCopy<Fields>;
}

export interface CopyEvents<Fields> {
  ready: void;
  reset: void;
  change: {
    op: "put" | "delete";
    id: string;
    document: Document<Fields> | null;
    before: Document<Fields> | null;
  };
  ended: WaterspoutError;
}

export class LiveCopy<Fields = Record<string, any>> extends Emitter<CopyEvents<Fields>> {
  private constructor();
  readonly documents: Map<string, Document<Fields>>;
  readonly ready: boolean;
  readonly channel: Channel;
  close(): Promise<void>;
}

/** A new idempotency key. */
export function randomKey(): string;
