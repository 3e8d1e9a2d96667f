/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The ABI: what a flow is, how it lies in memory, what is counted. No code.
 *
 * Included by the BPF program, by hosts that run the same core on the CPU, and mirrored by
 * collector/records.py, which refuses to start when the two disagree.
 */
#ifndef FLOWML_FLOW_H
#define FLOWML_FLOW_H

#include <linux/types.h>

/* ---- Settings: every one comes as a -D flag; these are the defaults of configs/online.toml. ---- */

#ifndef FLOWML_MAX_CONNECTIONS /* slots in the flow table */
#define FLOWML_MAX_CONNECTIONS 100000
#endif
#ifndef FLOWML_RING_BYTES /* the ring of finished flows: a power of two, whole pages */
#define FLOWML_RING_BYTES 4194304
#endif
#ifndef FLOWML_ESTABLISH_TIMEOUT_NS /* silence allowed while only the first segment was seen */
#define FLOWML_ESTABLISH_TIMEOUT_NS 5000000000ULL
#endif
#ifndef FLOWML_INACTIVITY_TIMEOUT_NS /* silence allowed afterwards */
#define FLOWML_INACTIVITY_TIMEOUT_NS 300000000000ULL
#endif
#ifndef FLOWML_TLS_ONLY /* 1: connections that carry no ClientHello are counted, not delivered */
#define FLOWML_TLS_ONLY 1
#endif
#ifndef FLOWML_IP /* the version of IP that is looked at: 4, 6, or 46 for both */
#define FLOWML_IP 4
#endif
#ifndef FLOWML_WIDE_KEYS /* 1: keys have room for IPv6, and hash slower */
#define FLOWML_WIDE_KEYS (FLOWML_IP != 4)
#endif
#ifndef FLOWML_NEEDS /* what is kept of a flow beside its counts, its times and its end: NEED_... */
#define FLOWML_NEEDS NEED_ALL
#endif
#define NEED_BYTES     1
#define NEED_TTL       2
#define NEED_HANDSHAKE 4
#define NEED_FIRST     8  /* of the responder; the originator's is the start of the flow */
#define NEED_HELLO     16 /* the filter needs it, too */
#define NEED_ALL       31

/* ---- One direction of a flow ---- */

/*
 * The gate of a side is one 64-bit word that is only ever changed by atomic operations:
 *
 *     63        48 47                       12 11        0
 *    +-----------+---------------------------+-----------+
 *    |   epoch   |         segments          |  visitors |
 *    +-----------+---------------------------+-----------+
 *
 * Whoever updates a side is a visitor of it for as long as that takes (one per CPU at the most).
 * The epoch tells which connection the slot holds, and in its low two bits which phase that
 * connection is in. A visitor who finds another epoch than the one it looked up has come too late
 * and touches nothing. See track.h for the rules.
 */
#define GATE_VISITOR	   1ULL
#define GATE_VISITORS	   0xfffULL
#define GATE_SEGMENT_SHIFT 12
#define GATE_SEGMENTS	   0xfffffffffULL /* 36 bits, after the shift */
#define GATE_EPOCH_SHIFT   48
#define GATE_EPOCH	   (1ULL << GATE_EPOCH_SHIFT)

enum phase { PHASE_FREE, PHASE_OPEN, PHASE_CLOSING, PHASE_SEALED, PHASES };

enum side { ORIGINATOR, RESPONDER, SIDES };

/*
 * One cache line, so that two CPUs that carry the two directions do not share one. What is changed by
 * more than plain addition has 64 bits: BCC's compiler knows no smaller atomic operations.
 */
struct flow_side {
	__u64 gate;	    /* visitors, segments, epoch: above */
	__u64 bytes;	    /* sum of IP sizes, as on the wire */
	__u64 first_ns;	    /* time of this side's first segment; 0: none yet */
	__u64 last_ns;	    /* latest time of any segment of this side */
	__u64 handshake_ns; /* responder: first SYN-ACK; originator: first ACK after it; 0: unseen */
	__s64 ttl_excess;   /* sum over the segments of (TTL - first TTL) */
	__u64 ttl_first;    /* TTL_SEEN + TTL of the first segment; 0: none yet */
	__u64 hello;	    /* originator: which ClientHello bytes were seen, and which were wrong */
};

#define TTL_SEEN 256 /* tells a first TTL of 0 from no segment at all */

/*
 * A ClientHello shows in three bytes of the originator's stream: 0, the record's content type, handshake
 * (22); 1, the major part of its version (3); 5, the handshake's type, ClientHello (1). RFC 8446, 4 and
 * 5.1. `hello` holds 0xff at the place of each that was seen, and the top bit if one was another byte.
 */
#define HELLO_BYTES	6 /* stream bytes 0 to 5 decide */
#define HELLO_BYTES_MAX 8
#define HELLO_MASK	0x0000ff000000ffffULL
#define HELLO_EXPECTED	0x0000010000000316ULL
#define HELLO_WRONG	(1ULL << 63)

/* ---- A key ---- */

/* Both directions of a connection have the same key: the smaller endpoint comes first. */
#if FLOWML_WIDE_KEYS
struct flow_key {
	__be32 low_addr[4]; /* IPv4: as in IPv6, ::ffff:a.b.c.d */
	__be32 high_addr[4];
	__be16 low_port;
	__be16 high_port;
	__u32 ip_version; /* an IPv6 packet can have any address, such as one of these */
};
#else
struct flow_key {
	__be32 low_addr;
	__be32 high_addr;
	__be16 low_port;
	__be16 high_port;
};
#endif

/* The same as a flow has it: in one form, whatever the key's. */
struct flow_ends {
	__be32 low_addr[4];
	__be32 high_addr[4];
	__be16 low_port;
	__be16 high_port;
};

/* What the key leads to. Eight bytes, so that it is read in one piece. */
struct flow_ref {
	__u32 slot;
	__u16 epoch;
	__u16 originator_is_high;
};

/* ---- A flow ---- */

enum reason {
	REASON_NONE, /* still running */
	REASON_FIN,
	REASON_RST,
	REASON_IDLE,
	REASON_ESTABLISH,
	REASON_SHUTDOWN,
	REASON_EVICTED, /* never answered, and its slot was needed for another */
};

struct flow {
	struct flow_side side[SIDES];
	struct flow_ends ends;
	__u32 stream_start;	 /* sequence number of the originator's first payload byte */
	__u64 ending;		 /* a bit per side that has sent FIN, and ENDING_CLAIMED */
	__u32 slot;		 /* where it lies in the table */
	__u8 source_mac[6];	 /* Ethernet source of the first SYN */
	__u8 reason;		 /* enum reason; set once, by whoever claimed the end */
	__u8 originator_is_high; /* 1: the originator is the high end */
	__u8 parked;		 /* 1: ended, but the ring had no room; the sweep delivers it */
	__u8 no_mac;		 /* 1: a capture of a link without MACs; source_mac is 0 then */
	__u8 ip_version;	 /* 4 or 6 */
	__u8 reserved;
};

#define ENDING_FIN(side) (1ULL << (side))
#define ENDING_CLAIMED	 (1ULL << 8) /* somebody ends the flow */

/* ---- Counters ---- */

/*
 * The first group are the fates of a packet: each packet that a hook sees adds one to exactly one
 * of them, so that they add up to the packets seen. (A GSO buffer is one packet here, and as many
 * segments in its flow as it will be on the wire.) The second group are events in a flow's life:
 * opened = delivered + filtered + what is still in the table.
 */
#define FLOWML_FATES(X)                                                                                      \
	X(tracked)    /* counted in a connection */                                                          \
	X(untracked)  /* TCP without an entry, and not the start of a connection */                          \
	X(table_full) /* the start of a connection, refused: no slot is free */                              \
	X(contended)  /* lost against other CPUs on the same tuple, again and again */                       \
	X(not_ip)     /* neither IPv4 nor IPv6 */                                                            \
	X(ipv4)	      /* IPv4, where it is not asked for */                                                  \
	X(ipv6)	      /* IPv6, where it is not asked for */                                                  \
	X(not_tcp)    /* another protocol over IP, or one behind too many IPv6 extension headers */          \
	X(fragment)   /* a later fragment: it has no ports */                                                \
	X(malformed)  /* a header that contradicts itself */                                                 \
	X(truncated)  /* a header that is cut short */
#define FLOWML_EVENTS(X)                                                                                     \
	X(opened)    /* connections that got a slot */                                                       \
	X(delivered) /* finished connections put into the ring */                                            \
	X(filtered)  /* finished connections that the filter left out */                                     \
	X(evicted)   /* connections never answered, ended because another needed the slot */                 \
	X(parked)    /* finished connections that found the ring full, and wait for the sweep */

enum counter {
#define X(name) COUNT_##name,
	FLOWML_FATES(X) FLOWML_EVENTS(X)
#undef X
		COUNTERS,
};

struct counters {
#define X(name) __u64 name;
	FLOWML_FATES(X) FLOWML_EVENTS(X)
#undef X
};

/* ---- The sweep: the program that user space runs over the table, one slot a run ---- */

enum sweep_mode {
	SWEEP_FILL,	 /* put the slot on the stack of free ones: once, at the start */
	SWEEP_TIMEOUT,	 /* end the slot's flow if it timed out; deliver it if it is parked */
	SWEEP_SHUTDOWN,	 /* end the slot's flow; deliver it if it is parked */
	SWEEP_MAKE_ROOM, /* end the slot's flow if it timed out or was never answered; not from user space */
};

#define SWEEP_DONE   0 /* what the program answers */
#define SWEEP_FAILED 1

struct sweep {
	__u64 high_water; /* slots at and above it were never used */
	__u64 victim;	  /* counts the slots that were looked at to make room */
	__u32 next;	  /* the slot that the next run visits */
	__u32 mode;	  /* enum sweep_mode */
};

_Static_assert(sizeof(struct flow_side) == 64, "a side is one cache line");
_Static_assert(sizeof(struct flow) == 192, "a flow is three cache lines");
_Static_assert(sizeof(struct flow_key) == (FLOWML_WIDE_KEYS ? 40 : 12), "no padding in the key");
_Static_assert(sizeof(struct flow_ref) == 8, "a reference is read in one piece");
_Static_assert(sizeof(struct counters) == 8 * COUNTERS, "one name, one counter");

#endif
