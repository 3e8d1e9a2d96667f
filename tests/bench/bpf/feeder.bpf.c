/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Finished flows, as the core would put them into its ring, out of an array that user space filled with real
 * ones; and a plain hash of the same keys and values, for BCC to iterate over.
 */
#define FLOWML_BPF 1
#include "flow.h"

#define MMAPABLE (1U << 10) /* BPF_F_MMAPABLE */

BPF_F_TABLE("array", __u32, struct flow, rows, ROWS, MMAPABLE);
BPF_ARRAY(at, __u32, 1);
BPF_RINGBUF_OUTPUT(finished, FLOWML_RING_BYTES / 4096);
BPF_F_TABLE("hash", struct flow_key, struct flow, plain, ROWS, 0);

/* The next row into the ring: as many as it is run. */
int feed(struct __sk_buff *skb)
{
	__u32 zero = 0, number;
	__u32 *next = at.lookup(&zero);
	struct flow *row;

	if (!next)
		return 1;
	number = (*next)++ % ROWS;
	row = rows.lookup(&number);
	if (!row)
		return 1;
	return finished.ringbuf_output(row, sizeof(*row), 0) != 0;
}
