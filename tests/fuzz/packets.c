/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Any packets into the core. It is bpf/replay.c, unchanged; but packets come from the input instead of a
 * capture, the table has few slots, so that it is full, swept, timed out and used again, and a packet may
 * find the ring full, as in the kernel.
 *
 * The input: SETTINGS_LEN bytes of settings; then packet by packet PACKET_LEN bytes about it, and its frame.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

/* The table in memory that the sanitizer watches to the byte, and the same each time. */
static unsigned char seed;
#define mmap(address, size, ...)   calloc(1, size)
#define munmap(memory, size)	   free(memory)
#define getrandom(to, size, flags) ((long)(memset(to, seed, size) ? size : 0))

#define FIRST_BUCKETS 2
#include "../../bpf/replay.c"

#include "account.h"
#include "packets.h"

#define SLOTS_MAX 6
#define ROOM_MAX  8
#define BEGIN_S	  1000000000LL

/* How far the clock goes on before a packet: around both timeouts, and backward. */
static const __s64 STEPS[] = {
	0,	    1,		 1000,		1000000,       1000000000,   4999999999,
	5000000000, 5000000001,	 299999999999,	300000000000,  300000000001, -1,
	-1000000,   -5000000001, -300000000001, 3600000000000,
};

/* Times that cannot be; the clock stays. */
static const struct timeval IMPOSSIBLE[] = {
	{.tv_sec = -1}, {.tv_sec = LAST_S + 1}, {.tv_usec = -1}, {.tv_sec = 1, .tv_usec = 1000000000}};

static const __u64 TIMEOUTS_NS[][2] = {
	{5000000000, 300000000000}, {300000000000, 5000000000}, {1000000, 1000000}, {1000000000, 0}};

static const __u32 VERSIONS[] = {46, 4, 46, 6};

static struct {
	const __u8 *at, *end;
	__u8 *frame; /* a copy that ends where it ends, for the sanitizer */
	__s64 now_ns;
	long room;
	struct host *host;
} input;

static void sweep(struct host *host, __u64 now)
{
	for (__u32 slot = 0; slot < host->high_water; slot++)
		table_visit(host, &host->slots[slot], slot, SWEEP_TIMEOUT, now);
}

/* What the kernel's egress hook asks of the core, and a capture does not. */
static void look_at_gso(const __u8 *frame, __u32 len, __u32 number)
{
	struct cursor cur = {.pos = frame, .end = frame + len};
	struct packet pkt = {};
	__u32 gso_size = 1 + 37 * number, before;

	if (parse_packet(&cur, &pkt, len + number % 2 * 100000, gso_size) != COUNT_tracked)
		return;
	CHECK(pkt.payload_at <= len && pkt.payload_len == pkt.size - pkt.headers_len);
	before = pkt.size;
	expand_gso(&pkt, number % 5, gso_size);
	CHECK(pkt.segments >= 1 && pkt.size == before + (pkt.segments - 1) * pkt.headers_len);
	CHECK(number % 5 || (pkt.segments - 1) * gso_size <= pkt.payload_len);
}

/* ---- In place of bpf/capture.c ---- */

int capture_open(struct capture *capture, int fd, int stop_fd, const __u8 *head, size_t head_len,
		 char why[WHY_LEN])
{
	(void)fd, (void)stop_fd, (void)head, (void)head_len, (void)why;
	capture->link = DLT_EN10MB;
	return 0;
}

int capture_next(struct capture *capture, struct pcap_pkthdr **header, const __u8 **frame, char why[WHY_LEN])
{
	static struct pcap_pkthdr about;
	struct host *host = input.host;
	struct packet_about packet;

	(void)why;
	host->out_room = input.room;
	if (!packet_at(input.at, input.end, &packet))
		return 0;
	capture->link = LINKS[packet.link];
	if (packet.impossible) {
		about.ts = IMPOSSIBLE[packet.step % (sizeof(IMPOSSIBLE) / sizeof(IMPOSSIBLE[0]))];
	} else {
		input.now_ns += STEPS[packet.step % (sizeof(STEPS) / sizeof(STEPS[0]))];
		about.ts.tv_sec = input.now_ns / (__s64)NS_PER_S;
		about.ts.tv_usec = input.now_ns % (__s64)NS_PER_S;
	}
	if (packet.ring_full)
		host->out_room = host->out_len;
	if (packet.sweep)
		sweep(host, host->status.latest_ns);
	free(input.frame);
	input.frame = malloc(packet.len);
	memcpy(input.frame, packet.frame, packet.len);
	if (packet.gso)
		look_at_gso(input.frame, packet.len, packet.step);
	input.at = packet.frame + packet.len;
	*frame = input.frame;
	about.caplen = about.len = packet.len;
	*header = &about;
	return 1;
}

void capture_close(struct capture *capture)
{
	(void)capture;
}

/* ---- The target ---- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct replay_settings wanted;
	struct flow *out;
	struct replay *replay;
	__u64 delivered = 0, segments = 0;
	long batch, found;

	if (size < SETTINGS_LEN)
		return 0;
	wanted = (struct replay_settings){
		.max_connections = 1 + data[0] % SLOTS_MAX,
		.tls_only = data[1] & 1,
		.ip = VERSIONS[data[1] >> 3 & 3],
		.establish_timeout_ns = TIMEOUTS_NS[data[1] >> 1 & 3][0],
		.inactivity_timeout_ns = TIMEOUTS_NS[data[1] >> 1 & 3][1],
	};
	input.room = FLOWS_A_PACKET + data[2] % (ROOM_MAX - FLOWS_A_PACKET);
	batch = 1 + data[2] / ROOM_MAX % 4;
	seed = data[3];
	input.at = data + SETTINGS_LEN;
	input.end = data + size;
	input.now_ns = BEGIN_S * (__s64)NS_PER_S;
	out = malloc(input.room * sizeof(*out));
	replay = replay_open(-1, -1, "", 0, &wanted);
	CHECK(out && replay);
	input.host = host_of(replay);
	while (replay_status(replay)->state != REPLAY_DONE) {
		found = replay_read(replay, out, input.room, batch);
		CHECK(found >= 0 && found <= input.room);
		for (long i = 0; i < found; i++) {
			check_ended(input.host, &out[i]);
			segments += gate_segments(out[i].side[ORIGINATOR].gate) +
				    gate_segments(out[i].side[RESPONDER].gate);
		}
		delivered += found;
		check_fates(input.host);
		check_table(input.host);
	}
	check_done(input.host, delivered, segments);
	replay_close(replay);
	free(out);
	free(input.frame);
	input.frame = NULL;
	return 0;
}
