/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What flowml's cost a packet is compared with: less than it does, and the patterns of others that keep what
 * the same 17 features need. All are built on flowml's own parser; a -D flag says which one this is.
 */
#define FLOWML_BPF 1
#include "parse.h"
#include "walk.h"

#ifndef CONNECTIONS
#define CONNECTIONS 131072
#endif
#ifndef RING_BYTES
#define RING_BYTES 16777216
#endif

/* What of a direction the 17 features need; a plain sum for each. */
struct direction {
	__u64 segments;
	__u64 bytes;
	__u64 ttl_sum;
	__u64 first_ns;
	__u64 last_ns;
	__u64 handshake_ns;
};

struct entry {
	struct direction side[SIDES];
	__u32 originator_is_high;
#ifdef SPIN_LOCK
	struct bpf_spin_lock lock;
#else
	__u32 reserved;
#endif
};

#ifdef MINIMAL_SIZED
#define MINIMAL_TIMED
#endif
#ifdef MINIMAL_TIMED
#define MINIMAL_ATOMIC
#endif
#if defined(MINIMAL) || defined(MINIMAL_ATOMIC)
struct pair {
	__u64 segments;
	__u64 bytes;
#ifdef MINIMAL_TIMED
	__u64 last_ns;
#endif
#ifdef MINIMAL_SIZED
	__u64 unused[21];
#endif
};
#ifdef MINIMAL_SIZED
_Static_assert(sizeof(struct pair) == sizeof(struct flow), "as large as flowml's");
#endif
BPF_F_TABLE("hash", struct flow_key, struct pair, flows, CONNECTIONS, 0);
#elif defined(SPIN_LOCK)
BPF_F_TABLE("hash", struct flow_key, struct entry, flows, CONNECTIONS, 0);
#elif defined(PER_CPU)
BPF_F_TABLE("percpu_hash", struct flow_key, struct entry, flows, CONNECTIONS, 0);
#elif defined(LRU)
BPF_F_TABLE("lru_hash", struct flow_key, struct entry, flows, CONNECTIONS, 0);
#elif defined(RING)
BPF_RINGBUF_OUTPUT(segments, RING_BYTES / 4096);
#endif

/* How a sum grows, where CPUs share it without a lock, and where they do not. */
#if defined(LRU) || defined(MINIMAL_ATOMIC)
#define add(at, value) __sync_fetch_and_add(at, value)
#else
#define add(at, value) (*(at) += (value))
#endif

static __always_inline int opens(const struct packet *pkt)
{
	return (pkt->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* What every pattern does with a known flow; reading and writing in between is not made safe, as with them.
 */
static __always_inline void count(struct entry *entry, const struct packet *pkt, __u64 now)
{
	enum side side = pkt->sender_is_high == entry->originator_is_high ? ORIGINATOR : RESPONDER;
	struct direction *from = &entry->side[side];

	add(&from->segments, 1);
	add(&from->bytes, pkt->size);
	add(&from->ttl_sum, pkt->ttl);
	if (!from->first_ns)
		from->first_ns = now;
	from->last_ns = now;
	if (!from->handshake_ns && pkt->flags & TCP_ACK &&
	    (side == RESPONDER ? pkt->flags & TCP_SYN : entry->side[RESPONDER].handshake_ns != 0))
		from->handshake_ns = now;
}

static __always_inline void account(const struct packet *pkt)
{
	struct flow_key key = pkt->key;

#if defined(PARSE_ONLY)
	/* What the smallest flow counter needs has to be found; the compiler must not leave it out. */
	asm volatile("" ::"r"(key.low_addr), "r"(key.high_addr), "r"(key.low_port), "r"(key.high_port),
		     "r"(pkt->size));
#elif defined(CLOCK)
	asm volatile("" ::"r"(key.low_addr), "r"(key.high_addr), "r"(key.low_port), "r"(key.high_port),
		     "r"(pkt->size), "r"(bpf_ktime_get_ns()));
#elif defined(MINIMAL) || defined(MINIMAL_ATOMIC)
	struct pair *found = flows.lookup(&key);
	struct pair new = {};

	if (found) {
		add(&found->segments, 1);
		add(&found->bytes, pkt->size);
#ifdef MINIMAL_TIMED
		found->last_ns = bpf_ktime_get_ns();
#endif
	} else if (opens(pkt)) {
		flows.update(&key, &new);
	}
#elif defined(RING)
	struct {
		struct flow_key key;
		__u32 size;
		__u64 now;
		__u8 source_mac[6];
		__u8 flags, ttl, sender_is_high, reserved[7];
	} segment = {
		.key = key,
		.size = pkt->size,
		.now = bpf_ktime_get_ns(),
		.flags = pkt->flags,
		.ttl = pkt->ttl,
		.sender_is_high = pkt->sender_is_high,
	};

	__builtin_memcpy(segment.source_mac, pkt->source_mac, sizeof(segment.source_mac));
	segments.ringbuf_output(&segment, sizeof(segment), 0);
#elif defined(SPIN_LOCK) || defined(PER_CPU) || defined(LRU)
	struct entry *found = flows.lookup(&key);
	struct entry new = {.originator_is_high = pkt->sender_is_high};
	__u64 now = bpf_ktime_get_ns();

	if (found) {
#ifdef SPIN_LOCK
		bpf_spin_lock(&found->lock);
		count(found, pkt, now);
		bpf_spin_unlock(&found->lock);
#else
		count(found, pkt, now);
#endif
	} else if (opens(pkt)) {
		count(&new, pkt, now);
		flows.update(&key, &new);
	}
#endif
}

static __always_inline void see(const __u8 *frame, const __u8 *end, __u32 len, __u32 gso_size)
{
#ifndef PASS_ONLY
	struct cursor cur = {.pos = frame, .end = end};
	struct packet pkt = {};

	if (parse_packet(&cur, &pkt, len, gso_size) == COUNT_tracked)
		account(&pkt);
#endif
}

int baseline_ingress(struct xdp_md *ctx)
{
	walk_on((__u8 *)(long)ctx->data, (const __u8 *)(long)ctx->data_end);
	see((const __u8 *)(long)ctx->data, (const __u8 *)(long)ctx->data_end, 0, 0);
	return XDP_PASS;
}

int baseline_egress(struct __sk_buff *skb)
{
	walk_on((__u8 *)(long)skb->data, (const __u8 *)(long)skb->data_end);
	see((const __u8 *)(long)skb->data, (const __u8 *)(long)skb->data_end, skb->len, skb->gso_size);
	return -1; /* TC_ACT_UNSPEC */
}
