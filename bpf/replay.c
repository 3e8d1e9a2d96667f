/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A capture through the core on the CPU: read, accounted, swept, from the first packet to the last flow. */
#define _GNU_SOURCE
#define FLOWML_WIDE_KEYS 1 /* but for packets of which IPv4 alone is asked: narrow.c */
#include "host.h"

#include <sys/mman.h>
#include <sys/random.h>

#define NS_PER_S       1000000000ULL
#define FIRST_NS       1ULL /* the capture's clock starts at 1970; a time of 0 means "none yet" to the core */
#define LAST_S	       4102444800LL /* 2100 */
#define SWEEP_EVERY_NS NS_PER_S	    /* while the table is full */
#define FLOWS_A_PACKET 2	    /* that one packet can end */
#ifndef FIRST_BUCKETS		    /* of the hash: a power of two */
#define FIRST_BUCKETS 4096
#endif

_Thread_local const struct replay_settings *settings;

/* `struct replay` is what it is called from outside. */
static struct host *host_of(const struct replay *replay)
{
	return (struct host *)replay;
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
			if (host->settings.ip == 4)
				account_narrow(host);
			else
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
	__u64 most = FIRST_BUCKETS;

	while (most < (__u64)BUCKETS_A_SLOT * host->settings.max_connections)
		most *= 2;
	return 2 * most * sizeof(struct bucket);
}

static int reserve_table(struct host *host)
{
	host->slots = reserve(slots_size(host));
	host->all_buckets = reserve(buckets_size(host));
	host->buckets = host->all_buckets + FIRST_BUCKETS;
	host->bucket_mask = FIRST_BUCKETS - 1;
	host->given_back = reserve(host->settings.max_connections * sizeof(__u32));
	return host->slots && host->all_buckets && host->given_back;
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
	if (host->all_buckets)
		munmap(host->all_buckets, buckets_size(host));
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
