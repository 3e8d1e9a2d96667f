/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Flows to lines of JSON. Below the dashes: plain declarations, which collector/build_lines.py reads too. */
#ifndef FLOWML_LINES_H
#define FLOWML_LINES_H

#include <stddef.h>

#include "flow.h"

/* ------------------------------------------------------------------------------------------------ */

/* Text that is put into many lines: how long it is, is known. */
struct text {
	const char *at;
	size_t len;
};

/* What a line holds beside its flow. All text is JSON already. */
struct line_parts {
	struct text origin;	    /* members that are the same in each line: `"iface":"eth0"` */
	__s64 clock_offset_ns;	    /* what makes a time of the flows one since 1970 */
	const struct text *reasons; /* by enum reason */
	const struct text *labels;  /* by class; null: no prediction */
	const __s64 *classes;	    /* a class for each flow */
	const char *probabilities;  /* an array, a number for each flow */
	const struct text *names;   /* of the features: `,"dur":` */
	size_t n_names;
	const __u32 *wholes;  /* a feature each, flow by flow: what it is, or 0 for the next of `features`;
				 null: none */
	const char *features; /* an array */
};

/* Bytes that a line may take beside origin, label, and the features' names and numbers. */
size_t lines_fixed_room(void);

/* Writes a line for each flow; answers how many bytes they are. The caller saw to the room. */
size_t lines_write(const struct flow *flows, size_t n_flows, const struct line_parts *parts, char *out);

/* ------------------------------------------------------------------------------------------------ */

#endif
