/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * From frame bytes to one TCP segment: pure functions over a cursor. No maps, no clock.
 *
 * Each parser checks that what it reads is there, moves the cursor behind it, and answers COUNT_tracked,
 * or the counter that says why this packet is not looked at further.
 */
#ifndef FLOWML_PARSE_H
#define FLOWML_PARSE_H

#include "flow.h"

/* EtherTypes and IP protocols are different things: the prefix says which one a number is. */
#define ETHERTYPE_IPV4	 0x0800
#define ETHERTYPE_IPV6	 0x86dd
#define ETHERTYPE_8021Q	 0x8100
#define ETHERTYPE_8021AD 0x88a8
#define PROTOCOL_TCP	 6

#define ETHERNET_LEN	14
#define VLAN_TAG_LEN	4
#define VLAN_TAGS_MAX	2
#define IPV4_MIN_LEN	20
#define TCP_MIN_LEN	20
#define HEADERS_MAX	142 /* Ethernet, two tags, the longest IPv4 and TCP headers */
#define PAYLOAD_AT_MASK 0xff

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
	__u32 size;	   /* IP total length; for a GSO buffer what its segments add up to */
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

/* BPF reads unaligned words as they lie; C on the CPU may not. */
static __always_inline __u16 load16(const __u8 *at)
{
#ifdef FLOWML_BPF
	return *(const __u16 *)at;
#else
	__u16 value;
	__builtin_memcpy(&value, at, sizeof(value));
	return value;
#endif
}

static __always_inline __u32 load32(const __u8 *at)
{
#ifdef FLOWML_BPF
	return *(const __u32 *)at;
#else
	__u32 value;
	__builtin_memcpy(&value, at, sizeof(value));
	return value;
#endif
}

/* Network order to the order of this machine. */
static __always_inline __u16 host16(__u16 network)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return __builtin_bswap16(network);
#else
	return network;
#endif
}

static __always_inline __u32 host32(__u32 network)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return __builtin_bswap32(network);
#else
	return network;
#endif
}

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

/* VLAN tags, up to the IPv4 header. */
static __always_inline enum counter parse_tags(struct cursor *cur, __u16 ethertype)
{
	for (int tags = 0; tags < VLAN_TAGS_MAX; tags++) {
		const __u8 *tag = cur->pos;

		if (ethertype != ETHERTYPE_8021Q && ethertype != ETHERTYPE_8021AD)
			break;
		if (tag + VLAN_TAG_LEN > cur->end)
			return COUNT_truncated;
		ethertype = host16(load16(tag + 2));
		cur->pos = tag + VLAN_TAG_LEN;
	}
	if (ethertype == ETHERTYPE_IPV4)
		return COUNT_tracked;
	return ethertype == ETHERTYPE_IPV6 ? COUNT_ipv6 : COUNT_not_ip;
}

/* Puts the smaller endpoint first. Any total order does; this one compares the bytes as loaded. */
static __always_inline void set_key(struct packet *pkt, __be32 saddr, __be32 daddr, __be16 sport,
				    __be16 dport)
{
	pkt->sender_is_high = saddr > daddr || (saddr == daddr && sport > dport);
	pkt->key.low_addr = pkt->sender_is_high ? daddr : saddr;
	pkt->key.high_addr = pkt->sender_is_high ? saddr : daddr;
	pkt->key.low_port = pkt->sender_is_high ? dport : sport;
	pkt->key.high_port = pkt->sender_is_high ? sport : dport;
}

/*
 * IPv4 and TCP. `gso_len` is 0, or for a GSO buffer the bytes from the IP header on: a buffer of 64 KiB
 * or more carries a total length of 0 in its header (BIG TCP).
 */
static __always_inline enum counter parse_ipv4_tcp(struct cursor *cur, struct packet *pkt, __u32 gso_len)
{
	const __u8 *ip = cur->pos;
	const __u8 *tcp;
	__u32 ip_len, tcp_len, fragment;

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
	fragment = host16(load16(ip + 6)) & 0x1fff;
	if (fragment)
		return COUNT_fragment;

	tcp = ip + ip_len;
	if (pkt->size < ip_len + TCP_MIN_LEN)
		return COUNT_malformed;
	if (tcp + TCP_MIN_LEN > cur->end)
		return COUNT_truncated;
	tcp_len = (tcp[12] >> 4) * 4;
	if (tcp_len < TCP_MIN_LEN || pkt->size < ip_len + tcp_len)
		return COUNT_malformed;
	if (tcp + tcp_len > cur->end)
		return COUNT_truncated;

	set_key(pkt, load32(ip + 12), load32(ip + 16), load16(tcp), load16(tcp + 2));
	pkt->sequence = host32(load32(tcp + 4));
	pkt->flags = tcp[13];
	pkt->headers_len = ip_len + tcp_len;
	pkt->payload_len = pkt->size - pkt->headers_len;
	pkt->segments = 1;
	cur->pos = tcp + tcp_len;
	return COUNT_tracked;
}

/* Everything behind the link header of a frame; `frame_len` and `gso_size` are a GSO buffer's, else 0. */
static __always_inline enum counter parse_network(const __u8 *frame, struct cursor *cur, struct packet *pkt,
						  __u16 ethertype, __u32 frame_len, __u32 gso_size)
{
	enum counter fate = parse_tags(cur, ethertype);

	if (fate != COUNT_tracked)
		return fate;
	fate = parse_ipv4_tcp(cur, pkt, gso_size ? frame_len - (__u32)(cur->pos - frame) : 0);
	pkt->payload_at = cur->pos - frame;
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
	__u32 at = pkt->payload_at & PAYLOAD_AT_MASK; /* for the verifier: it is below that anyway */
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
