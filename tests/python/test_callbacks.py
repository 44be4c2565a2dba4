"""Callbacks: what they get, what they return, and what they raise."""

import ctypes
import gc
import signal
import tempfile
import threading
import unittest
from pathlib import Path

import liblisa
from liblisa import _ffi
from liblisa._handles import Callbacks, Host
from support import compile_c, tiny_model, tokens

# A signal that arrives while C runs, and is seen by Python on entering the callback.
CALLER = """
#include <signal.h>
#include <stdint.h>
int32_t call_after_signal(int32_t (*interrupt)(void *)) {
    raise(SIGINT);
    return interrupt(0);
}
"""


class Trouble(Exception):
    pass


def raise_trouble(*_arguments):
    raise Trouble("in a callback")


class Interrupt(unittest.TestCase):
    def setUp(self):
        self.interrupt = lambda: False
        self.context = liblisa.Context(interrupt=lambda: self.interrupt())
        self.model = tiny_model(self.context)
        self.batch = liblisa.Batch(self.model, 2, 12)
        self.batch.set(tokens())
        self.optimizer = liblisa.Optimizer(self.model, lr=1e-3)
        # A shell that runs tests in the background has them ignore Ctrl-C.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)

    def weights(self):
        return [self.model.tensor_read(info.index).tolist() for info in self.model.tensors()]

    def test_is_polled(self):
        calls = []
        self.interrupt = lambda: calls.append(threading.get_ident())
        self.model.evaluate(self.batch)
        self.assertGreaterEqual(len(calls), 4)
        self.assertEqual(set(calls), {threading.get_ident()})

    def test_stops_a_step_and_changes_nothing(self):
        before = self.weights()
        self.interrupt = lambda: True
        with self.assertRaises(liblisa.Cancelled):
            liblisa.train_step(self.model, None, self.optimizer, self.batch, 0)
        self.assertEqual(self.weights(), before)
        self.interrupt = lambda: False
        stats = liblisa.train_step(self.model, None, self.optimizer, self.batch, 0)
        self.assertTrue(stats.updated)

    def test_exception_comes_out(self):
        self.interrupt = raise_trouble
        with self.assertRaisesRegex(Trouble, "in a callback") as caught:
            self.model.evaluate(self.batch)
        self.assertTrue(caught.exception.__suppress_context__)
        self.interrupt = lambda: False
        self.assertGreater(self.model.evaluate(self.batch).loss, 0)

    def test_must_not_call_back(self):
        self.interrupt = self.model.tensors
        with self.assertRaisesRegex(liblisa.StateError, "callback"):
            self.model.evaluate(self.batch)

    def test_ctrl_c(self):
        self.interrupt = lambda: signal.raise_signal(signal.SIGINT)
        with self.assertRaises(KeyboardInterrupt):
            self.model.evaluate(self.batch)

    def test_ctrl_c_at_the_entry_of_a_callback(self):
        host = Host(Callbacks(None, None))
        with tempfile.TemporaryDirectory() as directory:
            path = compile_c(CALLER, Path(directory) / "caller.so", "-shared", "-fPIC")
            function = ctypes.CDLL(str(path)).call_after_signal
            function.argtypes = [_ffi.lisa_interrupt_fn]
            function.restype = ctypes.c_int32
            stops = []
            for _ in range(3):
                with self.assertRaises(KeyboardInterrupt):
                    host.call(lambda: stops.append(function(host.interrupt_fn)))
            self.assertEqual(stops, [1, 1, 1])

    def test_abandoned_polls_end_in_silence(self):
        host = Host(Callbacks(None, None))
        interrupt = host.interrupt_fn
        self.assertEqual(interrupt(None), 0)
        del host, interrupt
        gc.collect()


class Log(unittest.TestCase):
    def lines_of(self, function, **keywords):
        lines = []
        with liblisa.Context(log=lambda *line: lines.append(line), **keywords) as context:
            function(context)
        return lines

    def test_host_log(self):
        lines = []
        callbacks = Callbacks(lambda level, line: lines.append((level, line)), None)
        host = Host(callbacks)
        host.call(host.log_fn, None, 2, "caf\u00e9".encode())
        self.assertEqual(lines, [(liblisa.LogLevel.WARN, "caf\u00e9")])

    def test_exception_comes_out(self):
        callbacks = Callbacks(raise_trouble, None)
        host = Host(callbacks)
        with self.assertRaises(Trouble):
            host.call(host.log_fn, None, 1, b"line")
        self.assertIsNone(host.call(lambda: None))

    def test_exception_stops_the_call(self):
        callbacks = Callbacks(raise_trouble, None)
        host = Host(callbacks)
        answers = []

        def call():
            host.log_fn(None, 1, b"line")
            answers.append(host.interrupt_fn(None))

        with self.assertRaises(Trouble):
            host.call(call)
        self.assertEqual(answers, [1])

    def test_handle_made_while_log_raised_is_destroyed(self):
        callbacks = Callbacks(raise_trouble, None)
        host = Host(callbacks)
        destroyed = []

        def create(out):
            out._obj.contents = _ffi.lisa_model()
            host.log_fn(None, 1, b"line")

        with self.assertRaises(Trouble):
            host.create(_ffi.lisa_model, create, destroyed.append)
        self.assertEqual(len(destroyed), 1)

    def test_level_none_is_silent(self):
        self.assertEqual(self.lines_of(tiny_model, log_level="error"), [])


class Token(unittest.TestCase):
    def setUp(self):
        self.model = tiny_model(liblisa.Context())

    def test_gets_every_token(self):
        seen = []
        made = self.model.generate([1, 2, 3], max_new_tokens=6, on_token=seen.append)
        self.assertEqual(len(made), 6)
        self.assertEqual(seen, made)

    def test_true_ends(self):
        expected = self.model.generate([1, 2, 3], max_new_tokens=6)
        seen = []

        def two(token):
            seen.append(token)
            return len(seen) == 2

        made = self.model.generate([1, 2, 3], max_new_tokens=6, on_token=two)
        self.assertEqual((made, seen), (expected[:2], expected[:2]))

    def test_exception_comes_out(self):
        with self.assertRaises(Trouble):
            self.model.generate([1, 2, 3], max_new_tokens=6, on_token=raise_trouble)
        self.assertEqual(len(self.model.generate([1, 2, 3], max_new_tokens=6)), 6)


if __name__ == "__main__":
    unittest.main()
