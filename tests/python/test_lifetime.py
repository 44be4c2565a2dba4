"""Handles: any order of closing, twice, by the garbage collector, on other threads."""

import gc
import itertools
import threading
import unittest
import weakref

import liblisa
from liblisa._handles import Callbacks, Host
from support import run_python, tiny_model, tokens


def everything():
    """One of each handle."""
    context = liblisa.Context()
    model = tiny_model(context)
    batch = liblisa.Batch(model, 2, 12)
    optimizer = liblisa.Optimizer(model, max_active_layers=2)
    return {"context": context, "model": model, "batch": batch, "optimizer": optimizer}


class Closing(unittest.TestCase):
    def test_any_order(self):
        for order in itertools.permutations(["context", "model", "batch", "optimizer"]):
            handles = everything()
            with self.subTest(order):
                for name in order:
                    handles[name].close()
                    self.assertTrue(handles[name].closed)

    def test_children_live_on(self):
        handles = everything()
        handles["context"].close()
        handles["batch"].set(tokens())
        self.assertGreater(handles["model"].evaluate(handles["batch"]).loss, 0)
        handles["model"].close()
        self.assertEqual(len(handles["optimizer"].mask), 6)

    def test_twice(self):
        for handle in everything().values():
            handle.close()
            handle.close()
        sampler = liblisa.Sampler(4)
        sampler.close()
        sampler.close()

    def test_use_after_close(self):
        handles = everything()
        handles["model"].close()
        with self.assertRaisesRegex(liblisa.StateError, "Model is closed"):
            handles["model"].tensors()
        with self.assertRaisesRegex(liblisa.StateError, "Model is closed"):
            liblisa.Batch(handles["model"], 1, 1)
        with self.assertRaisesRegex(liblisa.StateError, "Model is closed"):
            with handles["model"]:
                self.fail("entered")
        sampler = liblisa.Sampler(4)
        sampler.close()
        with self.assertRaisesRegex(liblisa.StateError, "Sampler is closed"):
            sampler.mask(0)

    def test_with_closes(self):
        with liblisa.Sampler(4) as sampler:
            self.assertFalse(sampler.closed)
        self.assertTrue(sampler.closed)

    def test_failed_creation_leaves_nothing(self):
        context = liblisa.Context()
        for _ in range(3):
            with self.assertRaises(liblisa.LisaError):
                tiny_model(context, n_heads=3)
        gc.collect()
        self.assertEqual(context.memory()["private weights"].current, 0)

    def test_closing_frees(self):
        handles = everything()
        context = handles["context"]
        self.assertGreater(context.memory()["moments"].current, 0)
        handles["optimizer"].close()
        self.assertEqual(context.memory()["moments"].current, 0)
        liblisa.Optimizer(handles["model"]).close()


class Collecting(unittest.TestCase):
    def test_out_of_scope_is_closed(self):
        context = liblisa.Context()
        model = tiny_model(context)
        self.assertGreater(context.memory()["private weights"].current, 0)
        del model
        gc.collect()
        self.assertEqual(context.memory()["private weights"].current, 0)

    def test_parents_are_kept(self):
        batch = liblisa.Batch(tiny_model(liblisa.Context()), 2, 12)
        gc.collect()
        batch.set(tokens())
        self.assertEqual(batch.n_targets, 22)

    def test_callbacks_may_refer_to_the_context(self):
        class Application:
            def __init__(self):
                self.context = liblisa.Context(log=self.log, interrupt=self.interrupt)
                self.model = tiny_model(self.context)

            def log(self, level, line):
                pass

            def interrupt(self):
                return False

        application = Application()
        alive = weakref.ref(application.context)
        del application
        gc.collect()
        self.assertIsNone(alive())

    def test_cycles_and_exit(self):
        script = (
            "import liblisa\n"
            "context = liblisa.Context()\n"
            "config = liblisa.ModelConfig(n_layers=1, d_model=8, n_heads=2, d_ff=8,"
            " vocab_size=8, max_positions=8)\n"
            "model = liblisa.Model.create(context, config)\n"
            "model.itself = model\n"
            "batch = liblisa.Batch(model, 1, 4)\n"
        )
        result = run_python("-X", "dev", "-c", script)
        self.assertEqual((result.returncode, result.stderr), (0, ""))


class Threads(unittest.TestCase):
    def test_destroy_waits_for_a_running_call(self):
        host = Host(Callbacks(None, None))
        events = []

        def call():
            thread = threading.Thread(target=host.release, args=(events.append, "destroyed"))
            thread.start()
            thread.join()
            events.append("call ends")

        host.call(call)
        self.assertEqual(events, ["call ends", "destroyed"])

    def test_destroy_inside_a_callback_waits(self):
        closing = []
        with liblisa.Context(interrupt=lambda: closing and closing.pop().close()) as context:
            model = tiny_model(context)
            batch, other = liblisa.Batch(model, 2, 12), liblisa.Batch(model, 1, 8)
            batch.set(tokens())
            closing.append(other)
            self.assertGreater(model.evaluate(batch).loss, 0)
            self.assertTrue(other.closed)

    def test_calls_on_one_context_take_turns(self):
        handles = everything()
        model, batch = handles["model"], handles["batch"]
        batch.set(tokens())
        expected = model.evaluate(batch).loss
        losses = []
        threads = [
            threading.Thread(
                target=lambda: losses.extend(model.evaluate(batch).loss for _ in range(5))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(losses, [expected] * 20)


if __name__ == "__main__":
    unittest.main()
