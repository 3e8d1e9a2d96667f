/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The link headers that captures have and interfaces do not: "any" (Linux cooked), tunnels (raw IP), the
 * loopback of the BSDs, PPP. Sources: the link-layer header types of tcpdump.org; RFC 1661 and 1662.
 */
#ifndef FLOWML_LINKS_H
#define FLOWML_LINKS_H

#include <pcap/dlt.h>

#include "parse.h"

#define SLL_LEN	       16
#define SLL2_LEN       20
#define MAC_LEN	       6
#define NULL_LEN       4
#define PPP_ADDRESS    0xff03 /* address and control: there or left out */
#define AF_INET_ANY    2      /* the same everywhere; that of IPv6 is not */
#define AF_INET6_LINUX 10
#define AF_INET6_BSD   24 /* NetBSD, OpenBSD */
#define AF_INET6_FREE  28 /* FreeBSD */
#define AF_INET6_MAC   30 /* macOS */
#define ETHERTYPE_NONE 0

#ifndef DLT_LINUX_SLL2
#define DLT_LINUX_SLL2 276
#endif

/* Whether captures of this link are read. */
static inline int link_is_known(int link)
{
	switch (link) {
	case DLT_EN10MB:
	case DLT_LINUX_SLL:
	case DLT_LINUX_SLL2:
	case DLT_RAW:
	case DLT_IPV4:
	case DLT_NULL:
	case DLT_LOOP:
	case DLT_PPP:
		return 1;
	}
	return 0;
}

/* Both cooked headers hold the sender's address and its length, in different places. */
static inline enum counter parse_cooked(struct cursor *cur, struct packet *pkt, __u32 len, __u32 length_at,
					__u32 length_size, __u32 address_at)
{
	const __u8 *cooked = cur->pos;
	__u32 length;

	if (cooked + len > cur->end)
		return COUNT_truncated;
	length = length_size == 2 ? host16(load16(cooked + length_at)) : cooked[length_at];
	pkt->no_mac = length != MAC_LEN;
	if (!pkt->no_mac)
		__builtin_memcpy(pkt->source_mac, cooked + address_at, MAC_LEN);
	cur->pos = cooked + len;
	return COUNT_tracked;
}

static inline enum counter parse_null(struct cursor *cur, __u16 *ethertype)
{
	const __u8 *at = cur->pos;
	__u32 family;

	if (at + NULL_LEN > cur->end)
		return COUNT_truncated;
	/* DLT_NULL is in the order of the machine that captured, DLT_LOOP in network order: families are
	 * small. */
	family = load32(at);
	if (family > 0xffff)
		family = __builtin_bswap32(family);
	switch (family) {
	case AF_INET_ANY:
		*ethertype = ETHERTYPE_IPV4;
		break;
	case AF_INET6_LINUX:
	case AF_INET6_BSD:
	case AF_INET6_FREE:
	case AF_INET6_MAC:
		*ethertype = ETHERTYPE_IPV6;
		break;
	}
	cur->pos = at + NULL_LEN;
	return COUNT_tracked;
}

static inline enum counter parse_ppp(struct cursor *cur, __u16 *ethertype)
{
	const __u8 *at = cur->pos;
	__u16 protocol;

	if (at + 2 > cur->end)
		return COUNT_truncated;
	if (host16(load16(at)) == PPP_ADDRESS)
		at += 2;
	if (at + 2 > cur->end)
		return COUNT_truncated;
	protocol = host16(load16(at));
	if (protocol == PPP_IPV4)
		*ethertype = ETHERTYPE_IPV4;
	else if (protocol == PPP_IPV6)
		*ethertype = ETHERTYPE_IPV6;
	cur->pos = at + 2;
	return COUNT_tracked;
}

/* As parse_ethernet(), for a packet of any link that is known. */
static inline enum counter parse_link(int link, struct cursor *cur, struct packet *pkt, __u16 *ethertype)
{
	const __u8 *frame = cur->pos;
	enum counter fate;

	if (link == DLT_EN10MB)
		return parse_ethernet(cur, pkt, ethertype);
	pkt->no_mac = 1;
	*ethertype = ETHERTYPE_NONE;
	switch (link) {
	case DLT_LINUX_SLL:
		fate = parse_cooked(cur, pkt, SLL_LEN, 4, 2, 6);
		if (fate == COUNT_tracked)
			*ethertype = host16(load16(frame + 14));
		return fate;
	case DLT_LINUX_SLL2:
		fate = parse_cooked(cur, pkt, SLL2_LEN, 11, 1, 12);
		if (fate == COUNT_tracked)
			*ethertype = host16(load16(frame));
		return fate;
	case DLT_NULL:
	case DLT_LOOP:
		return parse_null(cur, ethertype);
	case DLT_PPP:
		return parse_ppp(cur, ethertype);
	default: /* IP and nothing before it */
		if (frame + 1 > cur->end)
			return COUNT_truncated;
		*ethertype = frame[0] >> 4 == 6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
		return COUNT_tracked;
	}
}

#endif
