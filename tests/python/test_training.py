"""The loop: losses fall, parts equal the whole, plans hold, files come back."""

import gc
import json
import tempfile
import unittest
import weakref
from pathlib import Path

import liblisa
from support import CONFIG, ROOT, run_python, tiny_model, tokens


def train(model, n_steps=30, n_active=2, **options):
    """Trains on one batch; returns the losses."""
    options = {"lr": 1e-2, "max_active_layers": n_active, **options}
    with liblisa.Batch(model, 2, 12) as batch, liblisa.Optimizer(model, **options) as optimizer:
        sampler = liblisa.Sampler(4, n_active=n_active, interval_steps=3)
        batch.set(tokens())
        return [
            liblisa.train_step(model, sampler, optimizer, batch, step).loss
            for step in range(n_steps)
        ]


def all_weights(model):
    return {info.name: model.tensor_read(info.index).tolist() for info in model.tensors()}


class Loop(unittest.TestCase):
    def setUp(self):
        self.context = liblisa.Context()
        self.model = tiny_model(self.context)

    def test_loss_falls(self):
        losses = train(self.model)
        self.assertAlmostEqual(losses[0], 3.87, delta=0.1)  # log(48)
        self.assertLess(losses[-1], losses[0] / 2)

    def test_full_adamw(self):
        batch = liblisa.Batch(self.model, 2, 12)
        batch.set(tokens())
        optimizer = liblisa.Optimizer(self.model, lr=1e-2)
        self.assertEqual(optimizer.mask, bytes([1] * 6))
        losses = [
            liblisa.train_step(self.model, None, optimizer, batch, step).loss for step in range(20)
        ]
        self.assertLess(losses[-1], losses[0] / 2)

    def test_moments(self):
        f32 = train(self.model)[-1]
        for kind in ("bf16", "8bit", liblisa.Moments["8BIT"], 3):
            model = tiny_model(self.context)
            names = ("moments_embedding", "moments_layers", "moments_head")
            loss = train(model, **{name: kind for name in names})[-1]
            self.assertNotEqual(loss, f32)
            self.assertAlmostEqual(loss, f32, delta=0.2 * f32)
        with self.assertRaisesRegex(liblisa.InvalidArgument, "'f32', 'bf16', '8bit'"):
            liblisa.Optimizer(self.model, moments_head="fp8")

    def test_rates_of_classes(self):
        before = all_weights(self.model)
        train(self.model, 1, lr_factor_embedding=1e-30, lr_factor_head=0.5, warmup_steps=5)
        after = all_weights(self.model)
        for name, values in before.items():
            if "embed" in name:
                self.assertEqual(values, after[name])
            elif name == "model.norm.weight":  # 0.01 * 0.5 * 1 / 5
                moved = max(abs(a - b) for a, b in zip(values, after[name]))
                self.assertAlmostEqual(moved, 1e-3, delta=1e-4)

    def test_stats(self):
        batch = liblisa.Batch(self.model, 2, 12)
        batch.set(tokens())
        optimizer = liblisa.Optimizer(self.model, max_active_layers=2, lr=0.5)
        optimizer.set_lr(0.25)
        sampler = liblisa.Sampler(4, n_active=2, interval_steps=2)
        stats = liblisa.train_step(self.model, sampler, optimizer, batch, 0)
        self.assertEqual((stats.lr, stats.n_targets, stats.n_backward), (0.25, 22, 1))
        self.assertIs(stats.updated, True)
        self.assertIs(stats.swapped, True)
        self.assertEqual(stats.n_active_layers, 2)
        self.assertEqual(stats.weight_sum, 22.0)
        self.assertGreater(stats.grad_norm, 0)
        self.assertFalse(liblisa.train_step(self.model, sampler, optimizer, batch, 1).swapped)
        self.assertEqual(optimizer.mask, sampler.mask(1))

    def test_parts_equal_the_whole(self):
        other = tiny_model(self.context)
        expected = train(self.model, 8)
        batch = liblisa.Batch(other, 2, 12)
        batch.set(tokens())
        optimizer = liblisa.Optimizer(other, lr=1e-2, max_active_layers=2)
        sampler = liblisa.Sampler(4, interval_steps=3)
        losses = []
        for step in range(8):
            optimizer.apply_mask(sampler.mask(step))
            self.assertIsNone(liblisa.forward(other, batch, loss=False))
            liblisa.backward(other, batch)
            losses.append(optimizer.step().loss)
        self.assertEqual(losses, expected)
        self.assertEqual(all_weights(other), all_weights(self.model))

    def test_forward_is_evaluate(self):
        batch = liblisa.Batch(self.model, 2, 12)
        batch.set(tokens())
        loss = liblisa.forward(self.model, batch)
        self.assertAlmostEqual(loss, self.model.evaluate(batch).loss, places=6)

    def test_frozen_weights_stay(self):
        before = all_weights(self.model)
        optimizer = liblisa.Optimizer(self.model, lr=1e-2, max_active_layers=1)
        batch = liblisa.Batch(self.model, 2, 12)
        batch.set(tokens())
        sampler = liblisa.Sampler(4, kind="fixed", layers=[2], train_embedding=False)
        for step in range(3):
            liblisa.train_step(self.model, sampler, optimizer, batch, step)
        after = all_weights(self.model)
        trained = {
            info.group for info in self.model.tensors() if before[info.name] != after[info.name]
        }
        self.assertEqual(trained, {3, 5})
        self.assertEqual([optimizer.group_steps(group) for group in range(6)], [0, 0, 0, 3, 0, 3])


class Gradients(unittest.TestCase):
    def setUp(self):
        self.model = tiny_model(liblisa.Context())
        self.batch = liblisa.Batch(self.model, 2, 12)
        self.batch.set(tokens())
        self.optimizer = liblisa.Optimizer(self.model, max_active_layers=1, lr=1e-2)
        self.optimizer.apply_mask([1, 0, 1, 0, 0, 1])

    def window(self):
        liblisa.forward(self.model, self.batch, loss=False)
        liblisa.backward(self.model, self.batch)

    def test_region_leads_with_the_weight_sum(self):
        self.window()
        region = self.optimizer.gradients()
        self.assertEqual(region[0], 22.0)
        self.assertGreater(max(region[16:]), 0)

    def test_doubling_the_region_changes_nothing(self):
        self.window()
        once = self.optimizer.step()
        other = Gradients()
        other.setUp()
        other.window()
        region = other.optimizer.gradients()
        for i, value in enumerate(region):
            region[i] = 2 * value
        twice = other.optimizer.step()
        self.assertEqual((twice.grad_norm, twice.weight_sum), (once.grad_norm, 44.0))
        self.assertEqual(all_weights(other.model), all_weights(self.model))

    def test_a_view_holds_the_optimizer(self):
        self.window()
        region = self.optimizer.gradients()
        with self.assertRaisesRegex(liblisa.StateError, "gradients"):
            self.optimizer.close()
        optimizer = self.optimizer
        del self.optimizer
        region.release()
        optimizer.close()
        self.assertTrue(optimizer.closed)

    def test_an_optimizer_out_of_scope_lives_as_long_as_its_view(self):
        region = self.optimizer.gradients()
        alive = weakref.ref(self.optimizer)
        del self.optimizer
        gc.collect()
        self.assertEqual(region[0], 0.0)
        self.assertIsNotNone(alive())
        region.release()
        gc.collect()
        self.assertIsNone(alive())

    def test_read_and_norm(self):
        self.window()
        name = "model.layers.1.self_attn.q_proj.weight"
        gradient = self.optimizer.gradient_read(name)
        self.assertEqual(gradient.shape, (16, 16))
        flat = [value for row in gradient.tolist() for value in row]
        self.assertGreater(max(flat), 0)
        self.assertGreater(self.optimizer.gradient_norm(2), sum(v * v for v in flat) ** 0.5)
        self.assertEqual(self.optimizer.gradient_norm(1), 0)
        with self.assertRaises(liblisa.StateError):
            self.optimizer.gradient_read("model.layers.0.self_attn.q_proj.weight")

    def test_accumulation_and_discard(self):
        self.window()
        self.window()
        with self.assertRaises(liblisa.StateError):
            self.optimizer.apply_mask([1, 1, 0, 0, 0, 1])
        self.assertEqual(self.optimizer.step().n_backward, 2)
        self.window()
        self.optimizer.discard()
        self.assertEqual(self.optimizer.gradient_norm(2), 0)
        with self.assertRaises(liblisa.StateError):
            self.optimizer.step()


class Inference(unittest.TestCase):
    def setUp(self):
        self.model = tiny_model(liblisa.Context("reference64"))

    def test_evaluate(self):
        batch = liblisa.Batch(self.model, 2, 12, inference_only=True)
        batch.set(tokens())
        found = self.model.evaluate(batch, per_token=True)
        self.assertEqual((found.log_probs.shape, found.greedy.shape), ((2, 12), (2, 12)))
        rows = found.log_probs.tolist()
        zeros = [(b, t) for b in range(2) for t in range(12) if rows[b][t] == 0]
        self.assertEqual(len(zeros), 2)
        self.assertAlmostEqual(-sum(map(sum, rows)) / 22, found.loss, places=5)
        self.assertIsNone(self.model.evaluate(batch).log_probs)

    def test_generate_follows_the_logits(self):
        batch = liblisa.Batch(self.model, 1, 16, inference_only=True)
        made = self.model.generate([5, 6, 7], max_new_tokens=5)
        row = [5, 6, 7]
        for _ in range(5):
            batch.set(row)
            logits = self.model.logits(batch, dtype="f64")
            self.assertEqual(logits.shape, (1, len(row), 48))
            last = logits.tolist()[0][-1]
            row.append(last.index(max(last)))
        self.assertEqual(made, row[3:])

    def test_stop_tokens(self):
        made = self.model.generate([5, 6, 7], max_new_tokens=8)
        stop = made[2]
        stopped = self.model.generate([5, 6, 7], max_new_tokens=8, stop_tokens=[stop])
        self.assertEqual(stopped, made[: made.index(stop) + 1])

    def test_generate_draws(self):
        def draw(**options):
            return self.model.generate([5, 6, 7], max_new_tokens=12, **options)

        greedy = draw()
        hot = {"temperature": 50.0, "seed": 1 << 63}
        self.assertEqual(draw(**hot), draw(**hot))
        self.assertNotEqual(draw(**hot), greedy)
        self.assertNotEqual(draw(**hot), draw(temperature=50.0, seed=1))
        self.assertEqual(draw(**hot, top_k=1), greedy)
        self.assertEqual(draw(**hot, top_p=1e-6), greedy)
        self.assertEqual(draw(temperature=0, top_k=3, top_p=0.5, seed=4), greedy)

    def test_generate_refuses(self):
        for name, value in (("temperature", -1.0), ("top_p", 1.5), ("top_p", float("nan"))):
            with self.assertRaisesRegex(liblisa.InvalidArgument, name):
                self.model.generate([5], max_new_tokens=1, **{name: value})
        for name, value in (("top_k", -1), ("top_k", 1 << 32), ("seed", -1), ("seed", 1 << 64)):
            with self.assertRaisesRegex(liblisa.InvalidArgument, name):
                self.model.generate([5], max_new_tokens=1, **{name: value})


class Files(unittest.TestCase):
    def test_round_trip(self):
        with tempfile.TemporaryDirectory() as name, liblisa.Context() as context:
            directory = Path(name) / "model"
            model = tiny_model(context)
            train(model, 5)
            model.save(directory)
            for load in ("map", "copy"):
                again = liblisa.Model.open(context, directory, load=load)
                self.assertEqual(all_weights(again), all_weights(model))
                again.close()
            self.assertEqual(json.loads((directory / "config.json").read_text())["hidden_size"], 16)
            config = liblisa.ModelConfig.read(directory)
            self.assertEqual((config.d_model, config.n_layers, config.n_kv_heads), (16, 4, 2))

    def test_dtype_and_shards(self):
        with tempfile.TemporaryDirectory() as name, liblisa.Context() as context:
            directory = Path(name) / "model"
            tiny_model(context).save(directory, dtype="bf16", max_shard_bytes=4096)
            self.assertGreater(len(list(directory.glob("*.safetensors"))), 1)
            with liblisa.Model.open(context, directory) as model:
                self.assertEqual({info.dtype for info in model.tensors()}, {liblisa.DType.BF16})
                self.assertEqual(model.config.weights_dtype, liblisa.DType.BF16)
                losses = train(model)
            self.assertLess(losses[-1], losses[0] / 2)


class Seeds(unittest.TestCase):
    def test_seed_decides(self):
        with liblisa.Context(n_threads=1) as one, liblisa.Context("reference") as other:
            self.assertEqual(all_weights(tiny_model(one)), all_weights(tiny_model(other)))
            self.assertNotEqual(all_weights(tiny_model(one)), all_weights(tiny_model(one, seed=2)))

    def test_config_comes_back(self):
        with liblisa.Context() as context:
            self.assertEqual(context.n_threads >= 1, True)
            config = tiny_model(context, tied_head=True).config
        self.assertTrue(config.tied_head)
        self.assertEqual((config.vocab_size, config.head_dim), (48, 4))


class Planning(unittest.TestCase):
    def test_plan_is_what_is_held(self):
        keywords = {"max_active_layers": 2}
        planned = liblisa.plan(CONFIG, 2, 12, optimizer=keywords, context={"n_threads": 1})
        self.assertTrue(planned.fits)
        self.assertEqual(planned.n_parameters, 2 * 48 * 16 + 16 + 4 * 2336)
        with liblisa.Context(n_threads=1) as context:
            train(tiny_model(context), 20)
            use = context.memory()
        for name in ("gradients", "moments", "activations", "private weights"):
            self.assertEqual(use[name].peak, planned.bytes[name], name)

    def test_limit(self):
        planned = liblisa.plan(CONFIG, 2, 12, context={"memory_limit": 4096}, optimizer={})
        self.assertFalse(planned.fits)
        self.assertIn(planned.largest_class, liblisa.MEMORY_CLASSES)

    def test_fewer_layers_take_less(self):
        totals = [
            liblisa.plan(CONFIG, 2, 12, optimizer={"max_active_layers": n}).total for n in (1, 2, 4)
        ]
        self.assertEqual(totals, sorted(set(totals)))
        self.assertLess(liblisa.plan(CONFIG, 2, 12).total, totals[0])


class Example(unittest.TestCase):
    def test_host(self):
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "out"
            result = run_python(str(ROOT / "examples" / "host.py"), "--save", str(out))
            self.assertEqual(result.returncode, 0, result.stderr)
            first, last = (
                float(line.split("loss")[1].split()[0])
                for line in (result.stdout.splitlines()[0], result.stdout.splitlines()[-2])
            )
            self.assertLess(last, first / 2)
            again = run_python(str(ROOT / "examples" / "host.py"), str(out), "--steps", "3")
            self.assertEqual(again.returncode, 0, again.stderr)


if __name__ == "__main__":
    unittest.main()
