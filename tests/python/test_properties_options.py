"""Options of any value: taken as they are, or refused by name; and what samplers promise."""

import array
import ctypes
import math
import unittest

import properties  # noqa: F401  (first: skips where hypothesis is missing)
import liblisa
from hypothesis import assume, example, given
from hypothesis import strategies as st
from liblisa import _ffi
from liblisa._options import fill
from support import CONFIG, tiny_model

try:
    import numpy
except ImportError:
    numpy = None

STRUCTS = [
    _ffi.lisa_context_options,
    _ffi.lisa_batch_options,
    _ffi.lisa_model_options,
    _ffi.lisa_save_options,
    _ffi.lisa_generate_options,
    _ffi.lisa_adapter_options,
    _ffi.lisa_optimizer_options,
    _ffi.lisa_plan_request,
    _ffi.lisa_sampler_options,
    _ffi.lisa_checkpoint_options,
]


def fields(*kinds):
    return st.sampled_from(
        [(struct, *field) for struct in STRUCTS for field in struct._fields_ if field[1] in kinds]
    )


numbers = st.one_of(
    st.integers(-2, 3),
    st.integers(2**32 - 2, 2**32 + 2),
    st.integers(2**64 - 2, 2**64 + 2),
    st.integers(-(2**70), 2**70),
)
anything = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.integers(), max_size=2),
)


class Fields(unittest.TestCase):
    @given(fields(ctypes.c_uint32, ctypes.c_uint64), numbers)
    def test_whole_numbers_are_never_cut(self, field, value):
        struct, name, kind = field
        options = struct()
        if 0 <= value < 1 << 8 * ctypes.sizeof(kind):
            fill(options, {name: value})
            self.assertEqual(getattr(options, name), value)
        else:
            with self.assertRaisesRegex(liblisa.InvalidArgument, f"^{name}: .*{value}$"):
                fill(options, {name: value})

    @given(fields(ctypes.c_double), st.floats() | numbers)
    def test_doubles(self, field, value):
        struct, name, _ = field
        options = struct()
        fill(options, {name: value})
        got = getattr(options, name)
        self.assertTrue(got == float(value) or math.isnan(got) and math.isnan(value))
        with self.assertRaisesRegex(liblisa.InvalidArgument, f"^{name}: "):
            fill(options, {name: 10**400})

    @given(fields(ctypes.c_uint32, ctypes.c_uint64, ctypes.c_double), anything)
    def test_other_types_are_refused_by_name(self, field, value):
        struct, name, kind = field
        assume(value is not None and not isinstance(value, (int, float)))
        with self.assertRaisesRegex(TypeError, f"^{name}: expected "):
            fill(struct(), {name: value})

    @unittest.skipUnless(numpy, "numpy is not installed")
    @given(
        fields(ctypes.c_uint32, ctypes.c_uint64, ctypes.c_double),
        st.sampled_from(("int8", "uint8", "int32", "int64", "uint64")),
        st.integers(0, 127),
    )
    def test_numpys_scalars(self, field, dtype, value):
        struct, name, _ = field
        options = struct()
        fill(options, {name: numpy.dtype(dtype).type(value)})
        self.assertEqual(getattr(options, name), value)


CALLS = {
    liblisa.Sampler: [
        "n_active",
        "interval_steps",
        "seed",
        "first_step",
        "max_active",
        "descending",
        "train_embedding",
        "train_head",
        "weights",
        "layers",
        "kind",
    ],
    liblisa.Optimizer: [
        "lr",
        "beta1",
        "beta2",
        "eps",
        "weight_decay",
        "max_grad_norm",
        "seed",
        "max_active_layers",
        "state_policy",
        "train_embedding",
        "train_head",
        "moments_embedding",
        "moments_layers",
        "moments_head",
        "warmup_steps",
        "lr_factor_embedding",
        "lr_factor_layers",
        "lr_factor_head",
        "update_in_backward",
        "embedding_rows",
    ],
    liblisa.Batch: ["max_batch", "max_tokens", "activations", "head_rows", "inference_only"],
    liblisa.Adapter.create: ["rank", "alpha", "dropout", "targets", "use_rslora", "seed"],
}


class Calls(unittest.TestCase):
    """Whatever a constructor is given: an object that works, or one line that says why not."""

    @classmethod
    def setUpClass(cls):
        cls.model = tiny_model(liblisa.Context(n_threads=1, memory_limit=64 << 20))

    def make(self, call, given_values):
        if call is liblisa.Sampler:
            return call(CONFIG.n_layers, **given_values)
        if call is liblisa.Batch:
            return call(self.model, **{"max_batch": 1, "max_tokens": 4, **given_values})
        return call(self.model, **given_values)

    @given(st.data())
    def test_made_or_refused(self, data):
        call = data.draw(st.sampled_from(list(CALLS)))
        names = st.sampled_from(CALLS[call])
        given_values = data.draw(st.dictionaries(names, anything, max_size=3))
        if call is liblisa.Batch:
            given_values = {
                name: 1 if value is None and name.startswith("max_") else value
                for name, value in given_values.items()
            }
        try:
            made = self.make(call, given_values)
        except (liblisa.LisaError, TypeError) as error:
            self.assertTrue(str(error))
            self.assertNotIn("\n", str(error))
            return
        made.close()

    @given(anything)
    def test_arguments_of_calls(self, value):
        sampler = liblisa.Sampler(4)
        with liblisa.Optimizer(self.model) as optimizer:
            for call in (
                optimizer.set_lr,
                optimizer.gradient_norm,
                optimizer.group_steps,
                optimizer.apply_mask,
                self.model.weight_norm,
                self.model.tensor,
                sampler.mask,
            ):
                try:
                    call(value)
                except (liblisa.LisaError, TypeError) as error:
                    self.assertTrue(str(error))
        sampler.close()

    @given(st.lists(st.integers(0, 2), max_size=8) | st.binary(max_size=8))
    def test_a_mask_is_taken_whole_or_not_at_all(self, mask):
        with liblisa.Optimizer(self.model, max_active_layers=2) as optimizer:
            before = optimizer.mask
            fits = len(mask) == 6 and max(mask) < 2 and sum(mask[1:5]) <= 2
            try:
                optimizer.apply_mask(mask)
            except liblisa.LisaError:
                self.assertFalse(fits)
                self.assertEqual(optimizer.mask, before)
            else:
                self.assertTrue(fits)
                self.assertEqual(optimizer.mask, bytes(mask))

    @given(numbers)
    def test_the_longest_generation(self, max_new_tokens):
        try:
            made = self.model.generate([1, 2], max_new_tokens=max_new_tokens)
        except liblisa.InvalidArgument as error:
            self.assertRegex(str(error), "max_new_tokens|new tokens")
        else:
            self.assertEqual(len(made), max_new_tokens)


@st.composite
def sampler_options(draw):
    """Options that make sense: (keywords of Sampler, the most layers of a mask)."""
    n_layers = draw(st.integers(1, 40))
    n_active = draw(st.integers(0, n_layers))
    kind = draw(st.sampled_from([kind.name.lower() for kind in liblisa.SamplerKind]))
    options = dict(
        n_layers=n_layers,
        kind=kind,
        n_active=n_active,
        interval_steps=draw(st.integers(1, 50)),
        seed=draw(st.integers(0, 2**64 - 1)),
        first_step=draw(st.sampled_from((0, 0, 7, 2**63))),
        train_embedding=draw(st.booleans()),
        train_head=draw(st.booleans()),
    )
    if kind == "fixed":
        options["layers"] = draw(st.permutations(range(n_layers)))[:n_active]
    if kind == "weighted":
        options["weights"] = draw(
            st.lists(st.floats(0.01, 100), min_size=n_layers, max_size=n_layers)
        )
    if kind == "bernoulli":
        options["weights"] = draw(
            st.lists(st.floats(0, 1), min_size=n_layers, max_size=n_layers)
        )
        options["max_active"] = draw(st.integers(1, n_layers))
    return options


class Samplers(unittest.TestCase):
    @given(sampler_options(), st.integers(0, 2**64 - 1))
    def test_masks(self, options, step):
        first, interval = options["first_step"], options["interval_steps"]
        step = max(step, first)
        with liblisa.Sampler(**options) as sampler, liblisa.Sampler(**options) as again:
            mask = sampler.mask(step)
            self.assertEqual(len(mask), options["n_layers"] + 2)
            self.assertEqual(mask[0], options["train_embedding"])
            self.assertEqual(mask[-1], options["train_head"])
            n_drawn = sum(mask[1:-1])
            if options["kind"] == "bernoulli":
                self.assertLessEqual(n_drawn, options["max_active"])
            else:
                self.assertEqual(n_drawn, options["n_active"])
            self.assertLessEqual(n_drawn, sampler.max_active)
            if options["kind"] == "fixed":
                drawn = [layer for layer in range(options["n_layers"]) if mask[1 + layer]]
                self.assertEqual(drawn, sorted(options["layers"]))
            begin = step - (step - first) % interval
            self.assertEqual(again.mask(begin), mask)
            self.assertEqual(again.mask(min(begin + interval, 2**64) - 1), mask)

    @given(sampler_options())
    @example(
        dict(
            n_layers=7,
            kind="bernoulli",
            interval_steps=1,
            first_step=0,
            weights=[0.0, 1.0, 0.8580670447852805, 0.25, 0.25, 0.5, 0.5],
            max_active=6,
        )
    )
    def test_probabilities(self, options):
        with liblisa.Sampler(**options) as sampler:
            chances = sampler.probabilities().tolist()
            masks = [
                sampler.mask(options["first_step"] + options["interval_steps"] * period)
                for period in range(20)
            ]
        self.assertTrue(all(0 <= chance <= 1 for chance in chances))
        if options["kind"] != "bernoulli":
            self.assertAlmostEqual(sum(chances), options["n_active"], places=9)
        for layer, chance in enumerate(chances):
            drawn = {mask[1 + layer] for mask in masks}
            if chance in (0, 1):
                self.assertEqual(drawn, {int(chance)})

    @given(sampler_options())
    def test_all_layers_in_turn(self, options):
        assume(options["kind"] in ("reshuffle", "round_robin") and options["n_active"])
        n_layers, n_active = options["n_layers"], options["n_active"]
        periods = -(-n_layers // n_active)
        with liblisa.Sampler(**options) as sampler:
            masks = [
                sampler.mask(options["first_step"] + options["interval_steps"] * period)[1:-1]
                for period in range(periods)
            ]
        self.assertTrue(all(map(any, zip(*masks))))

    @given(sampler_options(), st.sampled_from((array.array, tuple, list)))
    def test_the_same_by_any_sequence(self, options, kind):
        other = dict(options)
        for name, code in (("weights", "d"), ("layers", "I")):
            if name in other:
                values = other[name]
                other[name] = array.array(code, values) if kind is array.array else kind(values)
        step = options["first_step"] + 3
        with liblisa.Sampler(**options) as first, liblisa.Sampler(**other) as second:
            self.assertEqual(first.mask(step), second.mask(step))


if __name__ == "__main__":
    unittest.main()
