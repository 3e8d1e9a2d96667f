/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A stream of bytes from a file or pipe: it undoes gzip and zstd, waits for a pipe without missing a stop,
 * and knows how far it has come.
 */
#ifndef FLOWML_STREAM_H
#define FLOWML_STREAM_H

#include <stddef.h>
#include <sys/types.h>

#include <linux/types.h>
#include <zlib.h>
#include <zstd.h>

#define BYTES_AT_ONCE (256 * 1024)

enum coding { CODING_PLAIN, CODING_GZIP, CODING_ZSTD };

struct stream {
	int fd;
	int stop_fd; /* readable once reading is to end; -1: never */
	int regular;
	enum coding coding;
	__u64 taken; /* bytes read from the descriptor */
	__u8 *raw;   /* what was read and not decoded yet: raw[at] to raw[end - 1] */
	size_t at, end;
	int stopped;
	int inside;  /* of a compressed stream that is not complete */
	int damaged; /* its next bytes cannot be decoded */
	z_stream gzip;
	ZSTD_DStream *zstd;
	size_t asked;	     /* how many bytes more its decoder wants to get on */
	const char *trouble; /* why it cannot go on; null: nothing, or what errno says */
};

/*
 * Starts with a descriptor, which stays the caller's, who has read `head_len` bytes of it already (up to
 * BYTES_AT_ONCE): 0, or -1 with errno.
 */
int stream_open(struct stream *stream, int fd, int stop_fd, const __u8 *head, size_t head_len);

/* The next bytes, decoded, `size` at the most: how many; 0 at the end; or -1 with errno. */
ssize_t stream_decode(struct stream *stream, char *to, size_t size);

void stream_close(struct stream *stream);

#endif
