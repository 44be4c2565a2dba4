"""Adapters: made, trained, swapped, merged, planned; the base stays as it was."""

import itertools
import math
import tempfile
import unittest

import liblisa
from support import CONFIG, tiny_model, tokens

Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def batch_of(model):
    batch = liblisa.Batch(model, 2, 12)
    batch.set(tokens())
    return batch


def train(model, batch, n_steps=5, lr=2e-2):
    """Full AdamW on what is attached; returns the losses."""
    with liblisa.Optimizer(model, lr=lr) as optimizer:
        return [
            liblisa.train_step(model, None, optimizer, batch, step).loss for step in range(n_steps)
        ]


def values(handle):
    return {info.name: bytes(handle.tensor_read(info.index)) for info in handle.tensors()}


def flat(view):
    return [value for row in view.tolist() for value in row]


class Made(unittest.TestCase):
    def setUp(self):
        self.model = tiny_model(liblisa.Context())

    def test_defaults(self):
        adapter = liblisa.Adapter.create(self.model)
        self.assertEqual((adapter.rank, adapter.alpha, adapter.dropout), (8, 8.0, 0.0))
        self.assertEqual((adapter.seed, adapter.use_rslora), (0, False))
        self.assertEqual(adapter.targets, liblisa.Target.Q | liblisa.Target.V)
        self.assertFalse(adapter.attached)
        self.assertIsNone(self.model.adapter)

    def test_options(self):
        adapter = liblisa.Adapter.create(
            self.model,
            rank=3,
            alpha=6,
            dropout=0.25,
            targets=["o", "MLP"],
            use_rslora=True,
            seed=2**40,
        )
        self.assertEqual((adapter.rank, adapter.alpha, adapter.dropout), (3, 6.0, 0.25))
        self.assertEqual((adapter.seed, adapter.use_rslora), (2**40, True))
        self.assertEqual(int(adapter.targets), 8 + 16 + 32 + 64)

    def test_targets(self):
        for targets, per_layer in [("q", 1), ("all-linear", 7), (liblisa.Target.MLP, 3), (15, 4)]:
            with self.subTest(targets):
                adapter = liblisa.Adapter.create(self.model, targets=targets)
                self.assertEqual(len(adapter.tensors()), 2 * 4 * per_layer)

    def test_tensors(self):
        adapter = liblisa.Adapter.create(self.model, rank=3)
        info = adapter.tensor(Q)
        self.assertEqual((info.shape, info.group), ((3, 16), 2))
        self.assertEqual(adapter.tensor(info.index), info)
        a, b = flat(adapter.tensor_read(Q)), flat(adapter.tensor_read(Q.replace("_A", "_B")))
        self.assertTrue(0 < max(map(abs, a)) <= 0.25)
        self.assertEqual(set(b), {0.0})
        mine = [adapter.tensor_read(i.index) for i in adapter.tensors() if i.group == 2]
        square = sum(value * value for view in mine for value in flat(view))
        self.assertAlmostEqual(adapter.weight_norm(2) ** 2, square, places=5)
        self.assertEqual(adapter.weight_norm(0), 0)

    def test_write(self):
        adapter = liblisa.Adapter.create(self.model, rank=3)
        adapter.tensor_write(Q, [[i + j / 4 for j in range(16)] for i in range(3)])
        self.assertEqual(adapter.tensor_read(Q, dtype="f64").tolist()[2][3], 2.75)

    def test_seed(self):
        made = [values(liblisa.Adapter.create(self.model, seed=seed)) for seed in (1, 1, 2)]
        self.assertEqual(made[0], made[1])
        self.assertNotEqual(made[0], made[2])


class Training(unittest.TestCase):
    def setUp(self):
        self.context = liblisa.Context()
        self.model = tiny_model(self.context)
        self.batch = batch_of(self.model)

    def adapter(self, **options):
        return liblisa.Adapter.create(
            self.model, **{"targets": "all-linear", "alpha": 16, "seed": 5, **options}
        )

    def loss(self):
        return self.model.evaluate(self.batch).loss

    def test_the_base_stays(self):
        base, weights = self.loss(), values(self.model)
        adapter = self.adapter()
        adapter.attach()
        self.assertEqual(self.loss(), base)  # B is zero
        losses = train(self.model, self.batch)
        self.assertLess(losses[-1], losses[0] - 0.1)
        self.assertEqual(values(self.model), weights)
        trained = self.loss()
        self.assertLess(trained, losses[-1])
        adapter.detach()
        self.assertEqual(self.loss(), base)
        adapter.attach()
        self.assertEqual(self.loss(), trained)

    def test_swap(self):
        base = self.loss()
        first, second = self.adapter(), self.adapter(rank=2, targets="v", seed=9)
        losses = []
        for adapter in (first, second):
            with adapter.attach():
                train(self.model, self.batch)
                losses.append(self.loss())
            self.assertEqual(self.loss(), base)
        self.assertEqual(len({base, *losses}), 3)
        for adapter, expected in [(first, losses[0]), (second, losses[1]), (first, losses[0])]:
            adapter.attach()
            self.assertIs(self.model.adapter, adapter)
            self.assertEqual(self.loss(), expected)
        self.assertFalse(second.attached)
        second.detach()
        self.assertIs(self.model.adapter, first)

    def test_the_base_is_the_reference_while_an_adapter_trains(self):
        base = self.loss()
        self.adapter().attach()
        optimizer = liblisa.Optimizer(self.model, lr=2e-2)
        for step in range(3):
            liblisa.train_step(self.model, None, optimizer, self.batch, step)
            with self.model.set_adapter(None):
                self.assertEqual(self.loss(), base)
            self.assertLess(self.loss(), base)

    def test_a_block_puts_back_what_was_there(self):
        first, second = self.adapter(), self.adapter()
        first.attach()
        with self.assertRaises(ZeroDivisionError):
            with second.attach():
                self.assertIs(self.model.adapter, second)
                1 / 0
        self.assertIs(self.model.adapter, first)
        with second.attach():
            first.close()
        self.assertIsNone(self.model.adapter)

    def test_merge(self):
        adapter = self.adapter()
        adapter.attach()
        train(self.model, self.batch)
        expected = self.model.logits(self.batch).tolist()
        before = values(adapter)
        adapter.merge()
        self.assertIsNone(self.model.adapter)
        self.assertEqual(values(adapter), before)
        merged = self.model.logits(self.batch).tolist()
        worst = max(
            abs(a - b)
            for rows, others in zip(expected, merged)
            for row, other in zip(rows, others)
            for a, b in zip(row, other)
        )
        self.assertLess(worst, 1e-5)

    def test_a_mask_selects_adapters(self):
        adapter = self.adapter()
        adapter.attach()
        before = values(adapter)
        optimizer = liblisa.Optimizer(self.model, lr=2e-2, max_active_layers=1)
        sampler = liblisa.Sampler(4, kind="fixed", layers=[2])
        for step in range(2):
            liblisa.train_step(self.model, sampler, optimizer, self.batch, step)
        after = values(adapter)
        moved = {info.group for info in adapter.tensors() if before[info.name] != after[info.name]}
        self.assertEqual(moved, {3})
        self.assertEqual([optimizer.group_steps(group) for group in range(6)], [0, 0, 0, 2, 0, 0])

    def test_gradients_are_the_adapters(self):
        self.adapter(rank=3).attach()
        optimizer = liblisa.Optimizer(self.model)
        liblisa.forward(self.model, self.batch, loss=False)
        liblisa.backward(self.model, self.batch)
        gradient = optimizer.gradient_read(Q.replace("_A", "_B"))
        self.assertEqual(gradient.shape, (16, 3))
        self.assertGreater(max(flat(gradient)), 0)

    def test_dropout_is_the_seeds(self):
        losses = []
        for dropout, seed in [(0.5, 1), (0.5, 1), (0.5, 2), (0.0, 1)]:
            adapter = self.adapter(dropout=dropout, seed=seed)
            with adapter.attach():
                losses.append(train(self.model, self.batch))
        self.assertEqual(losses[0], losses[1])
        self.assertEqual(len({tuple(each) for each in losses}), 3)


class Files(unittest.TestCase):
    def test_there_and_back(self):
        model = tiny_model(liblisa.Context())
        adapter = liblisa.Adapter.create(model, rank=3, alpha=6, targets=("q", "up"), seed=4)
        with tempfile.TemporaryDirectory() as directory:
            with adapter.attach():
                train(model, batch_of(model))
            adapter.save(directory)
            again = liblisa.Adapter.open(model, directory, seed=9)
        self.assertEqual(values(again), values(adapter))
        self.assertEqual((again.rank, again.alpha, again.seed), (3, 6.0, 9))
        self.assertEqual(again.targets, adapter.targets)
        self.assertFalse(again.attached)

    def test_a_missing_directory_is_named(self):
        with self.assertRaisesRegex(liblisa.LisaError, "no/such/adapter"):
            liblisa.Adapter.open(tiny_model(liblisa.Context()), "no/such/adapter")


class Plans(unittest.TestCase):
    def held(self, adapter, optimizer):
        """Peak bytes by class of a model from files, and the size of what trains at once."""
        context = liblisa.Context()
        with tempfile.TemporaryDirectory() as directory:
            tiny_model(context).save(directory)
            context = liblisa.Context()
            model = liblisa.Model.open(context, directory)
            made = liblisa.Adapter.create(model, **adapter)
            made.attach()
            handle = liblisa.Optimizer(model, **optimizer)
            batch = batch_of(model)
            sampler = liblisa.Sampler(4, n_active=2, interval_steps=1)
            for step in range(4):
                liblisa.train_step(model, sampler, handle, batch, step)
        elements = sum(math.prod(i.shape) for i in made.tensors() if i.group in (1, 2))
        return {name: use.peak for name, use in context.memory().items()}, elements

    def test_equals_what_is_held(self):
        optimizer = {"max_active_layers": 2}
        for dropout, targets in [(0.0, ("q", "v")), (0.1, "all-linear")]:
            adapter = {"rank": 4, "dropout": dropout, "targets": targets}
            planned = liblisa.plan(CONFIG, 2, 12, optimizer=optimizer, adapter=adapter)
            peaks, elements = self.held(adapter, optimizer)
            self.assertEqual(planned.n_trained, elements)
            for name in set(peaks) - {"evaluation", "staging", "handles"}:
                with self.subTest(name, targets=targets):
                    self.assertEqual(peaks[name], planned.bytes[name])

    def test_less_than_full(self):
        full = liblisa.plan(CONFIG, 2, 12, optimizer={})
        lora = liblisa.plan(CONFIG, 2, 12, optimizer={}, adapter={})
        self.assertLess(lora.bytes["moments"], full.bytes["moments"] / 4)

    def test_errors_are_named(self):
        with self.assertRaisesRegex(ValueError, "rank"):
            liblisa.plan(CONFIG, 2, 12, optimizer={}, adapter={"rank": 0})


class Errors(unittest.TestCase):
    def setUp(self):
        self.model = tiny_model(liblisa.Context())

    def test_options(self):
        for options, word in [
            ({"rank": 0}, "rank"),
            ({"rank": -1}, "rank"),
            ({"alpha": 0}, "alpha"),
            ({"dropout": 1}, "dropout"),
            ({"targets": ("q", "x_proj")}, "x_proj"),
            ({"targets": 0}, "targets"),
            ({"targets": ()}, "targets"),
            ({"targets": 1 << 20}, "targets"),
            ({"seed": -1}, "seed"),
        ]:
            with self.subTest(options), self.assertRaisesRegex(liblisa.InvalidArgument, word):
                liblisa.Adapter.create(self.model, **options)

    def test_a_tied_head(self):
        model = tiny_model(liblisa.Context(), tied_head=1)
        with self.assertRaisesRegex(liblisa.Unsupported, "head"):
            liblisa.Adapter.create(model, targets=("q", "head"))

    def test_names_and_shapes(self):
        adapter = liblisa.Adapter.create(self.model, rank=3)
        with self.assertRaisesRegex(KeyError, "no_such"):
            adapter.tensor("no_such")
        with self.assertRaisesRegex(ValueError, "lora_A.*3, 16.*16, 3"):
            adapter.tensor_write(Q, [[0.0] * 3] * 16)
        with self.assertRaises(liblisa.LisaError):
            adapter.tensor(16)

    def test_another_models_adapter(self):
        other = liblisa.Adapter.create(tiny_model(liblisa.Context()))
        with self.assertRaisesRegex(liblisa.InvalidArgument, "another model"):
            self.model.set_adapter(other)
        self.assertIsNone(self.model.adapter)

    def test_an_optimizer_wants_what_it_was_made_for(self):
        adapter, batch = liblisa.Adapter.create(self.model), batch_of(self.model)
        adapter.attach()
        optimizer = liblisa.Optimizer(self.model)
        with self.assertRaisesRegex(liblisa.StateError, "optimizer"):
            adapter.merge()
        self.assertTrue(adapter.attached)
        with self.model.set_adapter(None), self.assertRaisesRegex(liblisa.StateError, "adapter"):
            liblisa.train_step(self.model, None, optimizer, batch, 0)
        self.assertTrue(liblisa.train_step(self.model, None, optimizer, batch, 0).updated)

    def test_a_merge_that_does_not_fit_changes_nothing(self):
        adapter = liblisa.Adapter.create(self.model, rank=3)
        for info in adapter.tensors():
            adapter.tensor_write(info.index, [3e38] * (info.shape[0] * info.shape[1]))
        before = values(self.model)
        with self.assertRaisesRegex(liblisa.NonFinite, "self_attn"):
            adapter.merge()
        self.assertEqual(values(self.model), before)


class Lifetime(unittest.TestCase):
    def test_closing_in_any_order(self):
        names = ["context", "model", "batch", "optimizer", "adapter"]
        for order in itertools.permutations(names):
            context = liblisa.Context()
            model = tiny_model(context, n_layers=1)
            adapter = liblisa.Adapter.create(model)
            adapter.attach()
            handles = dict(zip(names, [context, model, batch_of(model), None, adapter]))
            handles["optimizer"] = liblisa.Optimizer(model)
            for name in order:
                handles[name].close()

    def test_closing_detaches_and_frees(self):
        context = liblisa.Context()
        model = tiny_model(context)
        batch = batch_of(model)
        base = model.evaluate(batch).loss
        held = context.memory()["private weights"].current
        with liblisa.Adapter.create(model) as adapter:
            adapter.attach()
            train(model, batch)
            self.assertGreater(context.memory()["private weights"].current, held)
        self.assertIsNone(model.adapter)
        self.assertEqual(context.memory()["private weights"].current, held)
        self.assertEqual(model.evaluate(batch).loss, base)
        for use in (adapter.attach, adapter.detach, adapter.merge, adapter.tensors):
            with self.assertRaisesRegex(liblisa.StateError, "Adapter is closed"):
                use()

    def test_an_attached_adapter_is_held(self):
        model = tiny_model(liblisa.Context())
        batch = batch_of(model)
        liblisa.Adapter.create(model).attach()
        train(model, batch)
        self.assertNotEqual(model.evaluate(batch).loss, self.base_loss())

    def base_loss(self):
        model = tiny_model(liblisa.Context())
        return model.evaluate(batch_of(model)).loss


if __name__ == "__main__":
    unittest.main()
