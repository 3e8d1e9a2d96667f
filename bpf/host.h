/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The CPU as a host of the core: what `table.h` asks for, over plain memory, and one packet into it. The
 * table is what it is in the kernel (a hash that leads to slots, a stack of free ones).
 *
 * It is compiled twice (replay.c, narrow.c): with keys that have room for IPv6, and for IPv4 alone. Both find
 * what the other put into the table: a key of IPv4 hashes alike, and which end is the high one is the same.
 */
#ifndef FLOWML_HOST_H
#define FLOWML_HOST_H

#include "replay.h"

/* What stands in the core's settings is a setting of this run, not of the build. */
extern _Thread_local const struct replay_settings *settings;
#undef FLOWML_ESTABLISH_TIMEOUT_NS
#undef FLOWML_INACTIVITY_TIMEOUT_NS
#undef FLOWML_TLS_ONLY
#define FLOWML_ESTABLISH_TIMEOUT_NS  (settings->establish_timeout_ns)
#define FLOWML_INACTIVITY_TIMEOUT_NS (settings->inactivity_timeout_ns)
#define FLOWML_TLS_ONLY		     (settings->tls_only)
#if FLOWML_WIDE_KEYS
#undef FLOWML_IP
#define FLOWML_IP (settings->ip)
#endif

/* One thread: nothing has to be atomic. */
#define atomic_add(at, value)                                                                                \
	({                                                                                                   \
		__typeof__(*(at)) before = *(at);                                                            \
		*(at) += (value);                                                                            \
		before;                                                                                      \
	})
#define atomic_or(at, value)                                                                                 \
	({                                                                                                   \
		__typeof__(*(at)) before = *(at);                                                            \
		*(at) |= (value);                                                                            \
		before;                                                                                      \
	})
#define atomic_swap_if(at, expected, value)                                                                  \
	({                                                                                                   \
		__typeof__(*(at)) before = *(at);                                                            \
		if (before == (expected))                                                                    \
			*(at) = (value);                                                                     \
		before;                                                                                      \
	})

#ifndef __always_inline /* the kernel's headers say it so, the C library's may not */
#define __always_inline inline __attribute__((always_inline))
#endif

#include "capture.h"
#include "links.h"
#include "table.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS_A_SLOT 2 /* how much larger the hash is than what is in it, at least */

/* Where a key leads. The key itself lies in its flow. */
struct bucket {
	__u64 hash; /* 0: empty */
	struct flow_ref ref;
};

struct host {
	struct replay_settings settings;
	struct replay_status status;
	struct capture capture;
	char trouble[WHY_LEN];
	struct counters counters;

	struct flow *slots;
	struct bucket *all_buckets; /* a table of n of them is the n from the n-th on */
	struct bucket *buckets;	    /* that are in use */
	__u32 *given_back;	    /* stack of slots that were used before */
	__u32 n_given_back;
	__u32 high_water; /* slots from here on were never used */
	__u64 victim;	  /* counts the slots that were looked at to make room */
	__u64 bucket_mask;
	__u64 seed[2];

	__u64 next_sweep_ns; /* not before */
	__u32 next_slot;     /* of the sweep under way */
	int sweeping;
	int waiting; /* a packet is read and not accounted yet */

	struct flow *out;
	long out_len;
	long out_room;
};

/* ---- The hash: open addressing, linear probing, deletion by shifting back ---- */

static __always_inline __u64 fold(__u64 a, __u64 b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (__u64)product ^ (__u64)(product >> 64);
}

static __always_inline __u64 pair(__be32 first, __be32 second)
{
	return (__u64)first << 32 | second;
}

/* Seeded, so that nobody can make a capture whose keys all collide. Multiply and fold, and again. */
static __always_inline __u64 hash_key(const struct host *host, const struct flow_key *key)
{
	__u64 ports = (__u64)key->low_port << 16 | key->high_port;
#if FLOWML_WIDE_KEYS
	const __be32 *low = key->low_addr, *high = key->high_addr;
	__u64 folded = fold(pair(low[3], high[3]) ^ host->seed[0], ports ^ host->seed[1]);

	if (key->ip_version == 6) {
		folded = fold(folded ^ pair(low[0], high[0]), host->seed[0] ^ pair(low[1], high[1]));
		folded = fold(folded ^ pair(low[2], high[2]), host->seed[1]);
	}
#else
	__u64 folded = fold(pair(key->low_addr, key->high_addr) ^ host->seed[0], ports ^ host->seed[1]);
#endif
	return fold(folded ^ host->seed[1], 0x9e3779b97f4a7c15ULL) | 1ULL << 63;
}

static struct bucket *find_bucket(struct host *host, const struct flow_key *key)
{
	__u64 hash = hash_key(host, key);
	__u64 i = hash & host->bucket_mask;

	for (;; i = (i + 1) & host->bucket_mask) {
		struct bucket *bucket = &host->buckets[i];

		if (!bucket->hash)
			return bucket;
		if (bucket->hash == hash && has_key(&host->slots[bucket->ref.slot], key))
			return bucket;
	}
}

static __always_inline int host_find(struct host *host, const struct flow_key *key, struct flow_ref *ref)
{
	const struct bucket *bucket = find_bucket(host, key);

	*ref = bucket->ref;
	return bucket->hash != 0;
}

/* The hash answers as soon as a memory of it would. */
static __always_inline int host_recall(struct host *host, const struct flow_key *key, struct flow_ref *ref)
{
	(void)host, (void)key, (void)ref;
	return 0;
}

static __always_inline void host_remember(struct host *host, const struct flow_key *key,
					  const struct flow_ref *ref)
{
	(void)host, (void)key, (void)ref;
}

/*
 * Twice as many buckets, so that the hash is as large as what is in it: a small one stays in the cache. All
 * that it leaves behind is together no larger than what it goes to.
 */
static void grow(struct host *host)
{
	struct bucket *old = host->buckets;
	__u64 count = host->bucket_mask + 1;

	host->buckets += count;
	host->bucket_mask = 2 * count - 1;
	for (__u64 i = 0; i < count; i++) {
		__u64 to = old[i].hash & host->bucket_mask;

		if (!old[i].hash)
			continue;
		while (host->buckets[to].hash)
			to = (to + 1) & host->bucket_mask;
		host->buckets[to] = old[i];
	}
}

static __always_inline int host_insert(struct host *host, const struct flow_key *key,
				       const struct flow_ref *ref)
{
	struct bucket *bucket;

	if (BUCKETS_A_SLOT * (__u64)(host->high_water - host->n_given_back) > host->bucket_mask + 1)
		grow(host);
	bucket = find_bucket(host, key);
	if (bucket->hash)
		return -HOST_EXISTS;
	bucket->hash = hash_key(host, key);
	bucket->ref = *ref;
	return 0;
}

static __always_inline void host_delete(struct host *host, const struct flow_key *key)
{
	__u64 mask = host->bucket_mask;
	__u64 gap = find_bucket(host, key) - host->buckets;

	for (__u64 i = (gap + 1) & mask; host->buckets[i].hash; i = (i + 1) & mask) {
		__u64 home = host->buckets[i].hash & mask;

		/* It may move into the gap if its home is not between the gap and where it is. */
		if (((i - home) & mask) >= ((i - gap) & mask)) {
			host->buckets[gap] = host->buckets[i];
			gap = i;
		}
	}
	host->buckets[gap].hash = 0;
}

/* ---- The rest of what the core asks of its host ---- */

static __always_inline struct flow *host_flow(struct host *host, __u32 slot)
{
	return &host->slots[slot];
}

static int table_is_full(const struct host *host)
{
	return !host->n_given_back && host->high_water == host->settings.max_connections;
}

static __always_inline struct flow *host_take(struct host *host, __u32 *slot)
{
	if (table_is_full(host))
		return NULL;
	*slot = host->n_given_back ? host->given_back[--host->n_given_back] : host->high_water++;
	return &host->slots[*slot];
}

static __always_inline void host_give_back(struct host *host, __u32 slot)
{
	host->given_back[host->n_given_back++] = slot;
}

static __always_inline __u32 host_victim(struct host *host)
{
	return host->victim++ % host->settings.max_connections;
}

static __always_inline int host_deliver(struct host *host, const struct flow *flow)
{
	if (host->out_len == host->out_room)
		return -1;
	host->out[host->out_len++] = *flow;
	return 0;
}

static void count(struct host *host, enum counter counter)
{
	((__u64 *)&host->counters)[counter]++;
}

static __always_inline void host_count(struct host *host, enum counter event)
{
	count(host, event);
}

static __always_inline struct head host_head(struct host *host, const struct packet *pkt)
{
	struct head head = payload_head(host->status.frame, host->status.frame + host->status.frame_len, pkt);

	if (head.len < HELLO_BYTES && head.len < pkt->payload_len)
		host->status.hellos_cut++;
	return head;
}

/* ---- A packet ---- */

static __always_inline void account_packet(struct host *host)
{
	struct replay_status *status = &host->status;
	struct cursor cur = {.pos = status->frame, .end = status->frame + status->frame_len};
	struct packet pkt = {};
	__u16 ethertype = 0;
	enum counter fate;

	fate = parse_link(host->capture.link, &cur, &pkt, &ethertype);
	status->link_len = cur.pos - status->frame;
	status->ethertype = ethertype;
	memcpy(status->source_mac, pkt.source_mac, sizeof(pkt.source_mac));
	if (fate == COUNT_tracked)
		fate = parse_network(status->frame, &cur, &pkt, ethertype, 0, 0);
	if (fate == COUNT_tracked)
		fate = table_account(host, &pkt, status->time_ns);
	count(host, fate);
}

/* The same for a capture of which IPv4 alone is looked at. */
void account_narrow(struct host *host);

#endif
