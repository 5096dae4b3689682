"""Sets of internet addresses: single ones and networks, IPv4 and IPv6."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAPPED_BITS = 96  # of an IPv6 address that stands for an IPv4 one, before that one begins


def parse_address(text: str) -> Address | None:
    """One address, None for anything else. An IPv4 address written as an IPv6 one counts as IPv4."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str) -> Network | None:
    """One address or network (``192.0.2.0/24``), None for anything else; IPv4 as in `parse_address`."""
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


class AddressSet:
    """Whether an address is in one of many networks, in a time that does not grow with their number."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._starts: dict[tuple[int, int], set[int]] = defaultdict(set)
        for network in networks:
            host_bits = network.max_prefixlen - network.prefixlen
            self._starts[network.version, host_bits].add(int(network.network_address) >> host_bits)

    def __contains__(self, address: Address) -> bool:
        return any(
            version == address.version and int(address) >> host_bits in starts
            for (version, host_bits), starts in self._starts.items()
        )
