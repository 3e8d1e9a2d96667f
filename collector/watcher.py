"""Holds a program in a clsact qdisc for as long as somebody holds the other end of its standard input.

A clsact filter outlives the process that made it, and taking it away needs the rights that the collector
gives up. So this small process keeps them: it attaches, waits for end of file, which comes however the
collector ends, takes the filter away, and the qdisc too if it was it who put it there. It reads nothing
but that end of file.

    python -m collector.watcher IFINDEX PROG_FD ingress|egress
"""

from __future__ import annotations

import contextlib
import signal
import sys

READY = "attached"

_PRIORITY = 0xF10A
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS, ..EGRESS)
_ETH_P_ALL = 3


def main() -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    index, prog_fd, parent = int(sys.argv[1]), int(sys.argv[2]), _PARENTS[sys.argv[3]]
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    with IPRoute() as netlink:
        ours = not any(qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in netlink.get_qdiscs(index))
        try:
            if ours:
                netlink.tc("add", "clsact", index)
            netlink.tc(
                "add-filter",
                "bpf",
                index,
                fd=prog_fd,
                name="flowml_tc",
                parent=parent,
                prio=_PRIORITY,
                protocol=_ETH_P_ALL,
                direct_action=True,
            )
        except NetlinkError as error:
            if ours:
                with contextlib.suppress(NetlinkError):
                    netlink.tc("del", "clsact", index)
            print(error.args[1] if len(error.args) > 1 else error, flush=True)
            return
        print(READY, flush=True)
        sys.stdin.buffer.read()
        # The interface may be gone, and the qdisc with it.
        with contextlib.suppress(NetlinkError):
            if ours:
                netlink.tc("del", "clsact", index)
            else:
                netlink.tc("del-filter", "bpf", index, parent=parent, prio=_PRIORITY, protocol=_ETH_P_ALL)


if __name__ == "__main__":
    main()
