/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Captures, packet by packet. libpcap reads them, but for the records of a plain pcap file, which are looked
 * at where they were read: to copy each of them twice would take longer than all that the core does with it.
 */
#ifndef FLOWML_CAPTURE_H
#define FLOWML_CAPTURE_H

#include <linux/types.h>
#include <pcap/pcap.h>

#include "stream.h"

#define WHY_LEN (PCAP_ERRBUF_SIZE + 64)

struct capture {
	struct stream stream;
	pcap_t *pcap;
	char *buffer; /* the window, below; behind it what libpcap reads through */
	int link;     /* DLT_...; see links.h */

	int in_place; /* the records are read here, not by libpcap */
	int swapped;  /* its numbers are in the other order */
	int micro;    /* its times are in microseconds */
	__u32 snapshot;
	size_t at, end; /* what was read and not looked at: buffer[at] to buffer[end - 1] */
	struct pcap_pkthdr header;
};

/*
 * Opens a capture; the descriptor stays the caller's, who has read `head_len` bytes of it already (up to
 * BYTES_AT_ONCE). 0, or -1 with the cause in `why`.
 */
int capture_open(struct capture *capture, int fd, int stop_fd, const __u8 *head, size_t head_len,
		 char why[WHY_LEN]);

/*
 * The next packet, which stays where it is until the one after it is asked for: 1; or 0 at the end; or -1
 * with the cause in `why`, or with an empty one if it was stopped.
 */
int capture_next(struct capture *capture, struct pcap_pkthdr **header, const __u8 **frame, char why[WHY_LEN]);

void capture_close(struct capture *capture);

#endif
