/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The key of a flow: which of two endpoints comes first, and how it lies in the flow itself. Any total order
 * does; this one compares the words as loaded.
 */
#ifndef FLOWML_KEY_H
#define FLOWML_KEY_H

#include "bytes.h"
#include "flow.h"

#define MAPPED __builtin_bswap32(0x0000ffff) /* the third word of ::ffff:a.b.c.d, in network order */

#if FLOWML_WIDE_KEYS

/* Half an address, as two words. */
static __always_inline __u64 half(const __be32 *words)
{
	return (__u64)words[0] << 32 | words[1];
}

static __always_inline void set_address(__be32 to[4], const __u8 *at, __u32 version)
{
	for (int i = 0; i < 4; i++)
		to[i] = version == 6 ? load32(at + 4 * i) : i == 3 ? load32(at) : i == 2 ? MAPPED : 0;
}

/* The key of a packet from one endpoint to another. Answers whether the sender is its high end. */
static __always_inline int set_key(struct flow_key *key, const __u8 *saddr, const __u8 *daddr, __u32 version,
				   __be16 sport, __be16 dport)
{
	__be32 source[4], destination[4];
	int high;

	set_address(source, saddr, version);
	set_address(destination, daddr, version);
	if (half(source) != half(destination))
		high = half(source) > half(destination);
	else if (half(source + 2) != half(destination + 2))
		high = half(source + 2) > half(destination + 2);
	else
		high = sport > dport;
	for (int i = 0; i < 4; i++) {
		key->low_addr[i] = high ? destination[i] : source[i];
		key->high_addr[i] = high ? source[i] : destination[i];
	}
	key->low_port = high ? dport : sport;
	key->high_port = high ? sport : dport;
	key->ip_version = version;
	return high;
}

static __always_inline void set_ends(struct flow *flow, const struct flow_key *key)
{
	__builtin_memcpy(&flow->ends, key, sizeof(flow->ends));
	flow->ip_version = key->ip_version;
}

static __always_inline struct flow_key flow_key_of(const struct flow *flow)
{
	struct flow_key key = {.ip_version = flow->ip_version};

	__builtin_memcpy(&key, &flow->ends, sizeof(flow->ends));
	return key;
}

#else

/* The key of a packet from one endpoint to another. Answers whether the sender is its high end. */
static __always_inline int set_key(struct flow_key *key, const __u8 *saddr, const __u8 *daddr, __u32 version,
				   __be16 sport, __be16 dport)
{
	__be32 source = load32(saddr), destination = load32(daddr);
	int high = source > destination || (source == destination && sport > dport);

	(void)version; /* 4 */
	key->low_addr = high ? destination : source;
	key->high_addr = high ? source : destination;
	key->low_port = high ? dport : sport;
	key->high_port = high ? sport : dport;
	return high;
}

static __always_inline void set_ends(struct flow *flow, const struct flow_key *key)
{
	struct flow_ends *ends = &flow->ends;

	ends->low_addr[0] = ends->low_addr[1] = ends->high_addr[0] = ends->high_addr[1] = 0;
	ends->low_addr[2] = ends->high_addr[2] = MAPPED;
	ends->low_addr[3] = key->low_addr;
	ends->high_addr[3] = key->high_addr;
	ends->low_port = key->low_port;
	ends->high_port = key->high_port;
	flow->ip_version = 4;
}

static __always_inline struct flow_key flow_key_of(const struct flow *flow)
{
	const struct flow_ends *ends = &flow->ends;

	return (struct flow_key){
		.low_addr = ends->low_addr[3],
		.high_addr = ends->high_addr[3],
		.low_port = ends->low_port,
		.high_port = ends->high_port,
	};
}

#endif

/* Without a branch for each word, which the verifier would follow in all their combinations. */
static __always_inline int has_key(const struct flow *flow, const struct flow_key *key)
{
	struct flow_key own = flow_key_of(flow);
	const __u32 *ours = (const __u32 *)&own, *theirs = (const __u32 *)key;
	__u32 differences = 0;

	for (unsigned int i = 0; i < sizeof(own) / sizeof(*ours); i++)
		differences |= ours[i] ^ theirs[i];
	return differences == 0;
}

#endif
