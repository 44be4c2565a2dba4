"""The benchmark counts FLOPs as a hand does, renders its table, and names a peer that is missing."""

import os
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "bench"))

import bench  # noqa: E402
import flops  # noqa: E402
import gpu  # noqa: E402
import growth  # noqa: E402

SMALL = {"model_type": "llama", "hidden_size": 4, "num_attention_heads": 2,
         "num_key_value_heads": 1, "num_hidden_layers": 3, "intermediate_size": 8,
         "vocab_size": 10}
# q 4x4, k and v 2x4, o 4x4, gate and up 8x4, down 4x8
LAYER = 16 + 8 + 8 + 16 + 32 + 32 + 32
HEAD = 40


class Flops(unittest.TestCase):
    shape = flops.Shape.of(SMALL)

    def test_a_layer_has_the_parameters_of_its_maps(self):
        self.assertEqual(self.shape.layer_parameters(), LAYER)
        gpt2 = flops.Shape.of(bench.GPT2)
        self.assertEqual(gpt2.layer_parameters(), 12 * 768 * 768)

    def test_full_is_six_a_weight_and_token(self):
        found = flops.products(self.shape, 5, flops.Method("full"))
        self.assertEqual(flops.of_products(found), 6 * 5 * (3 * LAYER + HEAD))

    def test_frozen_layers_of_lisa_take_four(self):
        found = flops.products(self.shape, 5, flops.Method("lisa", active=1))
        self.assertEqual(flops.of_products(found), 5 * (4 * 3 * LAYER + 2 * LAYER + 6 * HEAD))

    def test_lora_adds_six_for_each_adapter_weight(self):
        # rank (in + out) of each map
        adapter = 2 * (8 + 6 + 6 + 8 + 12 + 12 + 12)
        found = flops.products(self.shape, 5, flops.Method("lora", rank=2))
        self.assertEqual(flops.of_products(found), 5 * (4 * (3 * LAYER + HEAD) + 18 * adapter))

    def test_attention_is_causal_and_counted_once(self):
        # 3 layers, forward and twice that backward, 2 products, 4 wide, 2 sequences, 1+2+3 keys
        self.assertEqual(flops.attention(self.shape, 2, 3), 3 * 3 * 2 * 2 * 4 * 2 * 6)

    def test_chunks_of_the_head_are_the_same_flops(self):
        whole = flops.products(self.shape, 7, flops.Method("lisa"))
        chunks = flops.products(self.shape, 7, flops.Method("lisa"), head_rows=3)
        self.assertEqual(flops.of_products(whole), flops.of_products(chunks))
        self.assertEqual(chunks[3, 10, 4, 0, 1], 2)

    def test_masked_labels_cost_no_head(self):
        one, five = (flops.useful(self.shape, 2, 8, flops.Method("lisa"), masked)
                     for masked in (0, 5))
        self.assertEqual(one - five, 2 * 4 * 6 * HEAD)


class Table(unittest.TestCase):
    def test_a_row_has_target_beside_figure(self):
        self.assertEqual(bench.render([("work", "<= 1", "0.5")]).splitlines()[-1],
                         "| work | <= 1 | 0.5 |")

    def test_the_page_keeps_what_is_outside_the_marks(self):
        page = "a\n" + "\nold\n".join(bench.MARKS) + "\nb"
        self.assertEqual(bench.written(page, "new"),
                         "a\n" + "\nnew\n".join(bench.MARKS) + "\nb")
        bench.written((TOP / "docs/performance.md").read_text(), "new")

    def test_speed_is_a_share_of_the_same_rounds_rate(self):
        times = {"liblisa": [1.0, 2.0, 4.0], "rate": [100.0, 50.0, 25.0], "peer": [2.0, 4.0, 8.0]}
        first, second = bench.speed_text(times, 50.0)
        self.assertIn("0.50 of the rate", first)
        self.assertIn("2.00x peer", second)

    def test_a_missing_peer_is_named(self):
        with mock.patch.dict(os.environ), tempfile.TemporaryDirectory() as directory:
            os.environ.pop("LISA_BENCH_TORCH", None)
            with mock.patch.object(bench, "OUT", pathlib.Path(directory)):
                makers = {"peer": lambda: bench.torch("GPT-2", "tuned")}
                with bench.Bench(True).workers(makers) as (found, missing):
                    self.assertEqual(found, {})
        self.assertIn("LISA_BENCH_TORCH is not set", missing[0])


class Gpu(unittest.TestCase):
    def test_bytes_are_two_readings_of_weights_and_all_of_what_trains_twice(self):
        shape = flops.Shape.of(SMALL)
        self.assertEqual(gpu.least_bytes(shape, 0), 2 * 2 * (3 * LAYER + HEAD))
        self.assertEqual(gpu.least_bytes(shape, 7) - gpu.least_bytes(shape, 0), 7 * 2 * 16)


class Growth(unittest.TestCase):
    def test_memory_is_held_against_layer_inputs(self):
        point = {"what": "tokens", "threads": 2, "layers": 3, "width": 4, "rate": 9.0}
        points = [{**point, "tokens": t, "value": t, "activations": 100 + 96 * t, "peak": 5 * t,
                   "plan": 0} for t in growth.TOKENS]
        self.assertIn("1.50x", growth.verdict(points))
        self.assertEqual(growth.plot(points).count("<polyline"), 4)


if __name__ == "__main__":
    unittest.main()
