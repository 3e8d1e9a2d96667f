/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * From frame bytes to one TCP segment: pure functions over a cursor. No maps, no clock.
 *
 * Each parser checks that what it reads is there, moves the cursor behind it, and answers COUNT_tracked,
 * or the counter that says why this packet is not looked at further.
 */
#ifndef FLOWML_PARSE_H
#define FLOWML_PARSE_H

#include "bytes.h"
#include "flow.h"
#include "key.h"

/* EtherTypes and IP protocols are different things: the prefix says which one a number is. */
#define ETHERTYPE_IPV4	 0x0800
#define ETHERTYPE_IPV6	 0x86dd
#define ETHERTYPE_8021Q	 0x8100
#define ETHERTYPE_8021AD 0x88a8
#define ETHERTYPE_QINQ	 0x9100 /* what 802.1ad was before it was one */
#define ETHERTYPE_PPPOE	 0x8864 /* its sessions; RFC 2516 */
#define PPP_IPV4	 0x0021
#define PPP_IPV6	 0x0057
#define PROTOCOL_TCP	 6

/* IPv6 extension headers: RFC 8200, 4302 (authentication), 6275 (mobility), 7401 (HIP), 5533 (shim6). */
#define EXTENSION_HOPS		 0
#define EXTENSION_ROUTING	 43
#define EXTENSION_FRAGMENT	 44
#define EXTENSION_AUTHENTICATION 51
#define EXTENSION_DESTINATION	 60
#define EXTENSION_MOBILITY	 135
#define EXTENSION_HIP		 139
#define EXTENSION_SHIM6		 140
#define OPTION_JUMBO		 0xc2 /* RFC 2675 */

#define ETHERNET_LEN	   14
#define VLAN_TAG_LEN	   4
#define VLAN_TAGS_MAX	   2
#define PPPOE_LEN	   8	  /* with the protocol of PPP */
#define PPPOE_SESSION	   0x1100 /* version 1, type 1, code 0 */
#define IPV4_MIN_LEN	   20
#define IPV6_LEN	   40
#define EXTENSION_MIN_LEN  8
#define EXTENSIONS_MAX	   8	/* in a row that are looked behind */
#define EXTENSIONS_LEN_MAX 1024 /* of all of them */
#define TCP_MIN_LEN	   20

/* Ethernet, two tags, PPPoE, and the longest headers of IP and TCP; and a power of two above any place among
 * them. */
#if FLOWML_WIDE_KEYS
#define HEADERS_MAX	 1154
#define PAYLOAD_AT_BELOW 2048
#else
#define HEADERS_MAX	 150
#define PAYLOAD_AT_BELOW 256
#endif

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* The bytes not yet parsed. */
struct cursor {
	const __u8 *pos;
	const __u8 *end;
};

/* One TCP segment. Valid only after parse_packet() answered COUNT_tracked. */
struct packet {
	struct flow_key key;
	__u32 size;	   /* of the IP packet; for a GSO buffer what its segments add up to */
	__u32 headers_len; /* IP and TCP headers */
	__u32 payload_at;  /* where the payload begins, from the frame's first byte */
	__u32 payload_len; /* TCP payload, from the lengths in the headers */
	__u32 segments;	   /* 1, or what a GSO buffer will be on the wire */
	__u32 sequence;
	__u8 source_mac[6];
	__u8 flags;
	__u8 ttl;
	__u8 sender_is_high; /* 1: sent by the key's high end */
	__u8 no_mac;	     /* 1: the link has none; never so on Ethernet */
};

/* The link header: where the frame comes from, and what it carries. */
static __always_inline enum counter parse_ethernet(struct cursor *cur, struct packet *pkt, __u16 *ethertype)
{
	const __u8 *eth = cur->pos;

	if (eth + ETHERNET_LEN > cur->end)
		return COUNT_truncated;
	__builtin_memcpy(pkt->source_mac, eth + 6, sizeof(pkt->source_mac));
	*ethertype = host16(load16(eth + 12));
	cur->pos = eth + ETHERNET_LEN;
	return COUNT_tracked;
}

/* PPPoE, up to the IP header. */
static __always_inline enum counter parse_pppoe(struct cursor *cur, __u16 *ethertype)
{
	const __u8 *session = cur->pos;
	__u16 protocol;

	*ethertype = 0;
	if (session + PPPOE_LEN > cur->end)
		return COUNT_truncated;
	protocol = host16(load16(session + 6));
	if (host16(load16(session)) == PPPOE_SESSION && protocol == PPP_IPV4)
		*ethertype = ETHERTYPE_IPV4;
	else if (host16(load16(session)) == PPPOE_SESSION && protocol == PPP_IPV6)
		*ethertype = ETHERTYPE_IPV6;
	cur->pos = session + PPPOE_LEN;
	return COUNT_tracked;
}

/* VLAN tags and PPPoE, up to the IP header, whose kind they tell. */
static __always_inline enum counter parse_tags(struct cursor *cur, __u16 *ethertype)
{
	for (int tags = 0; tags < VLAN_TAGS_MAX; tags++) {
		const __u8 *tag = cur->pos;

		if (*ethertype != ETHERTYPE_8021Q && *ethertype != ETHERTYPE_8021AD &&
		    *ethertype != ETHERTYPE_QINQ)
			break;
		if (tag + VLAN_TAG_LEN > cur->end)
			return COUNT_truncated;
		*ethertype = host16(load16(tag + 2));
		cur->pos = tag + VLAN_TAG_LEN;
	}
	return *ethertype == ETHERTYPE_PPPOE ? parse_pppoe(cur, ethertype) : COUNT_tracked;
}

/* ---- IP and TCP ---- */

/*
 * TCP, `ip_len` bytes behind the IP header's first, of which `phantom` will not be on the wire. The sizes in
 * the headers are looked at first, then whether the bytes are there.
 */
static __always_inline enum counter parse_tcp(struct cursor *cur, struct packet *pkt, __u32 version,
					      __u32 ip_len, __u32 phantom)
{
	const __u8 *ip = cur->pos;
	const __u8 *tcp = ip + ip_len;
	__u32 tcp_len, addresses = version == 4 ? 12 : 8, address_len = version == 4 ? 4 : 16;

	if (pkt->size < ip_len - phantom + TCP_MIN_LEN)
		return COUNT_malformed;
	if (tcp + TCP_MIN_LEN > cur->end)
		return COUNT_truncated;
	tcp_len = (tcp[12] >> 4) * 4;
	if (tcp_len < TCP_MIN_LEN || pkt->size < ip_len - phantom + tcp_len)
		return COUNT_malformed;
	if (tcp + tcp_len > cur->end)
		return COUNT_truncated;

	pkt->sender_is_high = set_key(&pkt->key, ip + addresses, ip + addresses + address_len, version,
				      load16(tcp), load16(tcp + 2));
	pkt->sequence = host32(load32(tcp + 4));
	pkt->flags = tcp[13];
	pkt->headers_len = ip_len - phantom + tcp_len;
	pkt->payload_len = pkt->size - pkt->headers_len;
	pkt->segments = 1;
	cur->pos = tcp + tcp_len;
	return COUNT_tracked;
}

/*
 * IPv4. `gso_len` is 0, or for a GSO buffer the bytes from the IP header on: a buffer of 64 KiB or more
 * carries a total length of 0 in its header (BIG TCP).
 */
static __always_inline enum counter parse_ipv4(struct cursor *cur, struct packet *pkt, __u32 gso_len)
{
	const __u8 *ip = cur->pos;
	__u32 ip_len;

	if (ip + IPV4_MIN_LEN > cur->end)
		return COUNT_truncated;
	ip_len = (ip[0] & 0x0f) * 4;
	if (ip[0] >> 4 != 4 || ip_len < IPV4_MIN_LEN)
		return COUNT_malformed;
	pkt->size = host16(load16(ip + 2));
	if (!pkt->size)
		pkt->size = gso_len;
	if (pkt->size < ip_len)
		return COUNT_malformed;
	pkt->ttl = ip[8];
	if (ip[9] != PROTOCOL_TCP)
		return COUNT_not_tcp;
	if (host16(load16(ip + 6)) & 0x1fff)
		return COUNT_fragment;
	return parse_tcp(cur, pkt, 4, ip_len, 0);
}

static __always_inline int is_extension(__u8 header)
{
	__u64 below_64 = 1ULL << EXTENSION_HOPS | 1ULL << EXTENSION_ROUTING | 1ULL << EXTENSION_FRAGMENT |
			 1ULL << EXTENSION_AUTHENTICATION | 1ULL << EXTENSION_DESTINATION;
	__u64 from_128 = 1ULL << (EXTENSION_MOBILITY - 128) | 1ULL << (EXTENSION_HIP - 128) |
			 1ULL << (EXTENSION_SHIM6 - 128);
	__u64 quarter = header < 64 ? below_64 : header < 128 ? 0 : header < 192 ? from_128 : 0;

	return quarter >> (header & 63) & 1;
}

/* IPv6; `gso_len` as above: BIG TCP puts a jumbo option first, which segmentation takes away again. */
static __always_inline enum counter parse_ipv6(struct cursor *cur, struct packet *pkt, __u32 gso_len)
{
	const __u8 *ip = cur->pos;
	__u32 ip_len = IPV6_LEN, phantom = 0, payload_len;
	__u8 next;

	if (ip + IPV6_LEN > cur->end)
		return COUNT_truncated;
	if (ip[0] >> 4 != 6)
		return COUNT_malformed;
	payload_len = host16(load16(ip + 4));
	pkt->size = payload_len || !gso_len ? IPV6_LEN + payload_len : gso_len;
	pkt->ttl = ip[7];
	next = ip[6];
	for (int i = 0; i < EXTENSIONS_MAX && next != PROTOCOL_TCP; i++) {
		const __u8 *extension = ip + ip_len;
		__u32 len;

		if (!is_extension(next))
			return COUNT_not_tcp;
		if (pkt->size < ip_len - phantom + EXTENSION_MIN_LEN)
			return COUNT_malformed;
		if (extension + EXTENSION_MIN_LEN > cur->end)
			return COUNT_truncated;
		len = (extension[1] + 1) * 8;
		if (next == EXTENSION_FRAGMENT) {
			if (host16(load16(extension + 2)) & 0xfff8)
				return COUNT_fragment;
			len = EXTENSION_MIN_LEN;
		} else if (next == EXTENSION_AUTHENTICATION) {
			len = (extension[1] + 2) * 4;
		} else if (next == EXTENSION_HOPS && !payload_len && gso_len &&
			   extension[2] == OPTION_JUMBO) {
			phantom = len;
			pkt->size -= len;
		}
		next = extension[0];
		ip_len += len;
		if (ip_len > IPV6_LEN + EXTENSIONS_LEN_MAX)
			return COUNT_not_tcp;
		ip_len = below(ip_len, PAYLOAD_AT_BELOW, load16(extension));
	}
	return next == PROTOCOL_TCP ? parse_tcp(cur, pkt, 6, ip_len, phantom) : COUNT_not_tcp;
}

/* Everything behind the link header of a frame; `frame_len` and `gso_size` are a GSO buffer's, else 0. */
static __always_inline enum counter parse_network(const __u8 *frame, struct cursor *cur, struct packet *pkt,
						  __u16 ethertype, __u32 frame_len, __u32 gso_size)
{
	enum counter fate = parse_tags(cur, &ethertype);
	__u32 gso_len = gso_size ? frame_len - (__u32)(cur->pos - frame) : 0;

	if (fate != COUNT_tracked)
		return fate;
	if (ethertype == ETHERTYPE_IPV4)
		fate = FLOWML_IP == 6 ? COUNT_ipv4 : parse_ipv4(cur, pkt, gso_len);
	else if (ethertype == ETHERTYPE_IPV6)
		fate = FLOWML_IP == 4 ? COUNT_ipv6 : parse_ipv6(cur, pkt, gso_len);
	else
		fate = COUNT_not_ip;
	if (fate == COUNT_tracked)
		pkt->payload_at = below(cur->pos - frame, PAYLOAD_AT_BELOW, pkt->key.low_port);
	return fate;
}

static __always_inline enum counter parse_packet(struct cursor *cur, struct packet *pkt, __u32 frame_len,
						 __u32 gso_size)
{
	const __u8 *frame = cur->pos;
	__u16 ethertype = 0;
	enum counter fate = parse_ethernet(cur, pkt, &ethertype);

	if (fate != COUNT_tracked)
		return fate;
	return parse_network(frame, cur, pkt, ethertype, frame_len, gso_size);
}

/*
 * A GSO buffer is one packet to TC and many on the wire. Segmentation repeats the headers for each; a
 * buffer from a tap device may not say how many segments it is, only how large they are.
 */
static __always_inline void expand_gso(struct packet *pkt, __u32 gso_segs, __u32 gso_size)
{
	if (!gso_segs)
		gso_segs = (pkt->payload_len + gso_size - 1) / gso_size;
	if (gso_segs > 1) {
		pkt->segments = gso_segs;
		pkt->size += (gso_segs - 1) * pkt->headers_len;
	}
}

/*
 * The first payload bytes, in a word: an array would be indexed, and the verifier is wary of that. Nor is
 * the length counted while reading, or the verifier would follow each possible length on its own.
 */
struct head {
	__u64 bytes; /* the first in the lowest eight bits; meaningless above `len` */
	__u32 len;   /* up to HELLO_BYTES */
};

static __always_inline struct head payload_head(const __u8 *frame, const __u8 *end, const struct packet *pkt)
{
	__u32 at = pkt->payload_at & (PAYLOAD_AT_BELOW - 1); /* for the verifier: it is below that anyway */
	const __u8 *payload = frame + at;
	struct head head = {.len = HELLO_BYTES};

	if (head.len > pkt->payload_len)
		head.len = pkt->payload_len;
	if (payload + head.len > end)
		head.len = payload < end ? end - payload : 0;
	for (int i = 0; i < HELLO_BYTES; i++) {
		if (payload + i + 1 > end)
			break;
		head.bytes |= (__u64)payload[i] << (8 * i);
	}
	return head;
}

#endif
