/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * One segment into the table of flows: found or opened, counted, ended, delivered. The same for every host
 * of the core: the BPF program keeps the table in maps, the replay of captures in plain memory.
 *
 * A host defines `struct host`, which stands for it while it looks at one packet or one slot, and:
 */
#ifndef FLOWML_TABLE_H
#define FLOWML_TABLE_H

#include "flow.h"
#include "parse.h"
#include "track.h"

/* Which way a branch nearly always goes, so that the path of most packets lies in one piece. */
#ifndef likely
#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)
#endif

struct host;

/* Where a key leads; 0 if nowhere. The answer may be stale already: entering the flow's gate tells. */
static __always_inline int host_find(struct host *host, const struct flow_key *key, struct flow_ref *ref);
/* Where a key led not long ago, sooner than host_find() tells; 0 if not known. The answer may be stale, or of
 * another key: entering the flow's gate, and the flow's key, tell. */
static __always_inline int host_recall(struct host *host, const struct flow_key *key, struct flow_ref *ref);
static __always_inline void host_remember(struct host *host, const struct flow_key *key,
					  const struct flow_ref *ref);
/* Makes a new key lead somewhere: 0, -HOST_EXISTS, or another negative number if there is no room. */
static __always_inline int host_insert(struct host *host, const struct flow_key *key,
				       const struct flow_ref *ref);
static __always_inline void host_delete(struct host *host, const struct flow_key *key);
/* A free slot for the caller alone: its flow, or null. */
static __always_inline struct flow *host_take(struct host *host, __u32 *slot);
static __always_inline void host_give_back(struct host *host, __u32 slot);
static __always_inline struct flow *host_flow(struct host *host, __u32 slot);
/* Hands a finished flow over, by copying: 0, or another number if there is no room now. */
static __always_inline int host_deliver(struct host *host, const struct flow *flow);
static __always_inline void host_count(struct host *host, enum counter event);
/* The slot to look at next to make room: one after the other, around and around. */
static __always_inline __u32 host_victim(struct host *host);
/* The first payload bytes of the packet that the host is looking at. */
static __always_inline struct head host_head(struct host *host, const struct packet *pkt);

#define HOST_EXISTS 17

#define ATTEMPTS   5  /* look-ups of one packet: its flow may end between look-up and entering */
#define ROOM_LOOKS 16 /* slots that a new connection looks at when there is none free */

static __always_inline void table_free(struct host *host, struct flow *flow, __u32 slot)
{
	gate_free(&flow->side[ORIGINATOR].gate);
	gate_free(&flow->side[RESPONDER].gate);
	host_give_back(host, slot);
}

/* The flow is at rest and the caller's alone: out with it, or, if there is no room for it, park it. */
static __always_inline void table_deliver(struct host *host, struct flow *flow, __u32 slot)
{
	if (!passes_filter(flow)) {
		host_count(host, COUNT_filtered);
	} else if (host_deliver(host, flow) == 0) {
		host_count(host, COUNT_delivered);
	} else {
		if (!flow->parked)
			host_count(host, COUNT_parked);
		flow->parked = 1;
		return;
	}
	flow->parked = 0;
	table_free(host, flow, slot);
}

/* Leaves the side, and goes on with the flow's end if there is one and this visitor is the one to do it. */
static __always_inline void table_leave(struct host *host, struct flow *flow, __u32 slot, enum side side,
					__u32 segments, int claimed)
{
	__u64 left;

	if (unlikely(claimed)) {
		struct flow_key key = flow_key_of(flow);

		host_delete(host, &key);
	}
	left = gate_leave(&flow->side[side].gate, segments);
	if (unlikely(claimed || gate_phase(left) == PHASE_CLOSING) && flow_at_rest(flow, side, left, claimed))
		table_deliver(host, flow, slot);
}

/* Whether the flow's key leads to it. Not yet so while it is being opened: ended then, its key would come
 * after its end, and lead to nothing for good. */
static __always_inline int table_leads_to(struct host *host, const struct flow *flow, __u32 slot, __u16 epoch)
{
	struct flow_key key = flow_key_of(flow);
	struct flow_ref ref = {};

	return host_find(host, &key, &ref) && ref.slot == slot && ref.epoch == epoch;
}

/* One slot of the sweep: ends the flow if it timed out, or in any case at shutdown; delivers it if parked. */
static __always_inline void table_visit(struct host *host, struct flow *flow, __u32 slot,
					enum sweep_mode mode, __u64 now)
{
	enum reason reason = REASON_NONE;
	__u16 epoch;
	int claimed;

	if (flow->parked && mode != SWEEP_MAKE_ROOM) { /* sealed, and nobody's but the sweep's */
		table_deliver(host, flow, slot);
		return;
	}
	epoch = gate_epoch(flow->side[ORIGINATOR].gate);
	if (epoch % PHASES != PHASE_OPEN)
		return;
	if (gate_enter(&flow->side[ORIGINATOR].gate, epoch)) {
		reason = flow_timed_out(flow, now);
		if (!reason && mode == SWEEP_SHUTDOWN)
			reason = REASON_SHUTDOWN;
		if (!reason && mode == SWEEP_MAKE_ROOM && flow_is_unanswered(flow))
			reason = REASON_EVICTED;
		if (reason && !table_leads_to(host, flow, slot, epoch))
			reason = REASON_NONE;
	}
	claimed = reason && claim_end(flow, reason);
	if (claimed && reason == REASON_EVICTED)
		host_count(host, COUNT_evicted);
	table_leave(host, flow, slot, ORIGINATOR, 0, claimed);
}

/* Whether the flow in a slot is one that goes first: a cheap look, without entering. */
static __always_inline int table_may_go(const struct flow *flow, __u64 now)
{
	return !flow->parked && gate_phase(flow->side[ORIGINATOR].gate) == PHASE_OPEN &&
	       (flow_is_unanswered(flow) || flow_timed_out(flow, now));
}

/*
 * No slot is free, and a connection wants one: one that was never answered goes, so a flood of SYNs takes
 * room from itself. Slots are looked at in turn, so each has had about the time that the table takes to fill.
 */
static __always_inline void table_make_room(struct host *host, __u64 now)
{
	for (int i = 0; i < ROOM_LOOKS; i++) {
		__u32 slot = host_victim(host);
		struct flow *flow = host_flow(host, slot);

		if (flow && table_may_go(flow, now)) {
			table_visit(host, flow, slot, SWEEP_MAKE_ROOM, now);
			return;
		}
	}
}

static __always_inline enum counter table_open(struct host *host, const struct packet *pkt, __u64 now,
					       int *again)
{
	struct flow_key key = pkt->key;
	struct flow_ref ref = {};
	struct flow *flow;
	__u32 slot = 0;
	int error;

	flow = host_take(host, &slot);
	if (!flow)
		return COUNT_table_full;
	flow_open(flow, slot, pkt, now);
	if (wants_hello(flow, ORIGINATOR, pkt)) /* a SYN may carry data (RFC 7413) */
		mark_hello(flow, pkt, host_head(host, pkt));
	ref.slot = slot;
	ref.epoch = gate_epoch(flow->side[ORIGINATOR].gate);
	ref.originator_is_high = pkt->sender_is_high;
	error = host_insert(host, &key, &ref);
	if (error) { /* another CPU opened the same connection first, or there is no room for the key */
		table_free(host, flow, slot);
		*again = error == -HOST_EXISTS;
		return COUNT_table_full;
	}
	host_count(host, COUNT_opened);
	return COUNT_tracked;
}

/*
 * Whether a visitor is where its key led it. A reference may have gone stale in between, or be of another key
 * from the start; but while the gate is entered at its epoch, the flow in the slot is one, and stays.
 */
static __always_inline int table_is_there(const struct flow *flow, const struct flow_key *key,
					  const struct flow_ref *ref)
{
	return has_key(flow, key) && flow->originator_is_high == ref->originator_is_high;
}

/*
 * One visit of a segment to where its key led. Answers whether it was counted; if not, the connection has
 * ended meanwhile or ends now, because the segment comes too late for it, or it is another one.
 */
static __always_inline int table_count(struct host *host, const struct packet *pkt, __u64 now,
				       const struct flow_ref *ref, struct flow *flow, int recalled)
{
	struct flow_key key = pkt->key;
	enum side side = pkt->sender_is_high == ref->originator_is_high ? ORIGINATOR : RESPONDER;
	struct flow_side *from = &flow->side[side];
	enum reason reason = REASON_NONE;
	int counted = 0, claimed = 0;

	if (likely(gate_enter(&from->gate, ref->epoch) && table_is_there(flow, &key, ref))) {
		if (unlikely(may_have_timed_out(from, now)))
			reason = flow_timed_out(flow, now);
		if (unlikely(reason)) {
			claimed = claim_end(flow, reason);
		} else {
			if (unlikely(!recalled))
				host_remember(host, &key, ref);
			flow_add(flow, side, pkt, now);
			if (unlikely(wants_hello(flow, side, pkt)))
				mark_hello(flow, pkt, host_head(host, pkt));
			if (unlikely(pkt->flags & (TCP_FIN | TCP_RST)))
				claimed = segment_ends(flow, side, pkt);
			counted = 1;
		}
	}
	table_leave(host, flow, ref->slot, side, counted ? pkt->segments : 0, claimed);
	return counted;
}

/* Counts one segment into its connection, and says what became of the packet. */
static __always_inline enum counter table_account(struct host *host, const struct packet *pkt, __u64 now)
{
	struct flow_key key = pkt->key;
	int made_room = 0;

	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		struct flow_ref ref = {};
		struct flow *flow;
		int recalled = attempt == 0 && host_recall(host, &key, &ref);

		if (unlikely(!recalled) && !host_find(host, &key, &ref)) {
			int again = 0;
			enum counter fate;

			if (!starts_connection(pkt))
				return COUNT_untracked;
			fate = table_open(host, pkt, now, &again);
			if (fate == COUNT_table_full && !again && !made_room) {
				table_make_room(host, now);
				made_room = again = 1;
			}
			if (!again)
				return fate;
			continue;
		}
		flow = host_flow(host, ref.slot);
		if (!flow)
			break;
		if (likely(table_count(host, pkt, now, &ref, flow, recalled)))
			return COUNT_tracked;
	}
	return made_room ? COUNT_table_full : COUNT_contended;
}

#endif
