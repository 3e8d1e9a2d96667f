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
#define S_PER_DAY  86400
#define FIXED_ROOM 320

/* The text so far ends at `at`. */
struct line {
	char *at;
	time_t day; /* since 1970, of the date in `date` */
	char date[24];
	size_t date_len;
};

static void put(struct line *line, const char *text, size_t len)
{
	memcpy(line->at, text, len);
	line->at += len;
}

static void put_text(struct line *line, struct text text)
{
	put(line, text.at, text.len);
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

/* So many digits, leading zeros among them, and what follows. */
static void put_digits(struct line *line, __u32 number, int digits, char then)
{
	for (int i = digits - 1; i >= 0; i--) {
		line->at[i] = '0' + number % 10;
		number /= 10;
	}
	line->at[digits] = then;
	line->at += digits + 1;
}

/* ISO 8601, UTC, nanoseconds. Many connections start on the same day, whose date is written out once. */
static void put_time(struct line *line, __s64 time_ns)
{
	time_t second = time_ns / NS_PER_S, day;
	__s64 rest = time_ns % NS_PER_S;
	struct tm parts;

	if (rest < 0) {
		rest += NS_PER_S;
		second--;
	}
	day = second / S_PER_DAY - (second % S_PER_DAY < 0);
	if (day != line->day || !line->date_len) {
		line->day = day;
		line->date_len = 0;
		if (gmtime_r(&second, &parts))
			line->date_len = strftime(line->date, sizeof(line->date), "%Y-%m-%dT", &parts);
	}
	second -= day * S_PER_DAY;
	put(line, line->date, line->date_len);
	put_digits(line, second / 3600, 2, ':');
	put_digits(line, second / 60 % 60, 2, ':');
	put_digits(line, second % 60, 2, '.');
	put_digits(line, rest, 9, 'Z');
}

/* IPv6 as RFC 5952 wants it, which is how the C library writes it. */
static void put_address(struct line *line, const struct flow *flow, const __be32 addr[4])
{
	const __u8 *bytes = (const __u8 *)&addr[3];
	char text[INET6_ADDRSTRLEN];

	if (flow->ip_version == 6) {
		inet_ntop(AF_INET6, addr, text, sizeof(text));
		put(line, text, strlen(text));
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
	const char *from = *array;
	char *to = line->at;

	while (*from != ',' && *from != ']')
		*to++ = *from++;
	line->at = to;
	*array = from + 1;
}

/* Most features are whole numbers, which need no search for their shortest decimals. */
static void put_feature(struct line *line, __u32 whole, const char **others)
{
	if (!whole) {
		put_element(line, others);
		return;
	}
	put_number(line, whole);
	PUT(line, ".0");
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
	const __u32 *whole = parts->wholes;

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
		for (size_t k = 0; whole && k < parts->n_names; k++) {
			put_text(&line, parts->names[k]);
			put_feature(&line, *whole++, &feature);
		}
		PUT(&line, "}\n");
	}
	return line.at - out;
}
