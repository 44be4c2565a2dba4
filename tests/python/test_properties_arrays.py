"""Arrays of any type, order, stride and shape: the values that numpy has, without a copy where the
C library can borrow them, and otherwise refused in words."""

import array
import ctypes
import operator
import unittest

import properties  # noqa: F401  (first: skips where hypothesis is missing)
import liblisa
from hypothesis import given
from hypothesis import strategies as st
from liblisa._buffers import CODES, c_array, c_floats, float_output
from support import tiny_model

try:
    import numpy
except ImportError:
    numpy = None

INTEGERS = (ctypes.c_int32, ctypes.c_uint32, ctypes.c_uint8)
FLOATS = (ctypes.c_float, ctypes.c_double)
REFUSED = (liblisa.InvalidArgument, TypeError)

ctypes_of_integers = st.sampled_from(INTEGERS)
integers = st.one_of(
    st.integers(-3, 300), st.integers(-(2**33), 2**33), st.integers(-(2**70), 2**70)
)


def limits(ctype):
    """The least and the largest value of an integer type."""
    bits = 8 * ctypes.sizeof(ctype)
    signed = ctype(-1).value < 0
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def nested(values, shape):
    """Values in order as lists of lists."""
    for extent in reversed(shape[1:]):
        values = [values[i : i + extent] for i in range(0, len(values), extent)]
    return values


class Sequences(unittest.TestCase):
    @given(st.lists(integers, max_size=9), ctypes_of_integers)
    def test_integers_are_exact_or_refused(self, values, ctype):
        least, largest = limits(ctype)
        if all(least <= value <= largest for value in values):
            self.assertEqual(list(c_array(values, ctype, "x").data), values)
        else:
            with self.assertRaisesRegex(liblisa.InvalidArgument, "x: "):
                c_array(values, ctype, "x")

    @given(
        st.recursive(
            st.one_of(
                integers, st.floats(), st.text(max_size=2), st.none(), st.booleans(), st.binary()
            ),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(), inner),
            max_leaves=8,
        ),
        st.sampled_from(INTEGERS + FLOATS),
    )
    def test_anything_else_is_refused_in_words(self, data, ctype):
        try:
            values, shape = c_array(data, ctype, "x")
        except REFUSED as error:
            self.assertRegex(str(error), "^x: ")
        else:
            count = 1
            for extent in shape:
                count *= extent
            self.assertEqual(len(values), count)

    @given(
        st.sampled_from("bBhHiIlLqQfd"),
        st.lists(st.integers(0, 127), min_size=1, max_size=12),
        st.sampled_from(INTEGERS + FLOATS),
        st.integers(1, 3),
        st.booleans(),
    )
    def test_arrays_and_memoryviews(self, code, values, ctype, stride, readonly):
        data = array.array(code, values)
        view = memoryview(data)[::stride]
        if readonly:
            view = view.toreadonly()
        for given_data, expected in ((data, values), (view, values[::stride])):
            if code in "fd" and ctype in INTEGERS:
                with self.assertRaisesRegex(TypeError, "x: "):
                    c_array(given_data, ctype, "x")
            else:
                got = c_array(given_data, ctype, "x")
                self.assertEqual((list(got.data), got.shape), (expected, (len(expected),)))

    @given(st.sampled_from(INTEGERS + FLOATS), st.lists(st.integers(0, 9), min_size=1))
    def test_what_can_be_borrowed_is(self, ctype, values):
        data = array.array(CODES[ctype], values)
        borrowed = c_array(data, ctype, "x").data
        self.assertEqual(ctypes.addressof(borrowed), data.buffer_info()[0])
        borrowed[0] = 77
        self.assertEqual(data[0], 77)


if numpy:
    from hypothesis.extra import numpy as arrays

    shapes = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
    kinds = st.one_of(
        arrays.boolean_dtypes(),
        arrays.integer_dtypes(endianness="?"),
        arrays.unsigned_integer_dtypes(endianness="?"),
        arrays.floating_dtypes(endianness="?"),
        arrays.complex_number_dtypes(),
        arrays.byte_string_dtypes(max_len=2),
    )
    times = arrays.datetime64_dtypes()  # which numpy shows nobody the memory of

    @st.composite
    def ndarrays(draw, dtypes=kinds):
        """Arrays, and views of arrays: of another order, with strides, backward, read-only."""
        whole = draw(arrays.arrays(draw(dtypes), draw(shapes)))
        axes = draw(st.permutations(range(whole.ndim)))
        steps = st.sampled_from((1, 1, 2, -1, -2))
        view = whole.transpose(axes)[tuple(slice(None, None, draw(steps)) for _ in axes)]
        if draw(st.booleans()):
            view = numpy.asfortranarray(view)
        if draw(st.booleans()):
            view.flags.writeable = False
        return view


@unittest.skipUnless(numpy, "numpy is not installed")
class Numpy(unittest.TestCase):
    if numpy:

        @given(ndarrays(), st.sampled_from(INTEGERS + FLOATS))
        def test_values_and_shape_are_numpys(self, data, ctype):
            try:
                got = c_array(data, ctype, "x")
            except REFUSED as error:
                self.assertRegex(str(error), "^x: ")
                exact = ctype in FLOATS or data.dtype.kind in "biu"
                least, largest = limits(ctype) if ctype in INTEGERS else (-numpy.inf, numpy.inf)
                if data.dtype.kind in "biuf" and exact and data.size:
                    self.assertFalse(data.min() >= least and data.max() <= largest)
                return
            self.assertEqual(got.shape, data.shape)
            self.assertTrue(ctype in FLOATS or data.dtype.kind in "biu" or data.size == 0)
            with numpy.errstate(over="ignore"):
                expected = data.astype(CODES[ctype]) if data.size else numpy.zeros(0)
            numpy.testing.assert_array_equal(list(got.data), expected.ravel())

        @given(ndarrays(st.sampled_from(("i4", "u4", "u1", "f4", "f8"))))
        def test_what_can_be_borrowed_is(self, data):
            (ctype,) = [ctype for ctype, code in CODES.items() if code == data.dtype.char]
            got = c_array(data, ctype, "x").data
            borrowed = data.size > 0 and ctypes.addressof(got) == data.ctypes.data
            if data.size:
                possible = data.flags.c_contiguous and data.flags.writeable
                self.assertEqual(borrowed, possible)

        @given(ndarrays(arrays.floating_dtypes(endianness="?")))
        def test_floats_keep_their_width(self, data):
            got, dtype = c_floats(data, "x")
            single = data.dtype == numpy.float32
            self.assertEqual(dtype, liblisa.DType.F32 if single else liblisa.DType.F64)
            numpy.testing.assert_array_equal(list(got.data), data.astype("f8").ravel())

        @given(ndarrays(kinds | times))
        def test_outputs_are_filled_in_place_or_refused(self, data):
            try:
                result, got, dtype = float_output(data, liblisa.DType.F32, data.shape)
            except REFUSED as error:
                self.assertRegex(str(error), "^out: ")
                native = data.dtype in (numpy.float32, numpy.float64) and data.dtype.isnative
                self.assertFalse(
                    native and data.flags.c_contiguous and data.flags.writeable and data.size
                )
                return
            self.assertIs(result, data)
            if data.size:
                self.assertEqual(ctypes.addressof(got), data.ctypes.data)
                self.assertEqual(8 * ctypes.sizeof(got._type_), {1: 32, 4: 64}[dtype])


class Tokens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = tiny_model(liblisa.Context(n_threads=1))
        cls.batch = liblisa.Batch(cls.model, 2, 8)

    @given(
        st.lists(st.integers(0, 47), min_size=4, max_size=16),
        st.sampled_from("bBhHiIlLqQ"),
        st.integers(1, 2),
    )
    def test_one_loss_for_all_that_holds_the_same_tokens(self, tokens, code, n_rows):
        tokens = tokens[: 8 * n_rows]
        tokens = tokens[: len(tokens) // n_rows * n_rows]
        shape = (n_rows, len(tokens) // n_rows)
        lists = nested(tokens, shape)
        flat = array.array(code, tokens)
        forms = [lists, tuple(map(tuple, lists)), [array.array(code, row) for row in lists]]
        forms.append(memoryview(flat).cast("B").cast(code, shape))
        if numpy:
            wide = numpy.array(lists, code)
            forms += [wide, numpy.asfortranarray(wide), wide.repeat(2, 1)[:, ::2]]
        losses = set()
        for form in forms:
            self.batch.set(form)
            self.assertEqual(self.batch.shape, shape)
            losses.add(self.model.evaluate(self.batch).loss)
        self.assertEqual(len(losses), 1)

    @given(
        st.lists(st.lists(integers, max_size=9), max_size=3),
        st.lists(st.lists(integers, max_size=9), max_size=3),
    )
    def test_a_refusal_leaves_the_batch_as_it_was(self, tokens, labels):
        self.batch.set([[1, 2, 3]])
        before = self.model.evaluate(self.batch).loss
        try:
            self.batch.set(tokens, labels)
        except REFUSED:
            self.assertEqual(self.batch.shape, (1, 3))
            self.assertEqual(self.model.evaluate(self.batch).loss, before)
        else:
            self.assertEqual(self.batch.shape, (len(tokens), len(tokens[0])))
            self.assertTrue(all(0 <= operator.index(t) < 48 for row in tokens for t in row))


if __name__ == "__main__":
    unittest.main()
