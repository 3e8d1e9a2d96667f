/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Flows to lines of JSON: what costs too much in Python for each connection. Numbers and strings of the
 * user's come as JSON from a JSON library; here they are only laid between the names.
 */
#include <arpa/inet.h>
#include <string.h>
#include <time.h>

#include "lines.h"

#define NS_PER_S   1000000000LL
#define FIXED_ROOM 320

/* The text so far ends at `at`. */
struct line {
	char *at;
	time_t second; /* of the time in `stamp` */
	char stamp[32];
	size_t stamp_len;
};

static void put(struct line *line, const char *text, size_t len)
{
	memcpy(line->at, text, len);
	line->at += len;
}

static void put_text(struct line *line, const char *text)
{
	put(line, text, strlen(text));
}

#define PUT(line, literal) put(line, literal, sizeof(literal) - 1)

static void put_number(struct line *line, __u32 number)
{
	char digits[10];
	int len = 0;

	do {
		digits[sizeof(digits) - ++len] = '0' + number % 10;
		number /= 10;
	} while (number);
	put(line, digits + sizeof(digits) - len, len);
}

/* ISO 8601, UTC, nanoseconds. Many connections start in the same second, which is written out once. */
static void put_time(struct line *line, __s64 time_ns)
{
	time_t second = time_ns / NS_PER_S;
	__s64 rest = time_ns % NS_PER_S;
	struct tm parts;

	if (rest < 0) {
		rest += NS_PER_S;
		second--;
	}
	if (second != line->second || !line->stamp_len) {
		line->second = second;
		line->stamp_len = 0;
		if (gmtime_r(&second, &parts))
			line->stamp_len =
				strftime(line->stamp, sizeof(line->stamp), "%Y-%m-%dT%H:%M:%S.", &parts);
	}
	put(line, line->stamp, line->stamp_len);
	for (__s64 unit = NS_PER_S / 10; unit; unit /= 10)
		*line->at++ = '0' + rest / unit % 10;
	*line->at++ = 'Z';
}

/* IPv6 as RFC 5952 wants it, which is how the C library writes it. */
static void put_address(struct line *line, const struct flow *flow, const __be32 addr[4])
{
	const __u8 *bytes = (const __u8 *)&addr[3];
	char text[INET6_ADDRSTRLEN];

	if (flow->ip_version == 6) {
		put_text(line, inet_ntop(AF_INET6, addr, text, sizeof(text)));
		return;
	}
	for (int i = 0; i < 4; i++) {
		if (i)
			*line->at++ = '.';
		put_number(line, bytes[i]);
	}
}

static void put_port(struct line *line, __be16 port)
{
	const __u8 *bytes = (const __u8 *)&port;

	put_number(line, bytes[0] << 8 | bytes[1]);
}

static void put_mac(struct line *line, const struct flow *flow)
{
	static const char HEX[] = "0123456789abcdef";

	if (flow->no_mac) {
		PUT(line, "null");
		return;
	}
	for (int i = 0; i < 6; i++) {
		*line->at++ = i ? ':' : '"';
		*line->at++ = HEX[flow->source_mac[i] >> 4];
		*line->at++ = HEX[flow->source_mac[i] & 15];
	}
	*line->at++ = '"';
}

/* One number of a JSON array, and on to the next. */
static void put_element(struct line *line, const char **array)
{
	size_t len = strcspn(*array, ",]");

	put(line, *array, len);
	*array += len + 1;
}

static void put_flow(struct line *line, const struct flow *flow, const struct line_parts *parts)
{
	const struct flow_ends *ends = &flow->ends;
	int high = flow->originator_is_high;

	PUT(line, "{\"start\":\"");
	put_time(line, (__s64)flow->side[ORIGINATOR].first_ns + parts->clock_offset_ns);
	PUT(line, "\",");
	put_text(line, parts->origin);
	PUT(line, ",\"src_ip\":\"");
	put_address(line, flow, high ? ends->high_addr : ends->low_addr);
	PUT(line, "\",\"src_port\":");
	put_port(line, high ? ends->high_port : ends->low_port);
	PUT(line, ",\"dst_ip\":\"");
	put_address(line, flow, high ? ends->low_addr : ends->high_addr);
	PUT(line, "\",\"dst_port\":");
	put_port(line, high ? ends->low_port : ends->high_port);
	PUT(line, ",\"s_mac\":");
	put_mac(line, flow);
	if (flow->side[ORIGINATOR].hello == HELLO_MASK)
		PUT(line, ",\"tls\":true,\"reason\":");
	else
		PUT(line, ",\"tls\":false,\"reason\":");
	put_text(line, parts->reasons[flow->reason]);
}

size_t lines_fixed_room(void)
{
	return FIXED_ROOM;
}

size_t lines_write(const struct flow *flows, size_t n_flows, const struct line_parts *parts, char *out)
{
	struct line line = {.at = out};
	const char *probability = parts->probabilities;
	const char *feature = parts->features;

	if (probability)
		probability++; /* the bracket */
	if (feature)
		feature++;
	for (size_t i = 0; i < n_flows; i++) {
		put_flow(&line, &flows[i], parts);
		if (parts->labels) {
			PUT(&line, ",\"label\":");
			put_text(&line, parts->labels[parts->classes[i]]);
			PUT(&line, ",\"probability\":");
			put_element(&line, &probability);
		}
		if (feature) {
			feature++;
			for (size_t k = 0; k < parts->n_names; k++) {
				put_text(&line, parts->names[k]);
				put_element(&line, &feature);
			}
			feature++; /* the comma between the arrays; the last number took the bracket */
		}
		PUT(&line, "}\n");
	}
	return line.at - out;
}
