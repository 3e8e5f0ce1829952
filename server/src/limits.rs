//! Every ceiling of the server, with where its number comes from.
//!
//! Owns the constants; must never read configuration: what an operator may change starts from a number here.
//! Full means a fast, typed refusal, so each line names the status or the act that answers it.

// ----- HTTP heads -----

/// 414 beyond it. nginx and most proxies in front of us stop at the same 8 KiB.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;

/// 431 beyond it. Twice the request line: credentials (a JWT is at most 4 KiB) and cookies of a shared domain fit.
pub const HEADER_BLOCK_BYTES_MAX: usize = 16 * 1024;

/// 431 beyond it. Browsers send about 20, proxies add about 10; doubled.
pub const HEADER_COUNT_MAX: usize = 64;

/// 400 beyond it. RFC 9112 2.2 asks for at least one; two covers clients that end a body with a stray CRLF.
pub const LEADING_EMPTY_LINES_MAX: u8 = 2;

/// 400 beyond it: the largest integer that every JSON and JavaScript peer holds exactly (2^53).
pub const CONTENT_LENGTH_MAX: u64 = 1 << 53;

// Spans into a head are 16 bits wide.
const _: () = assert!(REQUEST_LINE_BYTES_MAX + HEADER_BLOCK_BYTES_MAX + 64 < u16::MAX as usize);

// ----- bodies -----

/// 413 beyond it. The second seed's largest batch; one body is one contiguous piece of memory.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// 413 beyond it, on control-plane routes: the largest such body is a list of permissions, under 4 KiB.
pub const CONTROL_BODY_BYTES_MAX: usize = 64 * 1024;

/// 413 beyond it. The first seed's largest event.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// 413 beyond it. The first seed's largest batch is 1,000; ten times that still encodes in about a millisecond.
pub const EVENTS_PER_REQUEST_MAX: usize = 10_000;

/// From this length on the body is received straight into its own memory. Two provided buffers of 16 KiB:
/// below it, the copy out of them costs less than another receive operation (a guess).
pub const DIRECT_RECEIVE_BYTES_MIN: usize = 32 * 1024;

/// How much memory a declared length gets at once; beyond it the buffer doubles as bytes really arrive,
/// so that a declaration alone reserves nothing. Doubling from here reaches 16 MiB in four steps.
pub const BODY_RESERVE_BYTES: usize = 1024 * 1024;

// ----- frames -----

/// The connection closes beyond it. The second seed's largest frame, and the largest body: one can be the other.
pub const FRAME_BYTES_MAX: usize = BODY_BYTES_MAX;

const _: () = assert!(EVENT_BYTES_MAX <= BODY_BYTES_MAX);
const _: () = assert!(LINES_PER_REQUEST_MAX <= ringlog_engine::limits::BATCH_EVENTS_MAX);
const _: () = assert!(CONTROL_BODY_BYTES_MAX <= BODY_BYTES_MAX);
const _: () = assert!(DIRECT_RECEIVE_BYTES_MIN < BODY_RESERVE_BYTES);

/// 413 beyond it: a body once it is unpacked. The same ceiling as for one that is sent unpacked, so that whoever compresses
/// gains bytes on the wire and nothing else.
pub const INFLATED_BYTES_MAX: usize = BODY_BYTES_MAX;

/// 415 beyond it: log2 of the window that a zstd body asks for. RFC 9659 lets a sender count on 8 MiB and no more.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A decoder that holds more than this after a body is thrown away: a zstd decoder without a window has some 95 KiB, one
/// with the window of a usual sender of small bodies well below 1 MiB.
pub const DECODER_KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Lines of one body of JSON lines; each one beyond is refused. The second seed's limit, and the engine's for a batch.
pub const LINES_PER_REQUEST_MAX: usize = EVENTS_PER_REQUEST_MAX;

/// Levels of nesting in one of the second seed's lines; its server's limit.
pub const LINE_DEPTH_MAX: u32 = 32;

/// Refused lines that an answer names; beyond it they are counted. At some 150 bytes each 15 KB.
pub const LINES_NAMED_MAX: usize = 100;

// ----- chunked bodies -----

/// 400 beyond it. 16 MiB in chunks of 256 bytes.
pub const CHUNK_COUNT_MAX: u32 = 1 << 16;

/// 400 beyond it, for all extensions of one message together. No client of ours sends any.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 256;

/// 400 beyond it: framing bytes for each payload byte. One-byte chunks with a plain size line cost 5.
pub const CHUNK_OVERHEAD_RATIO_MAX: u64 = 16;

/// Framing below this many bytes is not held against the payload, or the smallest bodies would be refused:
/// an empty one has five bytes of framing and nothing to weigh them against.
pub const CHUNK_OVERHEAD_FREE_BYTES: u64 = 1024;

// ----- syslog -----

/// A message beyond it is refused and its beginning kept. 32 times what RFC 5424 6.1 asks of a receiver, as much as
/// the largest datagram, and with every byte escaped still below an event's payload.
pub const SYSLOG_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What is kept of a message that is too long. The header of any real message and some of its text.
pub const SYSLOG_TRUNCATED_BYTES: usize = 1024;

const _: () = assert!(SYSLOG_TRUNCATED_BYTES <= SYSLOG_MESSAGE_BYTES_MAX);
// A control character becomes six characters of JSON, and what is not UTF-8 three bytes.
const _: () = assert!(SYSLOG_MESSAGE_BYTES_MAX * 6 + 1024 <= EVENT_BYTES_MAX);

// ----- connections -----

/// Refused at accept beyond it. At 16 KiB of receive buffer each that is 160 MiB at the very worst.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Refused at accept beyond it: one address may hold a fortieth of the connections.
pub const CONNECTIONS_PER_IP_MAX: usize = 256;

/// `Connection: close` on the last one. Spreads long-lived clients over cores and restarts.
pub const REQUESTS_PER_CONNECTION_MAX: u64 = 100_000;

/// `Connection: close` after it, spread by a tenth each way so that clients do not return together.
pub const CONNECTION_AGE_US: u64 = 3600 * SECOND_US;

/// Reading stops beyond it: requests in flight on one connection. Covers 64 clients behind one proxy connection.
pub const PIPELINE_DEPTH_MAX: usize = 64;

/// Reading stops beyond it: answers that the client has not taken. Four times a usual socket send buffer of 64 KiB.
pub const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// The connection is dropped beyond it: bytes that were already in the ring when reading stopped.
/// One largest body and its head; the provided buffers of a core hold less than that in total.
pub const BACKLOG_BYTES_MAX: usize = BODY_BYTES_MAX + HEADER_BLOCK_BYTES_MAX + REQUEST_LINE_BYTES_MAX;

/// A connection keeps a buffer of at most this capacity for its next request, and frees a larger one.
pub const BUFFER_KEPT_BYTES_MAX: usize = 16 * 1024;

/// After a refusal that ends the connection, at most this much of what the client still sends is read and dropped,
/// so that the reset which follows unread bytes does not overtake the answer. Also the largest body that is
/// read and dropped to keep a connection alive after its head was refused.
pub const LINGER_BYTES_MAX: usize = 64 * 1024;

// ----- connections that are only read -----

/// Refused at accept beyond it: connections of sources that push. Each may hold [`STREAM_HELD_FREE_BYTES`]: 160 MiB at the
/// very worst.
pub const STREAMS_MAX: usize = 10_000;

/// What each of them may hold of a unit that is not whole yet, or was not taken yet, without asking. One receive buffer.
pub const STREAM_HELD_FREE_BYTES: usize = 16 * 1024;

/// Reading stops beyond it: the lengths of the longer units that are arriving on one core. Whoever waits for it gets it in
/// order, and whoever has it has to be as fast as a body then. As much as bodies have.
pub const STREAM_RESERVED_BYTES_MAX: usize = 64 << 20;

/// What a receive of a sender of long units asks for when the last one brought as much as it asked for.
pub const STREAM_WIDE_BYTES: usize = 128 * 1024;

/// Receives beyond it ask for what is missing and not more: such wide ones under way on one core, 8 MiB.
pub const STREAMS_WIDE_MAX: usize = 64;

/// Reading stops on all of a core's such connections beyond it: what was received and cannot be taken yet, because where it
/// goes is full. Twice what the ring's buffers bring in one turn, so that those that are on their way still fit.
pub const STREAM_BACKLOG_BYTES_MAX: usize = 32 << 20;

/// Reading stops beyond it: encoded events of one core's sources that are not durable yet. Each shard has an equal share, so
/// that one that stands still does not stop the others; a batch that is larger than the share goes alone. Half of what
/// requests have: they are answered, and must find room beside those who are not.
pub const SOURCES_APPENDING_BYTES_MAX: usize = 32 << 20;

/// Reading stops beyond it: batches of one core's sources that are not durable yet. An eighth of all appends.
pub const SOURCES_APPENDS_MAX: usize = 8 * 1024;

/// Waiting begins beyond it, at the owner: bytes of sources in one shard. Half of what the engine lets wait, for the same
/// reason.
pub const GATE_BYTES_MAX: usize = 32 << 20;

/// After it a batch that found the storage full is tried again; the engine itself looks every second.
pub const GATE_FULL_RETRY_US: u64 = SECOND_US / 4;

/// After it a batch is tried again on a shard that takes no more events: only a restart or a repair changes that.
pub const GATE_READ_ONLY_RETRY_US: u64 = SECOND_US;

/// After it a batch is tried again that found a mailbox or a table full: they are emptied every turn.
pub const ROOM_RETRY_US: u64 = 1_000;

/// At a stop, a sender of which nothing has come for so long has said what it had to say: what its kernel still holds comes
/// within a round trip.
pub const STREAM_QUIET_US: u64 = SECOND_US / 4;

/// At a stop, a sender that goes on for longer is cut off where it is. What was received by then is made durable in what is
/// left of [`DRAIN_WITHIN_US`].
pub const STREAM_DRAIN_WITHIN_US: u64 = 2 * SECOND_US;

const _: () = assert!(STREAM_HELD_FREE_BYTES <= RECEIVE_BUFFER_BYTES as usize);
const _: () = assert!(BODY_BYTES_MAX + RECEIVE_BUFFER_BYTES as usize <= STREAM_RESERVED_BYTES_MAX);
const _: () = assert!(STREAM_QUIET_US < STREAM_DRAIN_WITHIN_US && STREAM_DRAIN_WITHIN_US < DRAIN_WITHIN_US);
const _: () = assert!(SOURCES_APPENDS_MAX < APPENDS_IN_FLIGHT_MAX);

/// A batch of syslog messages is sent from either on: large enough that its header costs nothing, small enough that one
/// that a quota refuses whole is a few milliseconds of a sender.
pub const SYSLOG_BATCH_MESSAGES: usize = 1_000;
pub const SYSLOG_BATCH_BYTES: usize = 256 * 1024;

// ----- datagrams -----

/// What the kernel keeps of datagrams for one core's socket, if it lets us; what does not fit is dropped there and counted.
/// 8 MiB are some 10,000 messages of usual length with what the kernel adds: 10 ms of a flood.
pub const DATAGRAM_BUFFER_BYTES: usize = 8 << 20;

/// The largest datagram that UDP can carry, and one more to tell a cut one by.
pub const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// Datagrams that a core takes in one turn. At a microsecond each, requests wait half a millisecond.
pub const DATAGRAMS_PER_TURN: usize = 512;

/// The turn ends beyond it: batches that were begun because datagrams of several tenants take turns.
pub const SYSLOG_OPEN_BATCHES_MAX: usize = 64;

// ----- one core -----

/// Submission queue entries of a core's ring. More operations than that in one turn are fine, they cost a system call.
pub const RING_ENTRIES: u32 = 1024;

/// What a core's connections receive into, together: 16 MiB. A buffer is back within the turn that saw it.
pub const RECEIVE_BUFFER_COUNT: u16 = 1024;
pub const RECEIVE_BUFFER_BYTES: u32 = 16 * 1024;

/// 503 `overloaded` beyond it: the declared lengths of the bodies that are arriving and are longer than
/// [`DIRECT_RECEIVE_BYTES_MIN`]. Shorter ones are bounded by the connections: whoever sends large bodies slowly
/// holds up large bodies only.
pub const RECEIVING_BYTES_MAX: usize = 64 << 20;

/// 503 `overloaded` beyond it: appends of one core that are not answered yet, its peers' among them.
pub const APPENDS_IN_FLIGHT_MAX: usize = 65_536;

/// 503 `overloaded` beyond it: encoded events of one core's own requests that are not answered yet. The engine lets as
/// much wait in each shard.
pub const APPENDING_BYTES_MAX: usize = 64 << 20;

/// Queries that a core works on at once; more of them wait. Each holds at most one bite: 4 MiB of records and as much
/// of JSON. One whose client takes nothing keeps its place until the connection is given up, so that a tenant gets an
/// eighth of the places.
pub const QUERIES_RUNNING_MAX: usize = 64;
pub const QUERIES_PER_TENANT_MAX: usize = 8;

/// 503 `overloaded` beyond it: queries that wait for their turn, with their parameters of at most 8 KiB each.
pub const QUERIES_WAITING_MAX: usize = 1024;

/// Steps of one query in one turn. A step that asks the owner takes 100 µs at most, and most take far less.
pub const QUERY_STEPS_PER_TURN: usize = 4;

/// From this length on an answer is sent while it is being made. One send of a usual socket buffer.
pub const STREAM_BYTES_MIN: usize = 256 * 1024;

/// 503 `overloaded` beyond it: questions of one core's clients about what a tenant has stored. Each waits for the blocks
/// that are on their way at most.
pub const COUNTS_IN_FLIGHT_MAX: usize = 1024;

/// 503 `overloaded` beyond it: changes and questions to the control plane that one core's clients wait for.
pub const CONTROLS_IN_FLIGHT_MAX: usize = 256;

/// 503 `overloaded` beyond it: pages of the audit log among them. Each keeps the control thread from changes for some
/// 10 ms, so that a core's clients can delay a revocation by 40 ms.
pub const AUDITS_IN_FLIGHT_MAX: usize = 4;

/// 503 `overloaded` beyond it: requests of one core that wait for their payments, and what they hold: heads and bodies.
/// At the seconds that a chain takes to settle, more of them would wait longer than their clients do.
pub const PAYMENTS_IN_FLIGHT_MAX: usize = 64;
pub const PAYMENTS_HELD_BYTES_MAX: usize = 32 << 20;

/// Payments that all cores have handed to the facilitator's threads and that none of them has begun.
pub const FACILITATOR_QUEUE_MAX: usize = 256;

/// Payments that are with the facilitator at once. A guess: at two seconds each, four requests a second.
pub const FACILITATOR_THREADS: usize = 8;

/// Longer answers of a facilitator are not read. They have some 300 bytes.
pub const FACILITATOR_ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Settled payments that are remembered, so that none buys twice: 4 MiB, and a payment is good for minutes.
pub const SETTLED_PAYMENTS_KEPT_MAX: usize = 65_536;

/// Messages that a core takes from its mailbox in one turn.
pub const MESSAGES_PER_TURN: usize = 1024;

/// Batches that a core keeps for later ones, their memory, and that of one beyond which it is not worth keeping: enough for 500
/// events of some 300 bytes. A batch that begins without memory is copied at each doubling.
pub const BATCHES_KEPT_MAX: usize = 8192;
pub const BATCHES_KEPT_BYTES_MAX: usize = 16 << 20;
pub const BATCH_KEPT_BYTES_MAX: usize = 256 * 1024;

const _: () = assert!(BODY_BYTES_MAX <= RECEIVING_BYTES_MAX);
const _: () = assert!(2 * BODY_BYTES_MAX <= PAYMENTS_HELD_BYTES_MAX);
const _: () = assert!(RECEIVE_BUFFER_COUNT.is_power_of_two());

// ----- control plane -----

/// 402 `quota_exceeded` beyond it: scoped keys of one tenant that are not revoked. One for each program of a large
/// installation; a list of them is some 200 KB.
pub const KEYS_PER_TENANT_MAX: usize = 1000;

/// 429 `rate_limited` beyond it: keys that one tenant's own keys mint or rotate. A script that mints keys for a large
/// installation takes minutes; a loop that rotates a key writes 8 KiB a second at most.
pub const TENANT_CHANGES_PER_MINUTE_MAX: u32 = 120;

/// 402 `quota_exceeded` beyond it: users of one tenant. People, and so fewer than keys.
pub const USERS_PER_TENANT_MAX: usize = 1000;

/// Expired sessions that one login removes. More than one, so that they never pile up.
pub const SESSIONS_SWEPT_MAX: usize = 16;

/// Expired keys that one new key takes the places of, at a millisecond each.
pub const KEYS_SWEPT_MAX: usize = 16;

/// 400 beyond it. A key for longer is one that never expires.
pub const KEY_DAYS_MAX: u32 = 3650;

/// 400 beyond it: how long a rotated key may live on. Long enough for a roll-out over a weekend.
pub const KEY_GRACE_SECONDS_MAX: u32 = 72 * 3600;

/// Items of one page of a list, and what a client gets that names no number.
pub const PAGE_ITEMS_MAX: usize = 1000;
pub const PAGE_ITEMS_DEFAULT: usize = 100;

/// Records that one page of the audit log looks at, and those it reads at once. The control thread makes no change
/// meanwhile: at 5 µs a record some 10 ms.
pub const AUDIT_SCAN_RECORDS_MAX: usize = 2048;
pub const AUDIT_READ_RECORDS: usize = 256;

/// What one core writes into the audit log unasked, at most; beyond it notes are counted and not written. Eight of
/// them are 32 KiB a second, and leave the control thread free.
pub const NOTES_PER_SECOND_MAX: u64 = 8;

/// Different things that one core notes in a window, at some 200 bytes each; beyond it they are counted as missed.
pub const NOTES_OPEN_MAX: usize = 4096;

/// What repeats within it is one note.
pub const NOTES_WINDOW_US: u64 = 60 * SECOND_US;

/// Failed credentials from one address in a window that are a burst. A program with an old key that tries again makes
/// a few; a guesser makes many.
pub const AUTHENTICATION_BURST: u64 = 10;

/// How often a core looks whether a deleted tenant's events are gone, and at how many tenants at once: two questions to a
/// shard each. It is when a deletion is over at the soonest; a core that has nothing else to do wakes up for it.
pub const ERASURES_LOOK_EVERY_US: u64 = SECOND_US / 10;
pub const ERASURES_LOOKED_AT_MAX: usize = 256;

/// That a deleted tenant is gone is told again after it: the catalog's disk may have been full.
pub const ERASED_TOLD_EVERY_US: u64 = 60 * SECOND_US;

/// Deleted tenants of which a core has told the control thread that they are gone, and that it may not have got to. A
/// guess: 8 of each core leave nearly all of the thread's queue to people.
pub const ERASED_TOLD_MAX: usize = 8;

// ----- time -----

pub const SECOND_US: u64 = 1_000_000;

/// 408 after it, counted from the first byte of a head, whatever trickles in.
pub const HEADER_DEADLINE_US: u64 = 10 * SECOND_US;

/// A body may be slower than [`BODY_RATE_BYTES_PER_SECOND_MIN`] for this long: slow start, a handshake behind a proxy.
pub const BODY_GRACE_US: u64 = 5 * SECOND_US;

/// 408 below it, after the grace. A slow mobile uplink carries ten times that.
pub const BODY_RATE_BYTES_PER_SECOND_MIN: u64 = 4 * 1024;

/// 408 after it, however fast the body is: 16 MiB need 280 KB/s.
pub const BODY_DEADLINE_US: u64 = 60 * SECOND_US;

/// Silent close after it: a connection that has been answered and says nothing. nginx keeps 60 s too.
pub const KEEP_ALIVE_IDLE_US: u64 = 60 * SECOND_US;

/// Silent close after it: a connection that has not sent anything yet.
pub const FIRST_REQUEST_IDLE_US: u64 = 5 * SECOND_US;

/// The connection is dropped after it: a send that does not end, and is no longer than [`UNSENT_BYTES_MAX`].
pub const WRITE_STALL_US: u64 = 30 * SECOND_US;

/// A longer send has that much more time: the ring tells of its end alone, and one piece of an answer can be several
/// megabytes. A quarter of a megabit a second is slow for any client.
pub const WRITE_RATE_BYTES_PER_SECOND_MIN: u64 = 32 * 1024;

/// The connection is closed after it, however little of [`LINGER_BYTES_MAX`] was read.
pub const LINGER_US: u64 = 2 * SECOND_US;

/// One tick of the timer wheel. Deadlines are seconds; a sixteenth of one is exact enough and seldom wakes a core.
pub const WHEEL_TICK_US: u64 = 64 * 1024;

/// Slots of the timer wheel: 67 s in one turn of it, which covers every deadline above but the age.
pub const WHEEL_SLOT_COUNT: usize = 1024;

/// Accepting begins again after it, when the process ran out of descriptors or a core of places.
pub const ACCEPT_PAUSE_US: u64 = SECOND_US / 10;

/// After it, a core that was told to stop closes what is still open; and after that much more it leaves, whatever its
/// disk does. Together below the 10 s that supervisors grant.
pub const DRAIN_WITHIN_US: u64 = 7 * SECOND_US;
pub const CLOSE_WITHIN_US: u64 = 2 * SECOND_US;

const _: () = assert!(WHEEL_SLOT_COUNT.is_power_of_two() && WHEEL_SLOT_COUNT.is_multiple_of(64));
const _: () = assert!(BODY_DEADLINE_US < WHEEL_TICK_US * WHEEL_SLOT_COUNT as u64);
const _: () = assert!(BODY_GRACE_US < BODY_DEADLINE_US);

/// Of what was refused, in the tenant's rejects.
pub const REJECT_SAMPLE_BYTES: usize = 1024;
/// Rejects that a core keeps of one tenant: so many at once, and then so many a second. What is beyond is counted, and
/// told with the next one that is kept.
pub const REJECTS_BURST: u32 = 100;
pub const REJECTS_PER_SECOND: u32 = 10;
/// Rejects of one tenant that are stored in a month, and their bytes for ever.
pub const REJECTS_PER_MONTH_MAX: u64 = 100_000;
pub const REJECT_BYTES_STORED_MAX: u64 = 256 << 20;
/// Tenants whose rejects a core paces at once. Of the others none are kept.
pub const REJECTED_TENANTS_MAX: usize = 4096;
/// A key that may not write is told of this often, for each source and reason, and on each core.
pub const REJECTS_KEY_EVERY_US: u64 = 60 * SECOND_US;
/// Keys, sources and reasons that a core waits with at once, and those of one tenant. What is beyond is told as missed.
/// About 160 bytes each.
pub const REJECTED_KEYS_MAX: usize = 4096;
pub const REJECTED_KEYS_OF_TENANT_MAX: usize = 64;
/// Reasons of all sources, each with its source: about 150 stand in the code.
pub const REJECT_REASONS_MAX: usize = 512;

/// What clients choose for keys is a UUID, or a name with a number.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
