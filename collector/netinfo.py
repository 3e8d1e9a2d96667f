"""What the kernel says of a network interface: presence, type, MTU, driver, offloads.

Asked by ioctl, which is right in every network namespace; /sys is right only in the one it was mounted in.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from collector.errors import InterfaceError

__all__ = ["Interface", "find"]

# <linux/sockios.h>, <linux/if.h>, <linux/if_arp.h>, <linux/ethtool.h>
_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_SIOCETHTOOL = 0x8946
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_RUNNING = 0x40
_ETHERNET = (1, 772)  # ARPHRD_ETHER; ARPHRD_LOOPBACK, whose frames begin like Ethernet ones
_GDRVINFO = 0x03
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 263, 1, 1  # <linux/if_packet.h>
_OFFLOADS = {"tso": 0x1E, "gso": 0x23, "gro": 0x2B}
_GFLAGS = 0x25
_FLAGS = {"lro": 1 << 15, "rxvlan": 1 << 8}


def _ioctl(request: int, name: str, payload: bytes = b"") -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, request, struct.pack("16s24s", os.fsencode(name), payload))


def _ethtool(name: str, command: bytearray) -> bytes:
    buffer = array.array("B", command)
    address, _ = buffer.buffer_info()
    _ioctl(_SIOCETHTOOL, name, struct.pack("P", address))
    return buffer.tobytes()


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface of this namespace."""

    name: str
    index: int

    def is_present(self) -> bool:
        """Whether the interface of this index is still here, under whatever name."""
        return bool(self.current_name())

    def _flags(self) -> int:
        name = socket.if_indextoname(self.index)
        return int(struct.unpack_from("=H", _ioctl(_SIOCGIFFLAGS, name), 16)[0])

    def is_up(self) -> bool:
        """Whether it is here and administratively up."""
        try:
            return bool(self._flags() & _IFF_UP)
        except OSError:
            return False

    def current_name(self) -> str:
        """Its name by now; empty if it is not here any more."""
        try:
            return socket.if_indextoname(self.index)
        except OSError:
            return ""

    def impediment(self) -> str:
        """Why no packet can come: "is down", "has no carrier", or nothing at all."""
        try:
            flags = self._flags()
        except OSError:
            return ""
        if not flags & _IFF_UP:
            return "is down"
        return "" if flags & _IFF_RUNNING else "has no carrier"

    def is_loopback(self) -> bool:
        """Whether what goes out comes in again."""
        return bool(self._flags() & _IFF_LOOPBACK)

    def gone(self) -> InterfaceError | None:
        """What to raise for whatever was just refused, if the interface is not here any more."""
        if self.is_present():
            return None
        return InterfaceError(f"{self.name} went away meanwhile: see `ip link`")

    def listen_to_all(self) -> socket.socket:
        """Has the interface take in frames that are not for it, for as long as the socket is open."""
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        membership = struct.pack("=iHH8s", self.index, _PACKET_MR_PROMISC, 0, b"")
        try:
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        except OSError:
            sock.close()
            raise
        return sock

    def mtu(self) -> int:
        """Bytes."""
        (value,) = struct.unpack_from("=i", _ioctl(_SIOCGIFMTU, self.name), 16)
        return int(value)

    def is_ethernet(self) -> bool:
        """Whether its frames begin with an Ethernet header."""
        (kind,) = struct.unpack_from("=H", _ioctl(_SIOCGIFHWADDR, self.name), 16)
        return kind in _ETHERNET

    def driver(self) -> str:
        """Name of the driver; empty if it does not say."""
        with contextlib.suppress(OSError):
            info = _ethtool(self.name, bytearray(struct.pack("=I", _GDRVINFO)) + bytearray(192))
            return info[4:36].split(b"\0", 1)[0].decode(errors="replace")
        return ""

    def offloads(self) -> dict[str, bool]:
        """Which of gro, gso, lro, rxvlan and tso are on; what the driver does not tell is left out."""
        found = {}
        for name, command in _OFFLOADS.items():
            with contextlib.suppress(OSError):
                answer = _ethtool(self.name, bytearray(struct.pack("=II", command, 0)))
                found[name] = bool(struct.unpack("=II", answer)[1])
        with contextlib.suppress(OSError):
            flags = struct.unpack("=II", _ethtool(self.name, bytearray(struct.pack("=II", _GFLAGS, 0))))[1]
            found |= {name: bool(flags & bit) for name, bit in _FLAGS.items()}
        return found


def find(name: str) -> Interface:
    """The interface of that name, fit to attach to.

    Raises
    ------
    InterfaceError
        It is not there, it is down, or its frames carry no Ethernet header.
    """
    try:
        interface = Interface(name, socket.if_nametoindex(name))
        if not interface.is_ethernet():
            raise InterfaceError(
                f"the frames of {name} carry no Ethernet header: attach to the port beneath it"
            )
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENXIO, errno.EINVAL, None):
            raise InterfaceError(f"{name}: {error.strerror}") from error
        there = ", ".join(sorted(name for _, name in socket.if_nameindex()))
        raise InterfaceError(f"no interface {name} here: there are {there}") from error
    if not interface.is_up():
        raise InterfaceError(f"{name} is down: `ip link set {name} up`")
    return interface
