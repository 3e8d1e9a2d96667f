/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#define _GNU_SOURCE
#include "capture.h"

#include <errno.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_BYTES  (320 * 1024) /* more than the longest record, less than the cache that a core has */
#define CAPTURED_MAX  262144	   /* of a packet: libpcap's MAXIMUM_SNAPLEN for the links that are read */
#define MAGIC_MICRO   0xa1b2c3d4
#define MAGIC_NANO    0xa1b23c4d
#define VERSION_MAJOR 2
#define VERSION_MINOR 4
#define NS_PER_US     1000

/* The classic format: draft-ietf-opsawg-pcap, 4 and 5. */
struct file_header {
	__u32 magic;
	__u16 version_major, version_minor;
	__u32 reserved[2], snapshot, link;
};

struct record_header {
	__u32 seconds, fraction, captured, length;
};

_Static_assert(sizeof(struct file_header) == 24, "as in the file");
_Static_assert(sizeof(struct record_header) == 16, "as in the file");

/* libpcap sees only that reading failed: the stream knows more. */
static int capture_fail(struct capture *capture, const char *said, char why[WHY_LEN])
{
	if (capture->stream.stopped)
		said = "";
	else if (capture->stream.trouble)
		said = capture->stream.trouble;
	snprintf(why, WHY_LEN, "%s", said);
	return -1;
}

/* ---- The window: what was read of the file and not looked at ---- */

static size_t window_len(const struct capture *capture)
{
	return capture->end - capture->at;
}

/* Sees to it that there are `size` bytes, at most WINDOW_BYTES: 1; 0: the file ends before; -1 with errno. */
static int window_fill(struct capture *capture, size_t size)
{
	if (window_len(capture) >= size)
		return 1;
	memmove(capture->buffer, capture->buffer + capture->at, window_len(capture));
	capture->end -= capture->at;
	capture->at = 0;
	while (capture->end < size) {
		ssize_t got = stream_decode(&capture->stream, capture->buffer + capture->end,
					    WINDOW_BYTES - capture->end);

		if (got <= 0)
			return got;
		capture->end += got;
	}
	return 1;
}

/* ---- The records of a pcap file, where they lie ---- */

static __u32 in_file_order(const struct capture *capture, __u32 number)
{
	return capture->swapped ? __builtin_bswap32(number) : number;
}

static int cut_short(struct capture *capture, const char *what, size_t wanted, char why[WHY_LEN])
{
	char said[WHY_LEN];

	snprintf(said, sizeof(said), "truncated dump file; tried to read %zu %s bytes, only got %zu", wanted,
		 what, window_len(capture));
	return capture_fail(capture, said, why);
}

/* As capture_next(). */
static int next_record(struct capture *capture, struct pcap_pkthdr **header, const __u8 **frame,
		       char why[WHY_LEN])
{
	struct pcap_pkthdr *found = &capture->header;
	struct record_header record;
	__u32 captured;
	int filled = window_fill(capture, sizeof(record));

	if (filled == 0 && !window_len(capture))
		return 0;
	if (filled == 0)
		return cut_short(capture, "header", sizeof(record), why);
	if (filled < 0)
		return capture_fail(capture, strerror(errno), why);
	memcpy(&record, capture->buffer + capture->at, sizeof(record));
	captured = in_file_order(capture, record.captured);
	if (captured > CAPTURED_MAX) {
		char said[WHY_LEN];

		snprintf(said, sizeof(said), "invalid packet capture length %u, bigger than %s of %u",
			 captured, captured > capture->snapshot ? "snaplen" : "maximum",
			 captured > capture->snapshot ? capture->snapshot : CAPTURED_MAX);
		return capture_fail(capture, said, why);
	}
	capture->at += sizeof(record);
	filled = window_fill(capture, captured);
	if (filled == 0)
		return cut_short(capture, "captured", captured, why);
	if (filled < 0)
		return capture_fail(capture, strerror(errno), why);
	found->ts.tv_sec = in_file_order(capture, record.seconds); /* unsigned, so right beyond 2038 */
	found->ts.tv_usec = (long)in_file_order(capture, record.fraction) * (capture->micro ? NS_PER_US : 1);
	found->caplen = captured < capture->snapshot ? captured : capture->snapshot;
	found->len = in_file_order(capture, record.length);
	*header = found;
	*frame = (const __u8 *)capture->buffer + capture->at;
	capture->at += captured;
	return 1;
}

/* Whether a file that begins so is a pcap file of the one version that has been written since 1998. */
static int is_pcap_file(struct capture *capture, const struct file_header *start)
{
	__u32 magic = start->magic;

	capture->swapped = magic == __builtin_bswap32(MAGIC_MICRO) || magic == __builtin_bswap32(MAGIC_NANO);
	magic = in_file_order(capture, magic);
	capture->micro = magic == MAGIC_MICRO;
	if (magic != MAGIC_MICRO && magic != MAGIC_NANO)
		return 0;
	return capture->swapped
		       ? start->version_major == __builtin_bswap16(VERSION_MAJOR) &&
				 start->version_minor == __builtin_bswap16(VERSION_MINOR)
		       : start->version_major == VERSION_MAJOR && start->version_minor == VERSION_MINOR;
}

/* ---- The capture ---- */

/* What libpcap reads: first what was read to see what the file is. */
static ssize_t read_for_libpcap(void *cookie, char *to, size_t size)
{
	struct capture *capture = cookie;
	size_t waiting = window_len(capture);

	if (!waiting)
		return stream_decode(&capture->stream, to, size);
	if (waiting > size)
		waiting = size;
	memcpy(to, capture->buffer + capture->at, waiting);
	capture->at += waiting;
	return waiting;
}

/* libpcap looks at the header of every file: what link it is of, and whether it can be read. */
static FILE *file_for_libpcap(struct capture *capture, struct file_header *start)
{
	FILE *file;

	if (capture->in_place)
		return fmemopen(start, sizeof(*start), "r");
	file = fopencookie(capture, "r", (cookie_io_functions_t){.read = read_for_libpcap});
	if (!file)
		return NULL;
	setvbuf(file, capture->buffer + WINDOW_BYTES, _IOFBF, BYTES_AT_ONCE); /* a size alone is not heeded */
	__fsetlocking(file, FSETLOCKING_BYCALLER);			      /* nobody else reads it */
	return file;
}

int capture_open(struct capture *capture, int fd, int stop_fd, const __u8 *head, size_t head_len,
		 char why[WHY_LEN])
{
	char said[PCAP_ERRBUF_SIZE] = "";
	struct file_header start;
	FILE *file;

	*capture = (struct capture){.buffer = malloc(WINDOW_BYTES + BYTES_AT_ONCE)};
	if (!capture->buffer)
		return capture_fail(capture, strerror(errno), why);
	if (stream_open(&capture->stream, fd, stop_fd, head, head_len))
		return capture_fail(capture, strerror(errno), why);
	if (window_fill(capture, sizeof(start)) < 0)
		return capture_fail(capture, strerror(errno), why);
	if (window_len(capture) >= sizeof(start)) {
		memcpy(&start, capture->buffer + capture->at, sizeof(start));
		capture->in_place = is_pcap_file(capture, &start);
	}
	file = file_for_libpcap(capture, &start);
	if (!file)
		return capture_fail(capture, strerror(errno), why);
	capture->pcap = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, said);
	if (!capture->pcap) {
		fclose(file);
		return capture_fail(capture, said, why);
	}
	capture->link = pcap_datalink(capture->pcap);
	capture->snapshot = pcap_snapshot(capture->pcap);
	if (capture->in_place)
		capture->at += sizeof(start);
	return 0;
}

int capture_next(struct capture *capture, struct pcap_pkthdr **header, const __u8 **frame, char why[WHY_LEN])
{
	int got;

	if (capture->in_place)
		return next_record(capture, header, frame, why);
	got = pcap_next_ex(capture->pcap, header, frame);
	if (got == 1) {
		if (pcap_major_version(capture->pcap) ==
		    PCAP_VERSION_MAJOR) /* old or odd pcap; pcapng has 1 */
			(*header)->ts.tv_sec =
				(__u32)(*header)->ts.tv_sec; /* as libpcap before 1.11 does not */
		return 1;
	}
	return got == PCAP_ERROR_BREAK ? 0 : capture_fail(capture, pcap_geterr(capture->pcap), why);
}

void capture_close(struct capture *capture)
{
	if (capture->pcap)
		pcap_close(capture->pcap); /* and with it the file */
	free(capture->buffer);
	stream_close(&capture->stream);
}
