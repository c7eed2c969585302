"""What the engines' packages leave as it was: the stack for signals, logging, stdout."""

from __future__ import annotations

import ctypes
import logging
import sys
from importlib import import_module

import pytest

import alexnet as package
from alexnet.engines import base
from conftest import needs

pytestmark = pytest.mark.cpu  # the engines compute there alone


class SignalStack(ctypes.Structure):
    """stack_t of <signal.h> on Linux."""

    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    @classmethod
    def now(cls) -> tuple[int | None, int, int]:
        """This thread's."""
        one = cls()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(one)) == 0
        return one.start, one.flags, one.size


@pytest.mark.skipif(sys.platform != "linux", reason="the stack for signals is asked for as Linux has it")
def test_openvino_leaves_the_stack_on_which_signals_are_handled_as_it_was(tmp_path, tiny_run, folders):
    needs("openvino", "nncf")
    before = SignalStack.now()
    engine = package.load(tiny_run, engine="openvino").engine
    assert SignalStack.now() == before
    del engine
    package.export(tiny_run, tmp_path / "net", "openvino", "int8", folders)
    assert SignalStack.now() == before


def test_packages_of_engines_change_neither_logging_nor_stdout_nor_send_word_of_use(capfd, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a program that configures none
    with base.quiet():
        print("progress")
        logging.warning("advice")
        with pytest.raises(ImportError):
            import_module("openvino_telemetry")
    assert logging.root.handlers == []
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("alexnet").isEnabledFor(logging.WARNING)


def test_handlers_that_a_program_has_on_the_logger_of_an_engines_package_keep_their_levels(tiny_run, tmp_path):
    needs("openvino", "nncf")
    handler = logging.NullHandler()
    logging.getLogger("nncf").addHandler(handler)
    try:
        package.export(tiny_run, tmp_path / "net", "openvino", "w8")
    finally:
        logging.getLogger("nncf").removeHandler(handler)
    assert handler.level == logging.NOTSET
