/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Any bytes as a capture: pcap, pcapng, gzip and zstd of these, and whatever else they are. Each is read
 * as a file at once and as a pipe bit by bit: how the bytes come in must not make a difference. Then as a
 * pipe that a stop ends early.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* At most so many bytes at a time; after so many times there is something to read in the stop pipe. */
static size_t chunk, reads_to_stop;
static int stop_pipe[2];

static ssize_t read_some(int fd, void *to, size_t size)
{
	if (reads_to_stop && !--reads_to_stop && write(stop_pipe[1], "", 1) != 1)
		abort();
	return read(fd, to, size < chunk ? size : chunk);
}

/* Packets are copied, so that the sanitizer knows where they end. */
#define read(fd, to, size) read_some(fd, to, size)
#define capture_next	   capture_next_in_place
#include "../../bpf/stream.c"
#include "../../bpf/capture.c"
#undef capture_next
#undef read

int capture_next(struct capture *capture, struct pcap_pkthdr **header, const __u8 **frame, char why[WHY_LEN]);
#define FIRST_BUCKETS 2
#include "../../bpf/replay.c"

#include "account.h"

#define CONNECTIONS 8
#define ROOM	    16
#define PIPE_BYTES  65536 /* what a pipe holds before anybody reads */

static __u8 *copy;

int capture_next(struct capture *capture, struct pcap_pkthdr **header, const __u8 **frame, char why[WHY_LEN])
{
	int got = capture_next_in_place(capture, header, frame, why);

	if (got != 1)
		return got;
	free(copy);
	copy = malloc((*header)->caplen);
	memcpy(copy, *frame, (*header)->caplen);
	*frame = copy;
	return 1;
}

/* What a replay comes to. */
struct outcome {
	struct counters counters;
	__u64 packets, backward, impossible, hellos_cut, latest_ns, taken, stopped;
	char trouble[WHY_LEN];
};

static struct outcome replay_to_its_end(int fd, int stop_fd, const __u8 *head, size_t head_len)
{
	static const struct replay_settings settings = {
		.max_connections = CONNECTIONS,
		.ip = 46,
		.establish_timeout_ns = 5000000000,
		.inactivity_timeout_ns = 300000000000,
	};
	struct replay *replay = replay_open(fd, stop_fd, (const char *)head, head_len, &settings);
	const struct replay_status *status;
	struct outcome outcome;
	struct flow out[ROOM];
	__u64 delivered = 0, segments = 0;

	CHECK(replay);
	status = replay_status(replay);
	while (status->state != REPLAY_DONE) {
		long found = replay_read(replay, out, ROOM, 7);

		CHECK(found >= 0 && found <= ROOM);
		for (long i = 0; i < found; i++) {
			check_ended(host_of(replay), &out[i]);
			segments += gate_segments(out[i].side[ORIGINATOR].gate) +
				    gate_segments(out[i].side[RESPONDER].gate);
		}
		delivered += found;
		check_fates(host_of(replay));
		check_table(host_of(replay));
	}
	check_done(host_of(replay), delivered, segments);
	outcome = (struct outcome){
		.counters = host_of(replay)->counters,
		.packets = status->packets,
		.backward = status->backward,
		.impossible = status->impossible,
		.hellos_cut = status->hellos_cut,
		.latest_ns = status->latest_ns,
		.taken = status->bytes_taken,
		.stopped = status->stopped,
	};
	snprintf(outcome.trouble, sizeof(outcome.trouble), "%s", replay_trouble(replay));
	replay_close(replay);
	free(copy);
	copy = NULL;
	return outcome;
}

static struct outcome as_file(const uint8_t *data, size_t size)
{
	int fd = memfd_create("capture", MFD_CLOEXEC);
	struct outcome outcome;

	CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
	chunk = SIZE_MAX;
	outcome = replay_to_its_end(fd, -1, (const __u8 *)"", 0);
	close(fd);
	return outcome;
}

/* The first bytes were read already; how many, and how many come at a time, is as good as random. */
static struct outcome as_pipe(const uint8_t *data, size_t size, int stop)
{
	struct outcome outcome;
	size_t head_len, sum = 0;
	int ends[2];

	for (size_t i = 0; i < size; i++)
		sum = 31 * sum + data[i];
	head_len = sum % 7 ? sum / 7 % (size + 1) : 0;
	chunk = 1 + sum / 49 % size;
	reads_to_stop = stop ? 1 + sum / 343 % (1 + (size - head_len) / chunk) : 0;
	CHECK(!stop || !pipe(stop_pipe));

	CHECK(!pipe(ends) && write(ends[1], data + head_len, size - head_len) == (ssize_t)(size - head_len));
	close(ends[1]);
	outcome = replay_to_its_end(ends[0], stop ? stop_pipe[0] : -1, data, head_len);
	close(ends[0]);
	reads_to_stop = 0;
	if (stop) {
		close(stop_pipe[0]);
		close(stop_pipe[1]);
	}
	return outcome;
}

/* What libpcap reads of a pcap file by itself, record for record and word for word, is what is read in place.
 */
static void check_against_libpcap(const uint8_t *data, size_t size)
{
	char said[PCAP_ERRBUF_SIZE], why[WHY_LEN] = "";
	FILE *file = fmemopen((void *)data, size, "r");
	int fd = memfd_create("capture", MFD_CLOEXEC), got, theirs;
	struct pcap_pkthdr *header, *their_header;
	const __u8 *frame, *their_frame;
	struct capture capture;
	pcap_t *pcap;

	CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
	chunk = SIZE_MAX;
	got = capture_open(&capture, fd, -1, (const __u8 *)"", 0, why);
	pcap = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, said);
	if (!pcap)
		fclose(file);
	capture.in_place &= capture.stream.coding == CODING_PLAIN;
	if (capture.in_place)
		CHECK((got == 0) == (pcap != NULL) && (pcap || !strcmp(why, said)));
	while (capture.in_place && pcap && link_is_known(capture.link)) {
		got = capture_next_in_place(&capture, &header, &frame, why);
		theirs = pcap_next_ex(pcap, &their_header, &their_frame);
		CHECK(got == (theirs == PCAP_ERROR_BREAK ? 0 : theirs));
		/* The numbers behind the semicolon may differ where a packet is longer than the file's
		 * snapshot. */
		CHECK(got >= 0 || !strncmp(why, pcap_geterr(pcap), strcspn(pcap_geterr(pcap), ";")));
		if (got != 1)
			break;
		CHECK(header->ts.tv_sec == (__u32)their_header->ts.tv_sec);
		if (their_header->ts.tv_usec < 0) /* libpcap's is signed: no such time either way */
			CHECK(header->ts.tv_usec >= (long)NS_PER_S);
		else
			CHECK(header->ts.tv_usec == their_header->ts.tv_usec);
		CHECK(header->caplen == their_header->caplen && header->len == their_header->len);
		CHECK(!memcmp(frame, their_frame, header->caplen));
	}
	if (pcap)
		pcap_close(pcap);
	capture_close(&capture);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct outcome once, again, stopped;

	if (!size || size > PIPE_BYTES)
		return 0;
	check_against_libpcap(data, size);
	once = as_file(data, size);
	again = as_pipe(data, size, 0);
	stopped = as_pipe(data, size, 1);
	CHECK(!memcmp(&once.counters, &again.counters, sizeof(once.counters)));
	CHECK(once.packets == again.packets && once.latest_ns == again.latest_ns);
	CHECK(once.backward == again.backward && once.impossible == again.impossible);
	CHECK(once.hellos_cut == again.hellos_cut);
	CHECK(!strcmp(once.trouble, again.trouble));
	CHECK(!once.stopped && !again.stopped);
	CHECK(stopped.packets <= once.packets);
	CHECK(!strcmp(stopped.trouble, stopped.stopped ? "" : once.trouble));
	CHECK(!strchr(once.trouble, '\n'));
	CHECK(once.taken <= size && again.taken <= size);
	return 0;
}
