/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Traffic at a given rate: an XDP program that is run on frames of its own (BPF_F_TEST_XDP_LIVE_FRAMES)
 * writes the next segment into each and sends it out of an interface. CONCURRENT connections take turns, each
 * of SEGMENTS segments, both directions in it, from SYN to RST.
 */
#define FLOWML_BPF 1
#include "parse.h"

#define CONCURRENT 1024
#define SEGMENTS   10
#define SPINS	   8000 /* readings of the clock, so that the loop has an end: some 200 us */

#define IPV4_AT	       14
#define TCP_AT	       34
#define FRAME_LEAST    54
#define CLIENTS	       0x0a000000u /* 10.0.0.0, and up */
#define CLIENTS_MASK   0xffffffu
#define SERVER	       0xc0000201u /* 192.0.2.1 */
#define CLIENT_PORT    40000
#define SERVER_PORT    443
#define FROM_RESPONDER 0x152 /* a bit for each segment */
#define TCP_PSH	       0x08

struct plan {
	__u64 next_ns;	   /* when the next segment is due; 0: at once */
	__u64 interval_ns; /* between two segments; 0: as fast as it goes */
	__u64 sent;
	__u32 ifindex;
	__u32 segments; /* of a connection; at least one */
};
BPF_ARRAY(plans, struct plan, 1);

static __always_inline __u8 flags_of(__u32 step)
{
	if (step == 0)
		return TCP_SYN;
	if (step == 1)
		return TCP_SYN | TCP_ACK;
	return step == SEGMENTS - 1 ? TCP_RST : TCP_ACK | TCP_PSH;
}

static __always_inline void wait_until(__u64 due)
{
	for (int i = 0; i < SPINS; i++) {
		if (bpf_ktime_get_ns() >= due)
			break;
	}
}

int generate(struct xdp_md *ctx)
{
	__u8 *frame = (__u8 *)(long)ctx->data;
	__u32 zero = 0, step, client, from, to;
	__u16 sport, dport;
	struct plan *plan = plans.lookup(&zero);
	__u64 number, turn;

	if (!plan || !plan->segments || frame + FRAME_LEAST > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	number = plan->sent++;
	turn = number / CONCURRENT;
	step = turn % plan->segments;
	client = CLIENTS | ((turn / plan->segments * CONCURRENT + number % CONCURRENT) & CLIENTS_MASK);
	from = FROM_RESPONDER >> step & 1 ? SERVER : client;
	to = from == SERVER ? client : SERVER;
	sport = from == SERVER ? SERVER_PORT : CLIENT_PORT;
	dport = from == SERVER ? CLIENT_PORT : SERVER_PORT;
	*(__u32 *)(frame + IPV4_AT + 12) = host32(from);
	*(__u32 *)(frame + IPV4_AT + 16) = host32(to);
	*(__u16 *)(frame + TCP_AT) = host16(sport);
	*(__u16 *)(frame + TCP_AT + 2) = host16(dport);
	*(__u32 *)(frame + TCP_AT + 4) = host32(1 + step);
	frame[TCP_AT + 13] = flags_of(step);
	if (plan->interval_ns) {
		if (!plan->next_ns)
			plan->next_ns = bpf_ktime_get_ns();
		wait_until(plan->next_ns);
		plan->next_ns += plan->interval_ns;
	}
	return bpf_redirect(plan->ifindex, 0);
}
