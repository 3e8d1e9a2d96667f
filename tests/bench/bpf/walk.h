/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A frame that becomes the next one by itself: BPF_PROG_TEST_RUN hands the same bytes to every run, changed
 * as the run before left them. So the sender's address is stepped from one number to the next, in an order
 * that no prefetcher follows, and every flow has its turn. What it costs every program here pays.
 */
#ifndef FLOWML_WALK_H
#define FLOWML_WALK_H

#include <linux/types.h>

#define WALK_SOURCE	 26	     /* where the IPv4 source address lies in the frame */
#define WALK_AT		 64	     /* behind the headers and the payload */
#define WALK_FIRST	 0x0a000000u /* 10.0.0.0: the flow of number 0 */
#define WALK_NUMBER_MASK 0xffffffu

/* In the frame, at WALK_AT: number = (number * multiplier + increment) & mask. */
struct walk {
	__u32 multiplier;
	__u32 increment;
	__u32 mask;
};

static __always_inline void walk_on(__u8 *frame, const __u8 *end)
{
	struct walk *walk = (struct walk *)(frame + WALK_AT);
	__u32 *source = (__u32 *)(frame + WALK_SOURCE);
	__u32 number;

	if ((const __u8 *)(walk + 1) > end)
		return;
	number = __builtin_bswap32(*source) * walk->multiplier + walk->increment;
	*source = __builtin_bswap32(WALK_FIRST | (number & walk->mask & WALK_NUMBER_MASK));
}

#endif
