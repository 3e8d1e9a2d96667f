/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The core on the CPU: a capture in, finished flows out. No root, one thread.
 *
 * Everything below the first line of dashes is read by collector/build_core.py too: plain declarations.
 */
#ifndef FLOWML_REPLAY_H
#define FLOWML_REPLAY_H

#include <stddef.h>

#include "flow.h"

/* ------------------------------------------------------------------------------------------------ */

struct replay_settings {
	__u32 max_connections;
	__u32 tls_only;
	__u32 ip; /* 4, 6 or 46 */
	__u32 reserved;
	__u64 establish_timeout_ns;
	__u64 inactivity_timeout_ns;
};

enum replay_state {
	REPLAY_READING,
	REPLAY_CLOSING, /* the capture is over: what is still open is being ended */
	REPLAY_DONE,
};

/* Everything there is to know from outside. */
struct replay_status {
	__u32 state;	   /* enum replay_state */
	__u32 stopped;	   /* 1: by the stop descriptor */
	__u64 bytes_taken; /* of the file, before decoding */
	__u64 packets;	   /* read so far */
	__u64 backward;	   /* whose time is before an earlier packet's */
	__u64 impossible; /* whose time is before 1970 or after 2100, and was taken as the nearest possible */
	__u64 hellos_cut; /* segments cut off before the bytes that tell a ClientHello */
	__u64 latest_ns;  /* the latest time of any packet, in the clock of the flows */
	__u64 time_ns;	  /* of the last packet, in the clock of the flows */
	__u64 swept_ns;	  /* when the table was swept before the last packet; 0: it was not */
	const __u8 *frame; /* the last packet as captured; valid until the next is read */
	__u32 frame_len;
	__u32 link_len;	    /* bytes of its link header; meaningless if that is cut short */
	__u32 ethertype;    /* what its link header says that it carries */
	__u8 source_mac[6]; /* zeros where the link has none */
};

struct replay; /* one capture on its way through a table of flows */

/*
 * Starts to read a capture from a descriptor, which stays the caller's, who has read `head_len` bytes of it
 * already (up to 256 KiB). A readable `stop_fd` (-1: none) ends it. Null if there is no memory for the table.
 * What is no capture is one that ends at once, in trouble.
 */
struct replay *replay_open(int fd, int stop_fd, const char *head, size_t head_len,
			   const struct replay_settings *settings);

/*
 * Goes on for `packets` more packets at most, and while `flows` has room. Answers how many flows were
 * written; zero is not the end, which `status.state` tells. One that fails to read goes on to its end
 * with what was read until there.
 */
long replay_read(struct replay *replay, struct flow *flows, long room, long packets);

const struct replay_status *replay_status(const struct replay *replay);

/* Why reading ended before the end of the file; empty if it did not. */
const char *replay_trouble(const struct replay *replay);

/* The counters in the order of their names, and these names, separated by spaces. */
const __u64 *replay_counters(const struct replay *replay);
const char *replay_counter_names(void);

void replay_close(struct replay *replay);

/* ------------------------------------------------------------------------------------------------ */

#endif
