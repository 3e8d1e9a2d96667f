/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * One packet into one flow, and when a flow ends: pure functions over a flow in memory. No maps.
 *
 * Theory of operation
 *
 * The two directions of a flow run on different CPUs at once, and so may two packets of one direction.
 * Nobody waits for anybody: sums are atomic additions, firsts are compare-and-swap from zero, ends are
 * claimed by an atomic bit in `ending`, so each happens once. What is left is to know when a flow
 * that has ended is at rest, so that what is delivered is all of it, and its slot can be used again. That
 * is what the gates are for (their layout: flow.h).
 *
 *   gate_enter   +1 visitor. Who finds an epoch other than the one it looked up leaves at once.
 *   gate_leave   -1 visitor, +n segments, in the same addition: segments are counted by their leaving.
 *   gate_close   +1 epoch, open -> closing. From here on nobody new gets in.
 *   gate_seal    closing -> sealed, by whoever sees no visitor left: the closer, or else the last one to
 *                leave. Compare-and-swap against the word that showed no visitor: one of them succeeds.
 *
 * An end goes originator's gate first, then responder's. Who seals the second owns the slot alone: it
 * delivers the flow and frees the slot (sealed -> free). Opening it again is again +1 epoch, so a
 * visitor that was held up between finding the flow and entering it, for however long, finds another
 * epoch and does no harm. A slot must be taken 2^14 times meanwhile for an epoch to come around.
 *
 * The flow's key leaves the hash before its gates close, so whoever comes too late looks up again and
 * finds either nothing or the next connection.
 */
#ifndef FLOWML_TRACK_H
#define FLOWML_TRACK_H

#include "flow.h"
#include "key.h"
#include "parse.h"

/* The atomic operations, by name, so that a test can show what happens without them. */
#ifndef atomic_add
#define atomic_add(at, value) __sync_fetch_and_add(at, value)
#endif
#ifndef atomic_or
#define atomic_or(at, value) __sync_fetch_and_or(at, value)
#endif
#ifndef atomic_swap_if
#define atomic_swap_if(at, expected, value) __sync_val_compare_and_swap(at, expected, value)
#endif

#define SET_LATEST_TURNS 16

/* ---- Gates ---- */

static __always_inline __u32 gate_visitors(__u64 gate)
{
	return gate & GATE_VISITORS;
}

static __always_inline __u64 gate_segments(__u64 gate)
{
	return gate >> GATE_SEGMENT_SHIFT & GATE_SEGMENTS;
}

static __always_inline __u16 gate_epoch(__u64 gate)
{
	return gate >> GATE_EPOCH_SHIFT;
}

static __always_inline enum phase gate_phase(__u64 gate)
{
	return gate_epoch(gate) % PHASES;
}

/* Answers the gate as it is after leaving: gate_seal() wants to know whether this was the last visitor. */
static __always_inline __u64 gate_leave(__u64 *gate, __u32 segments)
{
	__u64 change = ((__u64)segments << GATE_SEGMENT_SHIFT) - GATE_VISITOR;

	return atomic_add(gate, change) + change;
}

/* Answers whether the flow of that epoch is open; if not, the caller is inside all the same and leaves. */
static __always_inline int gate_enter(__u64 *gate, __u16 epoch)
{
	return gate_epoch(atomic_add(gate, GATE_VISITOR)) == epoch;
}

static __always_inline __u64 gate_close(__u64 *gate)
{
	return atomic_add(gate, GATE_EPOCH) + GATE_EPOCH;
}

static __always_inline int gate_seal(__u64 *gate, __u64 seen)
{
	return gate_phase(seen) == PHASE_CLOSING && gate_visitors(seen) == 0 &&
	       atomic_swap_if(gate, seen, seen + GATE_EPOCH) == seen;
}

/* For the slot's only owner. Late visitors may still be in and out, so the change is an addition too. */
static __always_inline void gate_open(__u64 *gate, __u32 segments)
{
	__u64 stale = gate_segments(*gate);

	atomic_add(gate, GATE_EPOCH + ((segments - stale) << GATE_SEGMENT_SHIFT));
}

static __always_inline void gate_free(__u64 *gate)
{
	atomic_add(gate, (PHASES - (__u64)gate_phase(*gate)) * GATE_EPOCH);
}

/*
 * Goes on with the end of a flow as far as this visitor can: `left` is the gate that it has just left,
 * `claimed` whether it is the one who ends the flow. True: the flow is at rest, and the caller's alone.
 */
static __always_inline int flow_at_rest(struct flow *flow, enum side side, __u64 left, int claimed)
{
	int sealed;

	if (claimed)
		sealed = gate_seal(&flow->side[ORIGINATOR].gate, gate_close(&flow->side[ORIGINATOR].gate));
	else if (side == ORIGINATOR)
		sealed = gate_seal(&flow->side[ORIGINATOR].gate, left);
	else
		return gate_seal(&flow->side[RESPONDER].gate, left);

	return sealed && gate_seal(&flow->side[RESPONDER].gate, gate_close(&flow->side[RESPONDER].gate));
}

/* ---- The start of a flow ---- */

static __always_inline int starts_connection(const struct packet *pkt)
{
	return (pkt->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* Makes a free slot the flow that this SYN starts, its segment counted. The slot is the caller's alone. */
static __always_inline void flow_open(struct flow *flow, __u32 slot, const struct packet *pkt, __u64 now)
{
	struct flow_side *from = &flow->side[ORIGINATOR];
	struct flow_side *to = &flow->side[RESPONDER];

	from->bytes = pkt->size;
	from->first_ns = now;
	from->last_ns = now;
	from->handshake_ns = 0;
	from->ttl_excess = 0;
	from->ttl_first = TTL_SEEN + pkt->ttl;
	from->hello = 0;
	to->bytes = 0;
	to->first_ns = 0;
	to->last_ns = 0;
	to->handshake_ns = 0;
	to->ttl_excess = 0;
	to->ttl_first = 0;
	set_ends(flow, &pkt->key);
	flow->stream_start = pkt->sequence + 1;
	flow->ending = pkt->flags & TCP_FIN ? ENDING_FIN(ORIGINATOR) : 0;
	flow->reason = REASON_NONE;
	flow->slot = slot;
	__builtin_memcpy(flow->source_mac, pkt->source_mac, sizeof(flow->source_mac));
	flow->originator_is_high = pkt->sender_is_high;
	flow->parked = 0;
	flow->no_mac = pkt->no_mac;
	gate_open(&from->gate, pkt->segments);
	gate_open(&to->gate, 0);
}

/* ---- One more segment. The caller is a visitor of the side. ---- */

static __always_inline void set_once(__u64 *at, __u64 value)
{
	if (!*at)
		atomic_swap_if(at, 0, value);
}

/*
 * Raises a maximum: two CPUs may have read the clock in one order and come here in the other. The bound
 * is the verifier's; each turn after the first means that another CPU raised the value in between.
 */
static __always_inline void set_latest(__u64 *at, __u64 value)
{
	__u64 seen = *at;

	for (int i = 0; i < SET_LATEST_TURNS && seen < value; i++) {
		__u64 found = atomic_swap_if(at, seen, value);

		if (found == seen)
			break;
		seen = found;
	}
}

static __always_inline void count_ttl(struct flow_side *side, const struct packet *pkt)
{
	__u64 ttl = TTL_SEEN + pkt->ttl;
	__u64 first = side->ttl_first;

	if (!first) {
		first = atomic_swap_if(&side->ttl_first, 0, ttl);
		if (!first)
			first = ttl;
	}
	if (ttl != first)
		atomic_add(&side->ttl_excess, (__s64)(ttl - first) * pkt->segments);
}

/* First SYN-ACK of the responder; first ACK of the originator after it. */
static __always_inline void mark_handshake(struct flow *flow, enum side side, const struct packet *pkt,
					   __u64 now)
{
	__u64 *at = &flow->side[side].handshake_ns;

	if (*at || !(pkt->flags & TCP_ACK))
		return;
	if (side == RESPONDER ? pkt->flags & TCP_SYN : flow->side[RESPONDER].handshake_ns != 0)
		set_once(at, now);
}

/* Counts all of the segment but its one: that is added by gate_leave(). */
static __always_inline void flow_add(struct flow *flow, enum side side, const struct packet *pkt, __u64 now)
{
	struct flow_side *from = &flow->side[side];

	if (FLOWML_NEEDS & NEED_BYTES)
		atomic_add(&from->bytes, (__u64)pkt->size);
	if (FLOWML_NEEDS & NEED_FIRST)
		set_once(&from->first_ns, now);
	set_latest(&from->last_ns, now);
	if (FLOWML_NEEDS & NEED_TTL)
		count_ttl(from, pkt);
	if (FLOWML_NEEDS & NEED_HANDSHAKE)
		mark_handshake(flow, side, pkt, now);
}

/* ---- The TLS mark ---- */

/* Where in the originator's stream this segment's payload begins. */
static __always_inline __s32 stream_offset(const struct flow *flow, const struct packet *pkt)
{
	__u32 first = pkt->sequence + (pkt->flags & TCP_SYN ? 1 : 0);

	return (__s32)(first - flow->stream_start);
}

/* Whether the payload holds any of the bytes that decide, and they are not all known yet. */
static __always_inline int wants_hello(const struct flow *flow, enum side side, const struct packet *pkt)
{
	__s32 offset;

	if (!FLOWML_TLS_ONLY && !(FLOWML_NEEDS & NEED_HELLO))
		return 0;
	if (side != ORIGINATOR || !pkt->payload_len ||
	    (flow->side[ORIGINATOR].hello & HELLO_MASK) == HELLO_MASK)
		return 0;
	offset = stream_offset(flow, pkt);
	return offset >= 0 && offset < HELLO_BYTES;
}

/*
 * By its place in the stream, so that splits, retransmissions and reordering make no difference. The
 * bytes are laid over the stream's first eight as a word, which compares them without a branch for each.
 */
static __always_inline void mark_hello(struct flow *flow, const struct packet *pkt, struct head head)
{
	__u32 shift = 8 * ((__u32)stream_offset(flow, pkt) % HELLO_BYTES_MAX);
	__u64 seen = (((1ULL << (8 * head.len)) - 1) << shift) & HELLO_MASK;
	__u64 wrong = (head.bytes << shift ^ HELLO_EXPECTED) & seen;

	if (seen)
		atomic_or(&flow->side[ORIGINATOR].hello, seen | (wrong ? HELLO_WRONG : 0));
}

static __always_inline int flow_is_tls(const struct flow *flow)
{
	return flow->side[ORIGINATOR].hello == HELLO_MASK;
}

/* ---- The end of a flow ---- */

/* True for exactly one caller in a flow's life: the one who ends it. */
static __always_inline int claim_end(struct flow *flow, enum reason reason)
{
	if (atomic_or(&flow->ending, ENDING_CLAIMED) & ENDING_CLAIMED)
		return 0;
	flow->reason = reason; /* seen by whoever delivers: leaving the gate comes in between */
	return 1;
}

/* The segment that completes FIN from both sides, or any RST, ends the flow. */
static __always_inline int segment_ends(struct flow *flow, enum side side, const struct packet *pkt)
{
	__u64 both = ENDING_FIN(ORIGINATOR) | ENDING_FIN(RESPONDER);

	if (pkt->flags & TCP_RST)
		return claim_end(flow, REASON_RST);
	if (!(pkt->flags & TCP_FIN))
		return 0;
	return ((atomic_or(&flow->ending, ENDING_FIN(side)) | ENDING_FIN(side)) & both) == both &&
	       claim_end(flow, REASON_FIN);
}

/* Silence of both sides, at `now`, against the timeout of the state that the flow is in. */
static __always_inline enum reason flow_timed_out(const struct flow *flow, __u64 now)
{
	const struct flow_side *from = &flow->side[ORIGINATOR];
	const struct flow_side *to = &flow->side[RESPONDER];
	__u64 last = from->last_ns > to->last_ns ? from->last_ns : to->last_ns;
	__s64 silence = (__s64)(now - last);

	if (gate_segments(from->gate) + gate_segments(to->gate) == 1)
		return silence > (__s64)FLOWML_ESTABLISH_TIMEOUT_NS ? REASON_ESTABLISH : REASON_NONE;
	return silence > (__s64)FLOWML_INACTIVITY_TIMEOUT_NS ? REASON_IDLE : REASON_NONE;
}

/* Whether only one side was ever heard of: what a flood of SYNs leaves, and the first to go when room is
 * short. */
static __always_inline int flow_is_unanswered(const struct flow *flow)
{
	return gate_segments(flow->side[RESPONDER].gate) == 0;
}

/* A cheap look at one side before flow_timed_out() looks at both. */
static __always_inline int may_have_timed_out(const struct flow_side *side, __u64 now)
{
	__u64 shortest = FLOWML_ESTABLISH_TIMEOUT_NS < FLOWML_INACTIVITY_TIMEOUT_NS
				 ? FLOWML_ESTABLISH_TIMEOUT_NS
				 : FLOWML_INACTIVITY_TIMEOUT_NS;

	return (__s64)(now - side->last_ns) > (__s64)shortest;
}

static __always_inline int passes_filter(const struct flow *flow)
{
	return !FLOWML_TLS_ONLY || flow_is_tls(flow);
}

#endif
