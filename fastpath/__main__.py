"""``python -m fastpath keeper …`` starts the fast path; ``forwarder`` is started by the keeper."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastpath", description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    keeper = roles.add_parser("keeper", help="open devices, keep their fds, keep a forwarder")
    keeper.add_argument("--run-dir", type=Path, required=True, help="sockets and pid files")
    keeper.add_argument("--data-dir", type=Path, required=True, help="pcap/ lies here")
    keeper.add_argument("--forwarder-uid", type=int, default=os.geteuid())
    keeper.add_argument("--forwarder-gid", type=int, default=os.getegid())
    keeper.add_argument("--control-gid", type=int, default=os.getegid())
    keeper.add_argument(
        "--allow", action="append", default=[], metavar="PATTERN", help="interfaces; default: all"
    )
    keeper.add_argument("--deny", action="append", default=[], metavar="PATTERN")
    keeper.add_argument(
        "--extmem-dir", type=Path, help="where files for netmap's @extmem may be; default: nowhere"
    )
    keeper.add_argument(
        "--af-xdp", action="store_true", help="allow af_xdp ports: keep BPF and IPC_LOCK"
    )
    keeper.add_argument("--limit", action="append", default=[], metavar="NAME=VALUE")
    forwarder = roles.add_parser("forwarder", help="internal: the keeper starts it")
    forwarder.add_argument("--channel-fd", type=int, required=True)
    return parser


def _limits(pairs: list[str], known: dict[str, int]) -> dict[str, int]:
    limits = dict(known)
    for pair in pairs:
        name, _, value = pair.partition("=")
        # 0 is a number where it means something: where it is the default
        least = min(known.get(name, 1), 1)
        if name not in known or not value.isdigit() or int(value) < least:
            raise SystemExit(f"--limit {pair}: NAME is one of {', '.join(known)}, VALUE a number")
        limits[name] = int(value)
    return limits


def _keeper(args: argparse.Namespace) -> int:
    from fastpath.keeper import DEFAULT_LIMITS, Config, Keeper
    from fastpath.opener import Policy
    from fastpath.rundir import RunDir, RunDirError

    limits = _limits(args.limit, DEFAULT_LIMITS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        rundir = RunDir(args.run_dir, args.control_gid)
        rundir.lock()
        config = Config(
            run_directory=args.run_dir,
            data_directory=args.data_dir,
            uid=args.forwarder_uid,
            gid=args.forwarder_gid,
            control_gid=args.control_gid,
            policy=Policy(tuple(args.allow) or ("*",), tuple(args.deny)),
            limits=limits,
            extmem_directory=args.extmem_dir,
            af_xdp=args.af_xdp,
        )
        return Keeper(config, rundir).run()
    except RunDirError as error:
        print(f"keeper: {error}", file=sys.stderr)  # noqa: T201  the one line its starter reads
        return 1


def main() -> int:
    """Exit status of the role."""
    args = _parser().parse_args()
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s {args.role}[{os.getpid()}] %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    if args.role == "keeper":
        return _keeper(args)
    from fastpath import rights

    if rights.may(rights.CAP_SYS_NICE):
        os.nice(rights.NICE_LOADING)  # before the imports: most of the work of a standby
    from fastpath.forwarder import run

    return run(args.channel_fd)


if __name__ == "__main__":
    sys.exit(main())
