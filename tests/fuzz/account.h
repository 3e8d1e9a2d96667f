/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What holds of a replay whatever came in: of the table between any two packets, and of every flow that left
 * it. To be included below bpf/replay.c, whose inside is looked at.
 */
#ifndef FLOWML_FUZZ_ACCOUNT_H
#define FLOWML_FUZZ_ACCOUNT_H

#include "check.h"

#define IP_SIZE_MAX (IPV6_LEN + 65535)
#define IP_SIZE_MIN (IPV4_MIN_LEN + TCP_MIN_LEN)

#define FINS (ENDING_FIN(ORIGINATOR) | ENDING_FIN(RESPONDER))

static int is_lower(const __be32 *one, const __be32 *other)
{
	while (*one == *other) {
		one++;
		other++;
	}
	return *one < *other;
}

static void check_side(const struct flow_side *side)
{
	__u64 segments = gate_segments(side->gate);
	__s64 ttl_sum;

	if (!segments) {
		CHECK(!side->bytes && !side->first_ns && !side->last_ns && !side->handshake_ns);
		CHECK(!side->ttl_excess && !side->ttl_first);
		return;
	}
	CHECK(side->bytes >= segments * IP_SIZE_MIN && side->bytes <= segments * IP_SIZE_MAX);
	CHECK(side->first_ns && side->first_ns <= side->last_ns);
	CHECK(side->handshake_ns <= side->last_ns);
	CHECK(side->ttl_first >= TTL_SEEN && side->ttl_first < 2 * TTL_SEEN);
	ttl_sum = (__s64)(segments * (side->ttl_first - TTL_SEEN)) + side->ttl_excess;
	CHECK(ttl_sum >= 0 && (__u64)ttl_sum <= 255 * segments);
}

/* What is true of a connection from its first segment on. */
static void check_flow(const struct host *host, const struct flow *flow)
{
	static const struct flow unused;
	const struct flow_side *from = &flow->side[ORIGINATOR], *to = &flow->side[RESPONDER];
	const struct flow_ends *ends = &flow->ends;
	int same = !memcmp(ends->low_addr, ends->high_addr, sizeof(ends->low_addr));

	check_side(from);
	check_side(to);
	CHECK(gate_segments(from->gate) >= 1);
	CHECK(!gate_visitors(from->gate) && !gate_visitors(to->gate));
	CHECK(!from->handshake_ns || to->handshake_ns);
	CHECK(!to->hello && !(from->hello & ~(HELLO_MASK | HELLO_WRONG)));
	CHECK(same ? ends->low_port <= ends->high_port : is_lower(ends->low_addr, ends->high_addr));
	CHECK(flow->originator_is_high <= 1 && flow->no_mac <= 1 && flow->parked <= 1);
	CHECK(!(flow->ending & ~(FINS | ENDING_CLAIMED)));
	CHECK((flow->ending & ENDING_CLAIMED) == 0 || flow->reason != REASON_NONE);
	CHECK(flow->ip_version == 6 ? host->settings.ip != 4
				    : flow->ip_version == 4 && host->settings.ip != 6);
	CHECK(!flow->no_mac || !memcmp(flow->source_mac, unused.source_mac, sizeof(flow->source_mac)));
	CHECK(!flow->reserved);
	CHECK(flow->slot < host->high_water);
}

/* A flow that has ended: at rest, and for a reason that is true of it. */
static void check_ended(const struct host *host, const struct flow *flow)
{
	__u64 segments =
		gate_segments(flow->side[ORIGINATOR].gate) + gate_segments(flow->side[RESPONDER].gate);

	check_flow(host, flow);
	CHECK(gate_phase(flow->side[ORIGINATOR].gate) == PHASE_SEALED);
	CHECK(gate_phase(flow->side[RESPONDER].gate) == PHASE_SEALED);
	CHECK(flow->reason > REASON_NONE && flow->reason <= REASON_EVICTED);
	CHECK((flow->reason == REASON_ESTABLISH) <= (segments == 1));
	CHECK((flow->reason == REASON_EVICTED) <= flow_is_unanswered(flow));
	CHECK((flow->reason == REASON_IDLE) <= (segments > 1));
	CHECK((flow->reason == REASON_FIN) <= ((flow->ending & FINS) == FINS));
	CHECK(!host->settings.tls_only || flow_is_tls(flow));
}

/* Every slot is free, open and found by its key, or parked; every bucket leads to an open one. */
static void check_table(struct host *host)
{
	__u64 open = 0, held = 0, segments = 0, buckets = 0, freed = 0;
	const struct counters *counted = &host->counters;

	for (__u32 slot = 0; slot < host->high_water; slot++) {
		const struct flow *flow = &host->slots[slot];
		const struct flow_side *from = &flow->side[ORIGINATOR], *to = &flow->side[RESPONDER];

		CHECK(gate_phase(from->gate) == gate_phase(to->gate));
		if (gate_phase(from->gate) == PHASE_FREE)
			continue;
		CHECK(flow->slot == slot);
		held++;
		segments += gate_segments(from->gate) + gate_segments(to->gate);
		if (flow->parked) {
			check_ended(host, flow);
			continue;
		}
		CHECK(gate_phase(from->gate) == PHASE_OPEN);
		CHECK(flow->reason == REASON_NONE);
		CHECK((flow->ending & FINS) != FINS);
		check_flow(host, flow);
		CHECK(table_leads_to(host, flow, slot, gate_epoch(from->gate)));
		open++;
	}
	for (__u64 i = 0; i <= host->bucket_mask; i++)
		buckets += host->buckets[i].hash != 0;
	CHECK(buckets == open);
	for (__u32 i = 0; i < host->n_given_back; i++) {
		CHECK(host->given_back[i] < host->high_water);
		CHECK(gate_phase(host->slots[host->given_back[i]].side[ORIGINATOR].gate) == PHASE_FREE);
		for (__u32 j = 0; j < i; j++)
			CHECK(host->given_back[i] != host->given_back[j]);
		freed++;
	}
	CHECK(host->high_water <= host->settings.max_connections);
	CHECK(held + freed == host->high_water);
	CHECK(counted->opened == counted->delivered + counted->filtered + held);
	CHECK(counted->opened <= counted->tracked && counted->evicted < counted->opened + 1);
	CHECK(segments <= counted->tracked);
	CHECK(!counted->contended);
}

/* The fates add up to the packets that were read. */
static void check_fates(const struct host *host)
{
	const struct counters *counted = &host->counters;
	__u64 fates = 0;

#define X(name) fates += counted->name;
	FLOWML_FATES(X)
#undef X
	CHECK(fates + host->waiting == host->status.packets);
}

/* The end: nothing is left, and what was tracked is in the flows unless the filter left them out. */
static void check_done(const struct host *host, __u64 delivered, __u64 segments)
{
	const struct counters *counted = &host->counters;

	CHECK(counted->delivered == delivered);
	CHECK(counted->opened == counted->delivered + counted->filtered);
	CHECK(host->n_given_back == host->high_water);
	CHECK(host->settings.tls_only ? segments <= counted->tracked : segments == counted->tracked);
}

#endif
