"""The control plane's portspecs and the keeper's are one grammar: same fields, same refusals."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from fastpath import native
from vswitch.portspec import PortspecError, parse

WORDS = (
    *("netmap:", "vale", "vale0:", "eth0", "p1", "x", "{", "}", "-", "*", "^", "/", "@", ":", "="),
    *("0", "1", "7", "4094", "4095", "65535", "65536", "4294967295", "4294967296", ",", "_", "."),
    *("xztrRT", "R", "share", "conf", "extmem", "offset", "port=", "rings=", "host-rings="),
    *("tx-slots=", "rx_slots=", "host-tx-rings=", "file=/dev/shm/a", "buf-num=", "initial="),
    *("bits=", "@share=netmap:eth1", "@conf:", "@extmem:", "@offset:", "0123456789abcdef"),
)
NUMBERS = st.integers(0, 70000).map(str)
BASES = st.sampled_from(("netmap:eth0", "netmap:p{1", "netmap:p}1", "vale0:p1", "vale:x"))
RINGS = st.one_of(
    st.sampled_from(("", "*", "^")),
    st.builds(str.__add__, st.sampled_from("-^"), NUMBERS),
)
CONF = st.lists(
    st.builds(
        "{}={}".format,
        st.sampled_from(("rings", "slots", "tx-rings", "host_rings", "rx-slots")),
        NUMBERS,
    ),
    max_size=4,
).map(lambda keys: "@conf:" + ",".join(keys))
TAILS = st.lists(
    st.one_of(
        st.text("xztrRT", max_size=3).map(lambda flags: f"/{flags}"),
        NUMBERS.map(lambda region: f"@{region}"),
        CONF,
        st.sampled_from(("@share=vale0:p2", "@extmem=/a", "@offset:initial=2,bits=16")),
    ),
    max_size=4,
).map("".join)


def verdict(read: Any, text: str) -> Any:
    try:
        return read(text)
    except PortspecError as error:
        return str(error)
    except native.NativeError as error:
        return error.message


def agree(text: str) -> None:
    ours = verdict(lambda text: asdict(parse(text)), text)
    event("refused" if isinstance(ours, str) else "taken")
    assert verdict(native.portspec, text) == ours


@settings(max_examples=1500)
@given(st.builds("{}{}{}".format, BASES, RINGS, TAILS))
def test_plausible_portspecs(text: str) -> None:
    agree(text)


@settings(max_examples=1500)
@given(st.lists(st.sampled_from(WORDS), max_size=14).map("".join))
def test_words_in_any_order(text: str) -> None:
    agree(text)


@settings(max_examples=500)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_any_text(text: str) -> None:
    agree(text)
    agree("netmap:" + text)
