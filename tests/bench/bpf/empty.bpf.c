/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What attaching anything at all costs an interface: programs that only pass. */
#include <uapi/linux/bpf.h>
#include <linux/bpf.h>

int empty_ingress(struct xdp_md *ctx)
{
	return XDP_PASS;
}

int empty_egress(struct __sk_buff *skb)
{
	return -1; /* TC_ACT_UNSPEC */
}
