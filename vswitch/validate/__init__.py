"""What must hold between objects. What must hold inside one is its Spec's own affair.

``check`` looks at the objects that are touched and at what they refer to, so its cost follows
the size of the change; ``check_all`` is the same check with everything touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vswitch import vale
from vswitch.filters import FilterError
from vswitch.kinds import Configuration, Key
from vswitch.kinds.backends import Netmap, Pipe, Vale
from vswitch.kinds.port import PortSpec
from vswitch.kinds.resource import Stored
from vswitch.problems import Detail, Problem, of_details
from vswitch.settings import Limits
from vswitch.validate import clients, rules


def check(
    before: Configuration,
    after: Configuration,
    touched: Iterable[Key],
    limits: Limits,
    pointers: Mapping[Key, str] | None = None,
) -> None:
    """Raises the Problem that says everything that is wrong with the change.

    ``pointers``: where in the request an object's spec is, where it is not /spec.
    """
    faults: list[Detail] = []
    for key in touched:
        if after.get(key) is None:
            _check_unused(before, after, key)
        elif key.kind == "bridge":
            faults += _bridge(before, after, key)
        elif key.kind == "port":
            faults += _port(before, after, key)
        elif key.kind == "fdb":
            faults += _entry(after, key)
    faults += rules.faults(before, after, touched, limits, pointers or {})
    faults += clients.faults(before, after, touched, pointers or {})
    faults += _limits(before, after, limits)
    if faults:
        raise of_details(faults)


def check_all(configuration: Configuration, limits: Limits) -> None:
    keys = [stored.key for stored in configuration]
    check(Configuration(), configuration, keys, limits)


def _check_unused(before: Configuration, after: Configuration, key: Key) -> None:
    """Nothing that stays may refer to what goes."""
    users = rules.users(after, key)
    if key.kind == "bridge":
        users += [Key("port", name) for name in after.members(key.name)]
    elif key.kind == "port":
        users += [user for user in before.entries_of_port(key.name) if after.get(user)]
        users += after.monitors_of_port(key.name)
    if users:
        raise Problem(
            "IN_USE",
            f"{key.path} is referred to by {len(users)} other object(s).",
            tuple(
                Detail("", "IN_USE", f"{user.path} refers to {key.path}") for user in users[:100]
            ),
            hint="Remove them first, or delete with ?cascade=true, which removes them too.",
        )


def _bridge(before: Configuration, after: Configuration, key: Key) -> Iterator[Detail]:
    spec = after.bridges[key.name].spec
    if vale.is_kernel(spec):
        switches = sum(vale.is_kernel(stored.spec) for stored in after.bridges.values())
        yield from vale.bridge_faults(key.name, spec, switches)
    elif spec.origin == "vale" and spec.vlan_filtering:
        yield Detail("/spec/vlan_filtering", "CONFLICT", "A VALE switch knows no VLANs.")
    old = before.bridges.get(key.name)
    members = after.members(key.name)
    if old is not None and old.spec.engine != spec.engine and members:
        text = f"{len(members)} ports are in this bridge ({members[0]}); take them out first."
        yield Detail("/spec/engine", "IN_USE", text)
    room = spec.fdb.max_entries
    static = len(after.fdb.get(key.name, ()))
    if static > room:
        yield Detail(
            "/spec/fdb/max_entries", "FDB_LIMIT", f"There are {static} static entries already."
        )


def _port(before: Configuration, after: Configuration, key: Key) -> Iterator[Detail]:
    spec: PortSpec = after.ports[key.name].spec
    if spec.bridge is not None and spec.bridge not in after.bridges:
        yield Detail(
            "/spec/bridge", "REFERENCE_NOT_FOUND", f"There is no bridge named {spec.bridge}."
        )
    elif spec.bridge is not None and vale.is_kernel(after.bridges[spec.bridge].spec):
        yield from vale.port_faults(spec)
        yield from _kernel_room(after, spec.bridge, "/spec/bridge")
    yield from _switch(after, spec)
    yield from _claims(after, key.name, spec)
    if spec.vlan.mode in ("trunk", "native") and not spec.backend.carries_tags():
        yield Detail(
            "/spec/vlan/mode",
            "L3_PORT",
            f"A {spec.backend.type} port takes IP packets only: no frame with a VLAN tag gets "
            "through. Use access or tunnel.",
        )
    yield from _filters(spec)
    yield from _monitored(after, key.name, spec)
    if isinstance(spec.backend, Netmap):
        yield from _netmap(after, key.name, spec.backend)
    if isinstance(spec.backend, Pipe):
        yield from _pipe(after, key.name, spec, spec.backend)
    old = before.ports.get(key.name)
    if old is not None and (left := set(old.spec.bridges) - set(spec.bridges)):
        entries = before.entries_of_port(key.name)
        stranded = [user for user in entries if user.parent in left and after.get(user)]
        if stranded:
            yield Detail(
                "/spec/bridge",
                "IN_USE",
                f"{len(stranded)} static FDB entries of bridge {stranded[0].parent} name this "
                f"port; remove them first ({stranded[0].path}).",
            )


def _kernel_room(after: Configuration, switch: str, pointer: str) -> Iterator[Detail]:
    if len(after.members(switch)) > vale.PORTS_MAX:
        text = f"A VALE switch of the kernel has at most {vale.PORTS_MAX} ports."
        yield Detail(pointer, "VALE_LIMIT", text)


def _switch(after: Configuration, spec: PortSpec) -> Iterator[Detail]:
    """A `vale` port has its own way into its switch."""
    switch = spec.backend.vale_switch()
    if switch is None:
        return
    if switch not in after.bridges:
        text = f"There is no switch named {switch}."
        yield Detail("/spec/backend/switch", "REFERENCE_NOT_FOUND", text)
    elif vale.is_kernel(after.bridges[switch].spec):
        yield from _kernel_room(after, switch, "/spec/backend/switch")
    if isinstance(spec.backend, Vale) and spec.backend.queues > 1:
        yield from _rings(after, spec, spec.backend)
    if switch == spec.bridge:
        text = f"It is a port of {switch} already; `bridge` names what is joined with the switch."
        yield Detail("/spec/bridge", "CONFLICT", text)


def _rings(after: Configuration, spec: PortSpec, backend: Vale) -> Iterator[Detail]:
    """Only a program on a switch of ours has rings that we make."""
    if spec.bridge is not None:
        text = "What joins a bridge and a switch has one queue."
        yield Detail("/spec/backend/queues", "INVALID", text, "Leave it out, or set it to 1.")
    stored = after.bridges.get(backend.switch)
    if stored is not None and vale.is_kernel(stored.spec):
        text = "The module gives a program on its switch the rings that it asks for."
        yield Detail("/spec/backend/queues", "VALE_LIMIT", text, "Leave it out, or set it to 1.")


def _claims(after: Configuration, name: str, spec: PortSpec) -> Iterator[Detail]:
    """An interface, a file, an end, a UDP port serve one port. The number of ports is bounded."""
    devices, files = set(spec.backend.devices()), set(spec.backend.files())
    ends, sockets = set(spec.backend.ends()), set(spec.backend.sockets())
    if not (devices or files or ends or sockets):
        return
    for other, stored in after.ports.items():
        if other == name:
            continue
        for taken in sorted(devices.intersection(stored.spec.backend.devices())):
            yield Detail(
                "/spec/backend", "PORT_BUSY", f"Interface {taken} is used by port {other}."
            )
        for taken in sorted(files.intersection(stored.spec.backend.files())):
            yield Detail("/spec/backend/out", "PORT_BUSY", f"File {taken} is used by port {other}.")
        for taken in sorted(ends.intersection(stored.spec.backend.ends())):
            yield Detail("/spec/backend", "PORT_BUSY", f"{taken} is port {other}.")
        for taken in sorted(sockets.intersection(stored.spec.backend.sockets())):
            yield Detail(
                "/spec/backend/local", "PORT_BUSY", f"UDP port {taken} is used by port {other}."
            )


def _netmap(after: Configuration, name: str, backend: Netmap) -> Iterator[Detail]:
    """A ring has one owner."""
    wanted = backend.parsed
    for other, stored in after.ports.items():
        theirs = stored.spec.backend
        if other == name or not isinstance(theirs, Netmap):
            continue
        if not set(backend.devices()) & set(theirs.devices()) and wanted.overlaps(theirs.parsed):
            text = (
                f"Port {other}, {theirs.portspec}, has rings of {wanted.port.name} that it needs."
            )
            yield Detail("/spec/backend/portspec", "PORT_BUSY", text)


def _pipe(after: Configuration, name: str, spec: PortSpec, backend: Pipe) -> Iterator[Detail]:
    """What a pipe's two ends have to agree about, or must not."""
    for other, stored in after.ports.items():
        theirs = stored.spec.backend
        if other == name or not isinstance(theirs, Pipe) or theirs.name != backend.name:
            continue
        if theirs.queues != backend.queues:
            yield Detail(
                "/spec/backend/queues",
                "CONFLICT",
                f"Port {other}, the other end of pipe {backend.name}, has {theirs.queues} queues.",
            )
        if spec.bridge is not None and stored.spec.bridge == spec.bridge:
            yield Detail(
                "/spec/bridge",
                "CONFLICT",
                f"Port {other}, the other end of pipe {backend.name}, is in bridge {spec.bridge} "
                "too: frames would circle for ever.",
            )


def _filters(spec: PortSpec) -> Iterator[Detail]:
    for member in spec.backend.filters():
        try:
            spec.backend.program(member)
        except FilterError as error:
            yield Detail(f"/spec/backend/{member}", "FILTER_INVALID", f"{error}.")


def _monitored(after: Configuration, name: str, spec: PortSpec) -> Iterator[Detail]:
    """A monitor watches a port that is none, from a bridge where its copies do not come back."""
    target = spec.backend.monitored()
    if target is not None:
        watched = after.ports.get(target)
        if watched is None:
            text = f"There is no port named {target}."
            yield Detail("/spec/backend/port", "REFERENCE_NOT_FOUND", text)
        elif watched.spec.backend.monitored() is not None:
            text = f"{target} is a monitor; copies are not copied again."
            yield Detail("/spec/backend/port", "INVALID", text)
        elif spec.bridge is not None and spec.bridge == watched.spec.bridge:
            text = f"{target} is in this bridge and would be sent the copies of its own frames."
            yield Detail("/spec/bridge", "INVALID", text)
    for key in after.monitors_of_port(name):
        monitor = after.ports[key.name].spec
        if target is not None and key.name != name:
            text = f"{key.name} watches this port; copies are not copied again."
            yield Detail("/spec/backend", "INVALID", text)
        elif target is None and spec.bridge is not None and spec.bridge == monitor.bridge:
            text = f"{key.name} watches this port from there; the copies would come back."
            yield Detail("/spec/bridge", "INVALID", text)


def _entry(after: Configuration, key: Key) -> Iterator[Detail]:
    if key.parent not in after.bridges:
        raise Problem("NOT_FOUND", f"There is no bridge named {key.parent}.")
    if vale.is_kernel(after.bridges[key.parent].spec):
        text = "A VALE switch of the kernel has no static entries."
        yield Detail("/bridge", "VALE_LIMIT", text)
    spec = after.fdb[key.parent][key.name].spec
    port: Stored[PortSpec] | None = after.ports.get(spec.port)
    if port is None:
        yield Detail("/spec/port", "REFERENCE_NOT_FOUND", f"There is no port named {spec.port}.")
    elif key.parent not in port.spec.bridges:
        yield Detail("/spec/port", "CONFLICT", f"Port {spec.port} is not in bridge {key.parent}.")


def _limits(before: Configuration, after: Configuration, limits: Limits) -> Iterator[Detail]:
    if limits.bridges < len(after.bridges) > len(before.bridges):
        yield Detail("", "BRIDGE_LIMIT", f"At most {limits.bridges} bridges are allowed.")
    if limits.ports < len(after.ports) > len(before.ports):
        yield Detail("", "PORT_LIMIT", f"At most {limits.ports} ports are allowed.")
    for bridge, entries in after.fdb.items():
        if len(entries) <= len(before.fdb.get(bridge, ())) or bridge not in after.bridges:
            continue
        most = min(limits.static_entries, after.bridges[bridge].spec.fdb.max_entries)
        if len(entries) > most:
            yield Detail("", "FDB_LIMIT", f"Bridge {bridge} may hold {most} static entries.")
