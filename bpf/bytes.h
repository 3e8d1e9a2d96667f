/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Words out of packets: unaligned, in network order, and not too well known to the verifier. */
#ifndef FLOWML_BYTES_H
#define FLOWML_BYTES_H

#include <linux/types.h>

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

/*
 * The same value, but below a power of two is all that the verifier knows of it: else it would follow each
 * number of tags and each length of a header on its own through all that comes after.
 */
static __always_inline __u32 below(__u32 value, __u32 power, __u16 anything)
{
#ifdef FLOWML_BPF
	__u64 word = value, noise = anything;

	asm volatile("%0 ^= %1" : "+r"(word) : "r"(noise));
	asm volatile("%0 ^= %1" : "+r"(word) : "r"(noise));
	return word & (power - 1);
#else
	(void)power, (void)anything;
	return value;
#endif
}

#endif
