/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#define _GNU_SOURCE
#include "stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd_errors.h>

#define GZIP_ONLY	  (15 + 16) /* zlib's largest window, and the gzip header */
#define ZSTD_BLOCK_HEADER 3	    /* of the next block: the decoder asks for it together with a block */

static const __u8 GZIP_MAGIC[] = {0x1f, 0x8b};
static const __u8 ZSTD_MAGIC[] = {0x28, 0xb5, 0x2f, 0xfd};

/* read(2), but a stop ends it, and the wait for a pipe. 0: the end; -1 with errno. */
static ssize_t stream_read(struct stream *stream, void *to, size_t size)
{
	struct pollfd ready[] = {
		{.fd = stream->stop_fd, .events = POLLIN},
		{.fd = stream->fd, .events = POLLIN},
	};
	ssize_t got;

	do {
		int polled = stream->regular ? poll(ready, 1, 0) : poll(ready, 2, -1);

		if (polled < 0 && errno != EINTR)
			return -1;
		if (polled > 0 && ready[0].revents) {
			stream->stopped = 1;
			errno = ECANCELED;
			return -1;
		}
		if (polled < 0)
			continue;
		got = read(stream->fd, to, size);
		if (got >= 0) {
			stream->taken += got;
			return got;
		}
	} while (errno == EINTR || errno == EAGAIN);
	return -1;
}

/* Reads on until there is anything undecoded: 1; 0: the end; -1 with errno. */
static int stream_fill(struct stream *stream)
{
	ssize_t got;

	if (stream->at < stream->end)
		return 1;
	got = stream_read(stream, stream->raw, BYTES_AT_ONCE);
	if (got <= 0)
		return got;
	stream->at = 0;
	stream->end = got;
	return 1;
}

static ssize_t stream_fail(struct stream *stream, const char *trouble)
{
	stream->trouble = trouble;
	errno = EIO;
	return -1;
}

/* What was read to look at the magic number comes first, then straight into the reader's buffer. */
static ssize_t read_plain(struct stream *stream, char *to, size_t size)
{
	size_t waiting = stream->end - stream->at;

	if (!waiting)
		return stream_read(stream, to, size);
	if (waiting > size)
		waiting = size;
	memcpy(to, stream->raw + stream->at, waiting);
	stream->at += waiting;
	return waiting;
}

/*
 * A file may be several members, one after the other. Where it is damaged, what was decoded before that comes
 * first, however few bytes at a time the file is read.
 */
static ssize_t read_gzip(struct stream *stream, char *to, size_t size)
{
	z_stream *gzip = &stream->gzip;

	gzip->next_out = (Bytef *)to;
	gzip->avail_out = size;
	while (gzip->avail_out == size) {
		int filled, said;

		if (stream->damaged)
			return stream_fail(stream, "the gzip file is damaged");
		filled = stream_fill(stream);
		if (filled < 0)
			return -1;
		if (!filled)
			return stream->inside ? stream_fail(stream, "the gzip file is cut short") : 0;
		if (!stream->inside && !stream->raw[stream->at]) {
			stream->at++; /* padding, as on tapes: gzip ignores it too */
			continue;
		}
		if (!stream->inside && stream->raw[stream->at] != GZIP_MAGIC[0])
			return stream_fail(stream, "something that is not gzip follows in the gzip file");
		if (!stream->inside && inflateReset(gzip) != Z_OK)
			return stream_fail(stream, "zlib refuses to start");
		gzip->next_in = stream->raw + stream->at;
		gzip->avail_in = stream->end - stream->at;
		said = inflate(gzip, Z_NO_FLUSH);
		stream->at = stream->end - gzip->avail_in;
		stream->inside = said != Z_STREAM_END;
		stream->damaged = said != Z_OK && said != Z_STREAM_END && said != Z_BUF_ERROR;
	}
	return size - gzip->avail_out;
}

/*
 * The decoder gets one block at a time: one that is damaged takes what was decoded in the same call with it.
 */
static ssize_t read_zstd(struct stream *stream, char *to, size_t size)
{
	ZSTD_outBuffer out = {.dst = to, .size = size};

	while (!out.pos) {
		ZSTD_inBuffer in;
		size_t said;
		/* The decoder may hold back output of input that it has taken already. */
		int filled = stream_fill(stream);

		if (filled < 0)
			return -1;
		in = (ZSTD_inBuffer){.src = stream->raw, .size = stream->end, .pos = stream->at};
		if (!filled && !stream->inside)
			return 0;
		if (in.size - in.pos > stream->asked)
			in.size = in.pos + stream->asked;
		said = ZSTD_decompressStream(stream->zstd, &out, &in);
		if (ZSTD_getErrorCode(said) == ZSTD_error_frameParameter_windowTooLarge)
			return stream_fail(stream, "unpacking it takes more than 128 MiB of memory, as after "
						   "zstd --long=28: unpack it with zstd -d --long=31");
		if (ZSTD_isError(said))
			return stream_fail(stream, "the zstd file is damaged");
		stream->at = in.pos;
		stream->inside = said != 0;
		stream->asked = said > ZSTD_BLOCK_HEADER ? said - ZSTD_BLOCK_HEADER : 1;
		if (!filled && !out.pos)
			return stream->inside ? stream_fail(stream, "the zstd file is cut short") : 0;
	}
	return out.pos;
}

ssize_t stream_decode(struct stream *stream, char *to, size_t size)
{
	switch (stream->coding) {
	case CODING_GZIP:
		return read_gzip(stream, to, size);
	case CODING_ZSTD:
		return read_zstd(stream, to, size);
	default:
		return read_plain(stream, to, size);
	}
}

/* From the first bytes it tells how the rest is coded. */
int stream_open(struct stream *stream, int fd, int stop_fd, const __u8 *head, size_t head_len)
{
	struct stat about;

	*stream = (struct stream){.fd = fd, .stop_fd = stop_fd};
	if (fstat(fd, &about))
		return -1;
	stream->regular = S_ISREG(about.st_mode);
	stream->raw = malloc(BYTES_AT_ONCE);
	if (!stream->raw)
		return -1;
	memcpy(stream->raw, head, head_len);
	stream->taken = stream->end = head_len;
	while (stream->end < sizeof(ZSTD_MAGIC)) {
		ssize_t got = stream_read(stream, stream->raw + stream->end, BYTES_AT_ONCE - stream->end);

		if (got < 0)
			return -1;
		if (!got)
			break;
		stream->end += got;
	}
	if (!stream->end) {
		stream_fail(stream, "it is empty");
		return -1;
	}
	if (stream->end >= sizeof(GZIP_MAGIC) && !memcmp(stream->raw, GZIP_MAGIC, sizeof(GZIP_MAGIC))) {
		stream->coding = CODING_GZIP;
		if (inflateInit2(&stream->gzip, GZIP_ONLY) != Z_OK)
			return -1;
	}
	if (stream->end >= sizeof(ZSTD_MAGIC) && !memcmp(stream->raw, ZSTD_MAGIC, sizeof(ZSTD_MAGIC))) {
		stream->coding = CODING_ZSTD;
		stream->asked = 1;
		stream->zstd = ZSTD_createDStream();
		if (!stream->zstd)
			return -1;
	}
	return 0;
}

void stream_close(struct stream *stream)
{
	if (stream->coding == CODING_GZIP)
		inflateEnd(&stream->gzip);
	ZSTD_freeDStream(stream->zstd);
	free(stream->raw);
}
