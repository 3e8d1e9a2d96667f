/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The core on the CPU. The table is what it is in the kernel (a hash that leads to slots, a stack of free
 * ones), in plain memory that is touched only as far as it is used.
 */
#define _GNU_SOURCE
#define FLOWML_WIDE_KEYS 1 /* what of IP is looked at is known only when running */
#include "replay.h"

/* What stands in the core's settings is a setting of this run, not of the build. */
static _Thread_local const struct replay_settings *settings;
#undef FLOWML_ESTABLISH_TIMEOUT_NS
#undef FLOWML_INACTIVITY_TIMEOUT_NS
#undef FLOWML_TLS_ONLY
#undef FLOWML_IP
#define FLOWML_ESTABLISH_TIMEOUT_NS  (settings->establish_timeout_ns)
#define FLOWML_INACTIVITY_TIMEOUT_NS (settings->inactivity_timeout_ns)
#define FLOWML_TLS_ONLY		     (settings->tls_only)
#define FLOWML_IP		     (settings->ip)

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
#include <sys/mman.h>
#include <sys/random.h>

#define NS_PER_S       1000000000ULL
#define FIRST_NS       1ULL /* the capture's clock starts at 1970; a time of 0 means "none yet" to the core */
#define LAST_S	       4102444800LL /* 2100 */
#define SWEEP_EVERY_NS NS_PER_S	    /* while the table is full */
#define FLOWS_A_PACKET 2	    /* that one packet can end */
#define SLOTS_A_BUCKET 2	    /* how much larger the hash is than the table, at least */

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
	struct bucket *buckets;
	__u32 *given_back; /* stack of slots that were used before */
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

/* `struct replay` is what it is called from outside. */
static struct host *host_of(const struct replay *replay)
{
	return (struct host *)replay;
}

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
static __u64 hash_key(const struct host *host, const struct flow_key *key)
{
	const __be32 *low = key->low_addr, *high = key->high_addr;
	__u64 ports = (__u64)key->low_port << 16 | key->high_port;
	__u64 folded = fold(pair(low[3], high[3]) ^ host->seed[0], ports ^ host->seed[1]);

	if (key->ip_version == 6) {
		folded = fold(folded ^ pair(low[0], high[0]), host->seed[0] ^ pair(low[1], high[1]));
		folded = fold(folded ^ pair(low[2], high[2]), host->seed[1]);
	}
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

/* Its hash answers as soon as a memory of it would. */
static __always_inline int host_recall(struct host *host, const struct flow_key *key, struct flow_ref *ref)
{
	return 0;
}

static __always_inline void host_remember(struct host *host, const struct flow_key *key,
					  const struct flow_ref *ref)
{
}

static __always_inline int host_insert(struct host *host, const struct flow_key *key,
				       const struct flow_ref *ref)
{
	struct bucket *bucket = find_bucket(host, key);

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

static __u64 clock_of_flows(struct host *host, const struct timeval *at)
{
	struct replay_status *status = &host->status;
	__u64 now = FIRST_NS;

	if (at->tv_sec < 0 || at->tv_sec > LAST_S || at->tv_usec < 0 || (__u64)at->tv_usec >= NS_PER_S) {
		status->impossible++;
		if (at->tv_sec > LAST_S)
			now += LAST_S * NS_PER_S;
	} else {
		now += at->tv_sec * NS_PER_S + at->tv_usec; /* nanoseconds, as asked of libpcap */
	}
	if (now < status->latest_ns)
		status->backward++;
	else
		status->latest_ns = now;
	return now;
}

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

/* ---- From the first packet to the last flow ---- */

/*
 * A connection that timed out ends when its tuple is seen again, and at the end of the capture. Only a
 * table without a free slot is swept in between: before a packet, so that other hosts can do alike.
 */
static int sweep_is_due(struct host *host, __u64 now)
{
	if (!table_is_full(host) || now < host->next_sweep_ns)
		return 0;
	host->next_sweep_ns = now + SWEEP_EVERY_NS;
	host->next_slot = 0;
	return 1;
}

/* There is nothing to read, or no more of it: on to the end. */
static void stop_reading(struct host *host)
{
	host->status.state = REPLAY_CLOSING;
	host->status.stopped = host->capture.stream.stopped;
	host->next_slot = 0;
}

static void fetch_packet(struct host *host)
{
	struct replay_status *status = &host->status;
	struct pcap_pkthdr *header;

	if (capture_next(&host->capture, &header, &status->frame, host->trouble) != 1) {
		stop_reading(host);
		return;
	}
	status->packets++;
	status->frame_len = header->caplen;
	status->time_ns = clock_of_flows(host, &header->ts);
	host->waiting = 1;
	host->sweeping = sweep_is_due(host, status->time_ns);
	status->swept_ns = host->sweeping ? status->time_ns : 0;
}

/* One slot of the sweep under way: 0 when it was the last. */
static int sweep_slot(struct host *host, enum sweep_mode mode, __u64 now)
{
	__u32 slot = host->next_slot++;

	if (slot >= host->high_water)
		return 0;
	table_visit(host, &host->slots[slot], slot, mode, now);
	return 1;
}

long replay_read(struct replay *replay, struct flow *flows, long room, long packets)
{
	struct host *host = host_of(replay);
	struct replay_status *status = &host->status;

	settings = &host->settings;
	host->out = flows;
	host->out_len = 0;
	host->out_room = room;
	while (status->state == REPLAY_READING && host->out_len + FLOWS_A_PACKET <= room) {
		if (host->sweeping) {
			host->sweeping = sweep_slot(host, SWEEP_TIMEOUT, status->time_ns);
		} else if (host->waiting) {
			account_packet(host);
			host->waiting = 0;
		} else if (packets-- > 0) {
			fetch_packet(host);
		} else {
			break;
		}
	}
	while (status->state == REPLAY_CLOSING && host->out_len < room)
		if (!sweep_slot(host, SWEEP_SHUTDOWN, status->latest_ns))
			status->state = REPLAY_DONE;
	status->bytes_taken = host->capture.stream.taken;
	return host->out_len;
}

/* Memory that is there when it is touched, and zero. */
static void *reserve(size_t size)
{
	void *memory =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static size_t slots_size(const struct host *host)
{
	return host->settings.max_connections * sizeof(struct flow);
}

static size_t buckets_size(const struct host *host)
{
	return (host->bucket_mask + 1) * sizeof(struct bucket);
}

static int reserve_table(struct host *host)
{
	__u64 buckets = 1;

	while (buckets < (__u64)SLOTS_A_BUCKET * host->settings.max_connections)
		buckets *= 2;
	host->bucket_mask = buckets - 1;
	host->slots = reserve(slots_size(host));
	host->buckets = reserve(buckets_size(host));
	host->given_back = reserve(host->settings.max_connections * sizeof(__u32));
	return host->slots && host->buckets && host->given_back;
}

static int start_reading(struct host *host, int fd, int stop_fd, const char *head, size_t head_len)
{
	const char *name;

	if (capture_open(&host->capture, fd, stop_fd, (const __u8 *)head, head_len, host->trouble))
		return -1;
	if (link_is_known(host->capture.link))
		return 0;
	name = pcap_datalink_val_to_description_or_dlt(host->capture.link);
	snprintf(host->trouble, WHY_LEN, "its link type is %s, which flowml does not read", name);
	return -1;
}

struct replay *replay_open(int fd, int stop_fd, const char *head, size_t head_len,
			   const struct replay_settings *wanted)
{
	struct host *host = calloc(1, sizeof(*host));

	if (!host)
		return NULL;
	host->settings = *wanted;
	if (!reserve_table(host) || getrandom(host->seed, sizeof(host->seed), 0) < 0) {
		replay_close((struct replay *)host);
		return NULL;
	}
	if (start_reading(host, fd, stop_fd, head, head_len))
		stop_reading(host);
	return (struct replay *)host;
}

void replay_close(struct replay *replay)
{
	struct host *host = host_of(replay);

	if (!host)
		return;
	capture_close(&host->capture);
	if (host->slots)
		munmap(host->slots, slots_size(host));
	if (host->buckets)
		munmap(host->buckets, buckets_size(host));
	if (host->given_back)
		munmap(host->given_back, host->settings.max_connections * sizeof(__u32));
	free(host);
}

const struct replay_status *replay_status(const struct replay *replay)
{
	return &host_of(replay)->status;
}

const char *replay_trouble(const struct replay *replay)
{
	return host_of(replay)->trouble;
}

const __u64 *replay_counters(const struct replay *replay)
{
	return (const __u64 *)&host_of(replay)->counters;
}

const char *replay_counter_names(void)
{
#define X(name) #name " "
	return FLOWML_FATES(X) FLOWML_EVENTS(X);
#undef X
}
