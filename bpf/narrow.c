/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The core on the CPU for IPv4 alone: shorter keys, and nothing in it that asks for the version of IP. */
#define FLOWML_WIDE_KEYS 0
#include "host.h"

void account_narrow(struct host *host)
{
	account_packet(host);
}
