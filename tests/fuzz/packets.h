/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * How packets lie in an input of the packets target: read by the target, changed by its mutator, written by
 * tests/fuzz/seeds.py.
 */
#ifndef FLOWML_FUZZ_PACKETS_H
#define FLOWML_FUZZ_PACKETS_H

#include <stdint.h>

#include <pcap/dlt.h>

#include "../../bpf/links.h"

#define SETTINGS_LEN 4 /* slots; filter and timeouts; room and batch; seed of the hash */
#define PACKET_LEN   3 /* link and what happens before; time step; length of the frame */
#define FRAME_MAX    255

#define PACKET_LINK	  0x07
#define PACKET_GSO	  0x10 /* it is looked at as a buffer of many segments, too */
#define PACKET_IMPOSSIBLE 0x20 /* at a time that cannot be */
#define PACKET_SWEEP	  0x40 /* the table is swept before */
#define PACKET_RING_FULL  0x80 /* nothing can be delivered until the next packet */

static const int LINKS[PACKET_LINK + 1] = {DLT_EN10MB, DLT_LINUX_SLL, DLT_LINUX_SLL2, DLT_RAW,
					   DLT_IPV4,   DLT_NULL,      DLT_LOOP,	      DLT_PPP};

struct packet_about {
	__u8 link; /* index into LINKS */
	__u8 gso, impossible, sweep, ring_full;
	__u8 step;
	const __u8 *frame;
	__u32 len; /* less than it says where the input ends */
};

/* The packet that begins at `at`; 0 if there is none. */
static inline int packet_at(const __u8 *at, const __u8 *end, struct packet_about *packet)
{
	if (end - at < PACKET_LEN)
		return 0;
	packet->link = at[0] & PACKET_LINK;
	packet->gso = !!(at[0] & PACKET_GSO);
	packet->impossible = !!(at[0] & PACKET_IMPOSSIBLE);
	packet->sweep = !!(at[0] & PACKET_SWEEP);
	packet->ring_full = !!(at[0] & PACKET_RING_FULL);
	packet->step = at[1];
	packet->frame = at + PACKET_LEN;
	packet->len = at[2] < end - packet->frame ? at[2] : end - packet->frame;
	return 1;
}

#endif
