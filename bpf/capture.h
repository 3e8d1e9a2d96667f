/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Captures, packet by packet: libpcap reads pcap and pcapng; below it a stream of bytes that undoes gzip
 * and zstd, waits for a pipe without missing a stop, and knows how far it has come.
 */
#ifndef FLOWML_CAPTURE_H
#define FLOWML_CAPTURE_H

#include <stdio.h>

#include <linux/types.h>
#include <pcap/pcap.h>
#include <zlib.h>
#include <zstd.h>

#define BYTES_AT_ONCE (256 * 1024)
#define WHY_LEN	      (PCAP_ERRBUF_SIZE + 64)

enum coding { CODING_PLAIN, CODING_GZIP, CODING_ZSTD };

/* The bytes of a file or pipe, decoded. */
struct stream {
	int fd;
	int stop_fd; /* readable once reading is to end; -1: never */
	int regular;
	enum coding coding;
	__u64 taken; /* bytes read from the descriptor */
	__u8 *raw;   /* what was read and not decoded yet: raw[at] to raw[end - 1] */
	size_t at, end;
	int stopped;
	int inside;  /* of a compressed stream that is not complete */
	int damaged; /* its next bytes cannot be decoded */
	z_stream gzip;
	ZSTD_DStream *zstd;
	size_t asked;	     /* how many bytes more its decoder wants to get on */
	const char *trouble; /* what libpcap cannot know; null: nothing */
};

struct capture {
	struct stream stream;
	pcap_t *pcap;
	char *buffer; /* libpcap reads through it */
	int link;     /* DLT_...; see links.h */
	int is_pcap;  /* of the classic format, not pcapng */
};

/*
 * Opens a capture; the descriptor stays the caller's, who has read `head_len` bytes of it already (up to
 * BYTES_AT_ONCE). 0, or -1 with the cause in `why`.
 */
int capture_open(struct capture *capture, int fd, int stop_fd, const __u8 *head, size_t head_len,
		 char why[WHY_LEN]);

/* The next packet: 1; or 0 at the end; or -1 with the cause in `why`, or with an empty one if it was stopped.
 */
int capture_next(struct capture *capture, struct pcap_pkthdr **header, const __u8 **frame, char why[WHY_LEN]);

void capture_close(struct capture *capture);

#endif
