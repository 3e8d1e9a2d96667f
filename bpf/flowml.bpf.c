/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The core in the kernel: the maps, XDP for what comes in, TC for what goes out, and the sweep. BCC
 * rewrites map access in this file only, so every access to a map is here.
 */
#define FLOWML_BPF 1
#include "flow.h"
#include "parse.h"
#include "track.h"

#define ATTEMPTS      4 /* look-ups of one packet: its flow may end between look-up and entering */
#define EEXIST	      17
#define TC_ACT_UNSPEC (-1)
#define MMAPABLE      (1U << 10) /* BPF_F_MMAPABLE: the array starts on a page, so a slot on a cache line */

/* Tuple to slot. Written when a flow opens, deleted by whoever ends it. Plain: LRU evicts live entries. */
BPF_F_TABLE("hash", struct flow_key, struct flow_ref, flows, FLOWML_MAX_CONNECTIONS, 0);

/* The flow table: 192 bytes a connection, touched only through the gates (track.h). */
BPF_F_TABLE("array", __u32, struct flow, slots, FLOWML_MAX_CONNECTIONS, MMAPABLE);

/* Free slots. Last freed, first used: that one is still in the cache. */
BPF_STACK(free_slots, __u32, FLOWML_MAX_CONNECTIONS);

/* Finished flows, whole, for user space. */
BPF_RINGBUF_OUTPUT(finished, FLOWML_RING_BYTES / PAGE_SIZE);

/* What became of every packet, and of every connection; per CPU. */
BPF_F_TABLE("percpu_array", __u32, struct counters, counters, 1, 0);

/* Where the sweep is, and how far it has to go. Written by user space while no sweep runs. */
BPF_F_TABLE("array", __u32, struct sweep, sweeps, 1, MMAPABLE);

/* Which hook a packet came through: one of the two, known when compiling. */
struct hook {
	struct xdp_md *xdp;
	struct __sk_buff *skb;
};

/* A packet's fate. A plain increment is safe: hooks run with bottom halves off, and on this CPU's own. */
static __always_inline void count_fate(enum counter fate)
{
	__u32 zero = 0;
	struct counters *own = counters.lookup(&zero);

	if (own && fate < COUNTERS)
		((__u64 *)own)[fate]++;
}

/* An event is counted by the sweep too, which a packet may interrupt: it runs in process context. */
static __always_inline void count_event(enum counter event)
{
	__u32 zero = 0;
	struct counters *own = counters.lookup(&zero);

	if (own && event < COUNTERS)
		atomic_add(&((__u64 *)own)[event], 1);
}

static __always_inline void free_slot(struct flow *flow, __u32 slot)
{
	gate_free(&flow->side[ORIGINATOR].gate);
	gate_free(&flow->side[RESPONDER].gate);
	free_slots.push(&slot, 0);
}

/* The flow is at rest and the caller's alone: out with it, or, if the ring has no room, park it. */
static __always_inline void deliver(struct flow *flow, __u32 slot)
{
	if (!passes_filter(flow)) {
		count_event(COUNT_filtered);
	} else if (finished.ringbuf_output(flow, sizeof(*flow), 0) == 0) {
		count_event(COUNT_delivered);
	} else {
		if (!flow->parked)
			count_event(COUNT_parked);
		flow->parked = 1;
		return;
	}
	flow->parked = 0;
	free_slot(flow, slot);
}

/* Leaves the side, and goes on with the flow's end if there is one and this visitor is the one to do it. */
static __always_inline void leave(struct flow *flow, __u32 slot, enum side side, __u32 segments, int claimed)
{
	__u64 left;

	if (claimed)
		flows.delete(&flow->key);
	left = gate_leave(&flow->side[side].gate, segments);
	if ((claimed || gate_phase(left) == PHASE_CLOSING) && flow_at_rest(flow, side, left, claimed))
		deliver(flow, slot);
}

/*
 * The payload bytes that show a ClientHello. TC hands over buffers whose payload lies outside of what
 * can be read in place; only the one segment of a connection that is asked for it pays for the copy.
 */
static __always_inline struct head read_head(struct hook *hook, const struct packet *pkt)
{
	const __u8 *frame, *end;
	struct head head = {};
	__u8 byte;

	if (!hook->skb) {
		frame = (const __u8 *)(long)hook->xdp->data;
		end = (const __u8 *)(long)hook->xdp->data_end;
		return payload_head(frame, end, pkt);
	}
	head.len = pkt->payload_len < HELLO_BYTES ? pkt->payload_len : HELLO_BYTES;
	for (int i = 0; i < HELLO_BYTES; i++) {
		if (bpf_skb_load_bytes(hook->skb, pkt->payload_at + i, &byte, 1))
			break;
		head.bytes |= (__u64)byte << (8 * i);
	}
	return head;
}

static __always_inline enum counter open_connection(struct hook *hook, const struct packet *pkt, __u64 now,
						    int *again)
{
	struct flow_key key = pkt->key;
	struct flow_ref ref = {};
	struct sweep *sweep;
	struct flow *flow;
	__u32 zero = 0, slot;
	int error;

	if (free_slots.pop(&slot))
		return COUNT_table_full;
	flow = slots.lookup(&slot);
	sweep = sweeps.lookup(&zero);
	if (!flow || !sweep)
		return COUNT_table_full;
	flow_open(flow, slot, pkt, now);
	if (wants_hello(flow, ORIGINATOR, pkt)) /* a SYN may carry data (RFC 7413) */
		mark_hello(flow, pkt, read_head(hook, pkt));
	ref.slot = slot;
	ref.epoch = gate_epoch(flow->side[ORIGINATOR].gate);
	ref.originator_is_high = pkt->sender_is_high;
	error = flows.insert(&key, &ref);
	if (error) { /* another CPU opened the same connection first, or the hash is out of room */
		free_slot(flow, slot);
		*again = error == -EEXIST;
		return COUNT_table_full;
	}
	flow->published = 1;
	set_latest(&sweep->high_water, slot + 1);
	count_event(COUNT_opened);
	return COUNT_tracked;
}

/* Counts one segment into its connection, and says what became of the packet. */
static __always_inline enum counter account(struct hook *hook, const struct packet *pkt, __u64 now)
{
	struct flow_key key = pkt->key;

	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		struct flow_ref *found = flows.lookup(&key);
		struct flow_ref ref;
		struct flow *flow;
		enum side side;
		int claimed = 0;

		if (!found) {
			int again = 0;
			enum counter fate;

			if (!starts_connection(pkt))
				return COUNT_untracked;
			fate = open_connection(hook, pkt, now, &again);
			if (!again)
				return fate;
			continue;
		}
		/* The hash may give its element to another tuple at any time: read the reference in one
		 * piece, then make sure that the slot is this tuple's. Entering proves the rest. */
		*(__u64 *)&ref = *(volatile __u64 *)found;
		flow = slots.lookup(&ref.slot);
		if (!flow)
			break;
		if (!key_equal(&flow->key, &key))
			continue;
		side = pkt->sender_is_high == ref.originator_is_high ? ORIGINATOR : RESPONDER;
		if (!gate_enter(&flow->side[side].gate, ref.epoch)) {
			leave(flow, ref.slot, side, 0, 0);
			continue;
		}
		if (may_have_timed_out(&flow->side[side], now)) {
			enum reason reason = flow_timed_out(flow, now);

			if (reason) {
				leave(flow, ref.slot, side, 0, claim_end(flow, reason));
				continue;
			}
		}
		flow_add(flow, side, pkt, now);
		if (wants_hello(flow, side, pkt))
			mark_hello(flow, pkt, read_head(hook, pkt));
		if (pkt->flags & (TCP_FIN | TCP_RST))
			claimed = segment_ends(flow, side, pkt);
		leave(flow, ref.slot, side, pkt->segments, claimed);
		return COUNT_tracked;
	}
	return COUNT_contended;
}

/* The clock of the wire; under test the time comes with the packet, so that a capture replays exactly. */
static __always_inline int read_clock(struct xdp_md *ctx, __u64 *now)
{
#ifdef FLOWML_CLOCK_IN_METADATA
	void *meta = (void *)(long)ctx->data_meta;

	if (meta + sizeof(*now) > (void *)(long)ctx->data)
		return -1;
	*now = *(__u64 *)meta;
#else
	*now = bpf_ktime_get_ns();
#endif
	return 0;
}

int flowml_ingress(struct xdp_md *ctx)
{
	struct hook hook = {.xdp = ctx};
	struct cursor cur = {
		.pos = (const __u8 *)(long)ctx->data,
		.end = (const __u8 *)(long)ctx->data_end,
	};
	struct packet pkt = {};
	enum counter fate;
	__u64 now;

	fate = parse_packet(&cur, &pkt, 0, 0);
	if (fate == COUNT_tracked) {
		if (read_clock(ctx, &now))
			return XDP_ABORTED;
		fate = account(&hook, &pkt, now);
	}
	count_fate(fate);
	return XDP_PASS;
}

int flowml_egress(struct __sk_buff *skb)
{
	struct hook hook = {.skb = skb};
	struct cursor cur = {
		.pos = (const __u8 *)(long)skb->data,
		.end = (const __u8 *)(long)skb->data_end,
	};
	struct packet pkt = {};
	enum counter fate;

	fate = parse_packet(&cur, &pkt, skb->len, skb->gso_size);
	if (fate == COUNT_truncated && skb->len > skb->data_end - skb->data) {
		/* The headers may lie outside of what can be read in place: bring them in. */
		bpf_skb_pull_data(skb, skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX);
		cur.pos = (const __u8 *)(long)skb->data;
		cur.end = (const __u8 *)(long)skb->data_end;
		fate = parse_packet(&cur, &pkt, skb->len, skb->gso_size);
	}
	if (fate == COUNT_tracked) {
		if (skb->gso_size)
			expand_gso(&pkt, skb->gso_segs, skb->gso_size);
		fate = account(&hook, &pkt, bpf_ktime_get_ns());
	}
	count_fate(fate);
	return TC_ACT_UNSPEC;
}

/*
 * Visits one slot; user space has it run as often as there are slots to visit. A TC program, though it
 * looks at no packet: running an XDP program more than once makes the kernel wait for two grace periods.
 */
int flowml_sweep(struct __sk_buff *ctx)
{
	__u32 zero = 0, slot;
	struct sweep *sweep = sweeps.lookup(&zero);
	enum reason reason;
	struct flow *flow;
	__u16 epoch;
	__u64 now;

	if (!sweep)
		return SWEEP_FAILED;
	slot = sweep->next++;
	if (sweep->mode == SWEEP_FILL) { /* the highest first, so that the lowest are used first */
		slot = FLOWML_MAX_CONNECTIONS - 1 - slot;
		free_slots.push(&slot, 0);
		return SWEEP_DONE;
	}
	flow = slots.lookup(&slot);
	if (!flow)
		return SWEEP_FAILED;
#ifdef FLOWML_CLOCK_IN_METADATA
	now = ctx->tstamp;
#else
	now = bpf_ktime_get_ns();
#endif
	if (flow->parked) { /* sealed, and nobody's but the sweep's */
		deliver(flow, slot);
		return SWEEP_DONE;
	}
	epoch = gate_epoch(flow->side[ORIGINATOR].gate);
	if (epoch % PHASES != PHASE_OPEN)
		return SWEEP_DONE;
	if (!gate_enter(&flow->side[ORIGINATOR].gate, epoch)) {
		leave(flow, slot, ORIGINATOR, 0, 0);
		return SWEEP_DONE;
	}
	if (!flow->published) { /* its key would come after its end, and lead to nothing for good */
		leave(flow, slot, ORIGINATOR, 0, 0);
		return SWEEP_DONE;
	}
	reason = flow_timed_out(flow, now);
	if (!reason && sweep->mode == SWEEP_SHUTDOWN)
		reason = REASON_SHUTDOWN;
	leave(flow, slot, ORIGINATOR, 0, reason && claim_end(flow, reason));
	return SWEEP_DONE;
}
