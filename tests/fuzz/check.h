/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What a fuzz target asserts: the condition is told, and the input kept, if it does not hold. */
#ifndef FLOWML_FUZZ_CHECK_H
#define FLOWML_FUZZ_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                                     \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);              \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

#endif
