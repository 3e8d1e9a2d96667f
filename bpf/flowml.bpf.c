/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The core in the kernel: the maps, the programs for XDP and TC, and the sweep. BCC
 * rewrites map access in this file only, so every access to a map is here.
 */
#define FLOWML_BPF 1
#include "table.h"

#define TC_ACT_UNSPEC (-1)
#define RECENT	      (2 * FLOWML_MAX_CONNECTIONS)
#define MMAPABLE      (1U << 10) /* BPF_F_MMAPABLE: the array starts on a page, so a slot on a cache line */

/* Tuple to slot. Written when a flow opens, deleted by whoever ends it. Plain: LRU evicts live entries. */
BPF_F_TABLE("hash", struct flow_key, struct flow_ref, flows, FLOWML_MAX_CONNECTIONS, 0);

/* Where keys led not long ago: a reference lies where its key's digest says, and the latest stays. */
BPF_F_TABLE("array", __u32, struct flow_ref, recent, RECENT, 0);

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

/* What runs just now: one of the two hooks, known when compiling, or the sweep and neither. */
struct host {
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
static __always_inline void host_count(struct host *host, enum counter event)
{
	__u32 zero = 0;
	struct counters *own = counters.lookup(&zero);

	if (own && event < COUNTERS)
		atomic_add(&((__u64 *)own)[event], 1);
}

/* The hash may give its element to another tuple at any time: the reference is read in one piece. */
static __always_inline int host_find(struct host *host, const struct flow_key *key, struct flow_ref *ref)
{
	struct flow_key own = *key;
	struct flow_ref *found = flows.lookup(&own);

	if (!found)
		return 0;
	*(__u64 *)ref = *(volatile __u64 *)found;
	return 1;
}

/* Mixes the words of a key, two at a time, as the finalizer of MurmurHash3 mixes the halves of a hash. */
static __always_inline __u64 digest(const struct flow_key *key)
{
	const __u32 *words = (const __u32 *)key;
	const int count = sizeof(*key) / sizeof(*words);
	__u64 mixed = 0;

	for (int i = 0; i < count; i += 2) {
		mixed ^= words[i] | (i + 1 < count ? (__u64)words[i + 1] << 32 : 0);
		mixed *= 0xff51afd7ed558ccdULL;
		mixed ^= mixed >> 32;
	}
	return mixed * 0xc4ceb9fe1a85ec53ULL;
}

/*
 * The place of a key in `recent`, and what a reference has there beside originator_is_high, to tell most
 * others from it (never written: 0). An array is looked up without a call.
 */
static __always_inline struct flow_ref *recent_place(const struct flow_key *key, __u16 *tag)
{
	__u64 mixed = digest(key);
	__u32 at = (mixed >> 32) * RECENT >> 32;

	*tag = (mixed & ~1ULL) | 0x8000;
	return recent.lookup(&at);
}

/* What another CPU writes is read in one piece. */
static __always_inline int host_recall(struct host *host, const struct flow_key *key, struct flow_ref *ref)
{
	__u16 tag;
	struct flow_ref *found = recent_place(key, &tag);

	if (!found)
		return 0;
	*(__u64 *)ref = *(volatile __u64 *)found;
	ref->originator_is_high ^= tag;
	return ref->originator_is_high <= 1;
}

static __always_inline void host_remember(struct host *host, const struct flow_key *key,
					  const struct flow_ref *ref)
{
	__u16 tag;
	struct flow_ref *to = recent_place(key, &tag), own = *ref;

	if (!to)
		return;
	own.originator_is_high ^= tag;
	*(volatile __u64 *)to = *(__u64 *)&own;
}

static __always_inline int host_insert(struct host *host, const struct flow_key *key,
				       const struct flow_ref *ref)
{
	struct flow_key own = *key;
	struct flow_ref to = *ref;

	return flows.insert(&own, &to);
}

static __always_inline void host_delete(struct host *host, const struct flow_key *key)
{
	struct flow_key own = *key;

	flows.delete(&own);
}

static __always_inline struct flow *host_flow(struct host *host, __u32 slot)
{
	return slots.lookup(&slot);
}

static __always_inline struct flow *host_take(struct host *host, __u32 *slot)
{
	__u32 zero = 0, free = 0;
	struct sweep *sweep;
	struct flow *flow;

	if (free_slots.pop(&free))
		return 0;
	flow = slots.lookup(&free);
	sweep = sweeps.lookup(&zero);
	if (!flow || !sweep)
		return 0;
	set_latest(&sweep->high_water, free + 1);
	*slot = free;
	return flow;
}

static __always_inline void host_give_back(struct host *host, __u32 slot)
{
	free_slots.push(&slot, 0);
}

static __always_inline __u32 host_victim(struct host *host)
{
	__u32 zero = 0;
	struct sweep *sweep = sweeps.lookup(&zero);

	return sweep ? atomic_add(&sweep->victim, 1) % FLOWML_MAX_CONNECTIONS : 0;
}

static __always_inline int host_deliver(struct host *host, const struct flow *flow)
{
	return finished.ringbuf_output((void *)flow, sizeof(*flow), 0);
}

/*
 * The payload bytes that show a ClientHello. TC hands over buffers whose payload lies outside of what
 * can be read in place; only the one segment of a connection that is asked for it pays for the copy.
 */
static __always_inline struct head host_head(struct host *host, const struct packet *pkt)
{
	struct head head = {};
	__u8 byte;

	if (!host->skb) {
		const __u8 *frame = (const __u8 *)(long)host->xdp->data;
		const __u8 *end = (const __u8 *)(long)host->xdp->data_end;

		return payload_head(frame, end, pkt);
	}
	head.len = pkt->payload_len < HELLO_BYTES ? pkt->payload_len : HELLO_BYTES;
	for (int i = 0; i < HELLO_BYTES; i++) {
		if (bpf_skb_load_bytes(host->skb, pkt->payload_at + i, &byte, 1))
			break;
		head.bytes |= (__u64)byte << (8 * i);
	}
	return head;
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

int flowml_xdp(struct xdp_md *ctx)
{
	struct host host = {.xdp = ctx};
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
		fate = table_account(&host, &pkt, now);
	}
	count_fate(fate);
	return XDP_PASS;
}

/* What goes out; and what comes in, where there is no native XDP. */
int flowml_tc(struct __sk_buff *skb)
{
	struct host host = {.skb = skb};
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
		fate = table_account(&host, &pkt, bpf_ktime_get_ns());
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
	struct host host = {};
	struct flow *flow;
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
	table_visit(&host, flow, slot, sweep->mode, now);
	return SWEEP_DONE;
}
