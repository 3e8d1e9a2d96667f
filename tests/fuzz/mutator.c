/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Changes an input of the packets target packet by packet, and often such that TCP still makes sense of it.
 * Bytes changed at random would hardly ever give the answer to a SYN, or the FIN that ends a connection.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#include "packets.h"

#define PACKETS_MAX 256

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
				 uint8_t *out, size_t max_size, unsigned int seed);

/* A SYN; TCP finds its other segments from it. */
static const __u8 SYN[] = {2,	 0, 0,	0,  0,	  2,	   2,	 0,    0,    0,	   0, 1, 8,  0,
			   0x45, 0, 0,	40, 0,	  0,	   0,	 0,    64,   6,	   0, 0, 10, 0,
			   0,	 1, 10, 0,  0,	  2,	   0x9c, 0x40, 0x01, 0xbb, 0, 0, 0,  0,
			   0,	 0, 0,	0,  0x50, TCP_SYN, 0xff, 0xff, 0,    0,	   0, 0};

static const __u8 HELLO[] = {22, 3, 1, 0, 16, 1};

static const __u8 FLAGS[] = {
	TCP_SYN, TCP_SYN | TCP_ACK, TCP_ACK, TCP_ACK, TCP_FIN | TCP_ACK, TCP_FIN, TCP_SYN | TCP_FIN, TCP_RST,
};

/* The packets of an input, and random numbers that its seed decides. */
static struct {
	__u8 *data;
	size_t size, max;
	size_t at[PACKETS_MAX + 1]; /* and the end */
	__u32 count;
	__u64 random;
} now;

static __u32 pick(__u32 below)
{
	now.random = now.random * 6364136223846793005ULL + 1442695040888963407ULL;
	return below ? (now.random >> 33) % below : 0;
}

static void find_packets(void)
{
	struct packet_about packet;
	size_t at = SETTINGS_LEN;

	for (now.count = 0; now.count < PACKETS_MAX; now.count++) {
		now.at[now.count] = at;
		if (!packet_at(now.data + at, now.data + now.size, &packet))
			break;
		at = packet.frame + packet.len - now.data;
	}
	now.at[now.count] = at;
}

/* Bytes in place of others; nothing happens if there is no room. */
static void splice(size_t at, size_t old_len, const __u8 *with, size_t with_len)
{
	__u8 copy[PACKET_LEN + FRAME_MAX];

	if (now.size - old_len + with_len > now.max || with_len > sizeof(copy))
		return;
	memcpy(copy, with, with_len);
	memmove(now.data + at + with_len, now.data + at + old_len, now.size - at - old_len);
	memcpy(now.data + at, copy, with_len);
	now.size += with_len - old_len;
}

/* The frame of a packet in place of what it is; its length says so. */
static void set_frame(size_t at, size_t old_len, const __u8 *frame, __u8 len)
{
	size_t before = now.size;

	splice(at + PACKET_LEN, old_len, frame, len);
	if (len == old_len || now.size != before)
		now.data[at + 2] = len;
}

static void insert_syn(size_t at)
{
	__u8 packet[PACKET_LEN + sizeof(SYN)] = {0, pick(16), sizeof(SYN)};

	memcpy(packet + PACKET_LEN, SYN, sizeof(SYN));
	packet[PACKET_LEN + 35] += pick(4); /* the originator's port: few connections, so that they meet */
	splice(at, 0, packet, sizeof(packet));
}

/* Where IP and TCP begin in a frame; 0 if there is none that the core accepts. */
static int find_segment(const struct packet_about *about, __u32 *ip, __u32 *tcp)
{
	struct cursor cur = {.pos = about->frame, .end = about->frame + about->len};
	struct packet pkt = {};
	__u16 ethertype = 0;

	if (parse_link(LINKS[about->link], &cur, &pkt, &ethertype) != COUNT_tracked ||
	    parse_network(about->frame, &cur, &pkt, ethertype, 0, 0) != COUNT_tracked)
		return 0;
	*ip = pkt.payload_at - pkt.headers_len;
	*tcp = *ip + (about->frame[*ip] & 0x0f) * 4;
	return 1;
}

static void swap(__u8 *one, __u8 *other, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		__u8 kept = one[i];

		one[i] = other[i];
		other[i] = kept;
	}
}

/* A frame whose segment says something else, and is well-formed still. */
static void change_segment(size_t at, const struct packet_about *about)
{
	__u8 frame[FRAME_MAX];
	__u32 ip, tcp, headers, from, len = about->len;

	if (!find_segment(about, &ip, &tcp))
		return;
	memcpy(frame, about->frame, len);
	switch (pick(5)) {
	case 0: /* the other end says it */
		swap(frame + ip + 12, frame + ip + 16, 4);
		swap(frame + tcp, frame + tcp + 2, 2);
		break;
	case 1: /* a sequence number near the stream's beginning */
		memset(frame + tcp + 4, 0, 4);
		frame[tcp + 7] = pick(8);
		break;
	case 2: /* a part of what a ClientHello begins with, at its place if the SYN had number 0 */
		headers = tcp + (frame[tcp + 12] >> 4) * 4;
		from = pick(sizeof(HELLO));
		len = headers + pick(sizeof(HELLO) - from + 1);
		if (len > FRAME_MAX)
			return;
		memcpy(frame + headers, HELLO + from, len - headers);
		memset(frame + tcp + 4, 0, 4);
		frame[tcp + 7] = 1 + from;
		frame[ip + 2] = 0;
		frame[ip + 3] = len - ip;
		break;
	case 3: /* another connection */
		frame[tcp + 1] ^= pick(4);
		break;
	default:
		frame[tcp + 13] = FLAGS[pick(sizeof(FLAGS))];
	}
	set_frame(at, about->len, frame, len);
}

static void change_packet(size_t at)
{
	struct packet_about about;
	__u8 frame[FRAME_MAX];

	packet_at(now.data + at, now.data + now.size, &about);
	switch (pick(8)) {
	case 0:
		memcpy(frame, about.frame, about.len);
		set_frame(at, about.len, frame, LLVMFuzzerMutate(frame, about.len, FRAME_MAX));
		break;
	case 1:
		set_frame(at, about.len, about.frame, pick(about.len + 1));
		break;
	case 2:
		now.data[at] ^= 1 << pick(8);
		break;
	case 3:
		now.data[at + 1] = pick(256);
		break;
	default:
		change_segment(at, &about);
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	__u32 i, j;

	now.data = data;
	now.size = size;
	now.max = max_size;
	now.random = seed;
	if (size < SETTINGS_LEN || pick(16) == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	find_packets();
	i = pick(now.count);
	j = pick(now.count + 1);
	switch (now.count ? pick(8) : 0) {
	case 0:
		insert_syn(now.at[j]);
		break;
	case 1:
		splice(now.at[i], now.at[i + 1] - now.at[i], data, 0);
		break;
	case 2:
	case 3:
		splice(now.at[j], 0, data + now.at[i], now.at[i + 1] - now.at[i]);
		break;
	case 4:
		data[pick(SETTINGS_LEN)] = pick(256);
		break;
	default:
		change_packet(now.at[i]);
	}
	return now.size;
}

/* The first packets of one input, then the last of another. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
				 uint8_t *out, size_t max_size, unsigned int seed)
{
	size_t head, tail;

	if (a_size < SETTINGS_LEN || b_size < SETTINGS_LEN)
		return 0;
	now.random = seed;
	now.data = (__u8 *)a;
	now.size = a_size;
	find_packets();
	head = now.at[pick(now.count + 1)];
	now.data = (__u8 *)b;
	now.size = b_size;
	find_packets();
	tail = now.at[pick(now.count + 1)];
	if (head + b_size - tail > max_size)
		return 0;
	memcpy(out, a, head);
	memcpy(out + head, b + tail, b_size - tail);
	return head + b_size - tail;
}
