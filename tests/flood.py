"""Segments of very many connections onto a wire, as fast as the kernel makes them.

Run as a program, in a namespace: a BPF program writes each frame anew and sends it out of the interface
(BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES; no socket, no buffer of the stack). The other end of a
veth needs an XDP program of its own to take such frames, and what its ring has no room for is lost on the
wire: count what arrives.

    python -m tests.flood IFACE FLAGS FIRST COUNT TURNS

FLAGS is a word like SBAR. Each letter is a burst: one segment with that flag of each of COUNT connections,
those from number FIRST on; B is the SYN-ACK of the other end. An S moves on to the next COUNT connections,
but for the first. The word is gone through TURNS times.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import struct
import sys
import time

from collector import compiler, kernel
from collector.folders import bpf_folder
from tests import frames
from tests.frames import SERVER

SOURCE = r"""
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>

BPF_ARRAY(number, __u32, 1);
BPF_ARRAY(reply, __u32, 1);

int flood(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct tcphdr *tcp = (void *)(ip + 1);
	__u32 zero = 0, *next = number.lookup(&zero), *back = reply.lookup(&zero);
	__u32 address;
	__u16 port;

	if ((void *)(tcp + 1) > end || !next || !back)
		return XDP_DROP;
	address = bpf_htonl((10u << 24) + (*next >> 14));
	port = bpf_htons(1024 + (*next & 0x3fff));
	*next += 1;
	if (*back) {
		ip->daddr = address;
		tcp->dest = port;
	} else {
		ip->saddr = address;
		tcp->source = port;
	}
	return XDP_TX;
}
"""
LIVE_FRAMES = 1 << 1
BATCH = 64


def main() -> None:
    iface, flags = sys.argv[1:3]
    first, count, turns = map(int, sys.argv[3:])
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_folder() / "uapi")
    from bcc import BPF

    compiled = BPF(text=SOURCE, cflags=compiler._include_flags(bpf_folder()))
    program, number, reply = compiled.load_func("flood", BPF.XDP), compiled["number"], compiled["reply"]
    index = socket.if_nametoindex(iface)
    begun = False
    begin = time.monotonic()
    for flag in itertools.chain.from_iterable(itertools.repeat(flags, turns)):
        if flag == "S":
            first += count if begun else 0
            begun = True
        number[ctypes.c_int(0)] = ctypes.c_uint32(first)
        reply[ctypes.c_int(0)] = ctypes.c_uint32(flag == "B")
        frame = frames.tcp(flag) if flag != "B" else frames.tcp("SA", src=SERVER[0], sport=SERVER[1])
        burst(program.fd, index, frame, count)
    print(time.monotonic() - begin)


def burst(prog_fd: int, index: int, frame: bytes, count: int) -> None:
    """Sends a frame so many times, each as the program writes it."""
    data = ctypes.create_string_buffer(frame, len(frame))
    context = ctypes.create_string_buffer(struct.pack("=6I", 0, len(frame), 0, index, 0, 0), 24)
    test = (prog_fd, 0, len(frame), 0, ctypes.addressof(data), 0, count, 0)
    where = (len(context), 0, ctypes.addressof(context), 0)
    kernel._bpf(kernel._PROG_TEST_RUN, kernel._attr("IIIIQQIIIIQQIII", *test, *where, LIVE_FRAMES, 0, BATCH))


if __name__ == "__main__":
    main()
