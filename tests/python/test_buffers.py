"""Arrays in and out: lists, array, memoryview, bytes, ctypes, and numpy where it is there."""

import array
import ctypes
import unittest

import liblisa
from liblisa._buffers import c_array, c_floats, float_output, new_array
from support import tiny_model, tokens

try:
    import numpy
except ImportError:
    numpy = None

try:
    import torch
except ImportError:
    torch = None


class Inputs(unittest.TestCase):
    def values(self, data, ctype=ctypes.c_int32):
        result = c_array(data, ctype, "data")
        return list(result.data), result.shape

    def test_sequences(self):
        for data in ([1, 2, 3], (1, 2, 3), range(1, 4), iter([1, 2, 3])):
            self.assertEqual(self.values(data), ([1, 2, 3], (3,)))
        self.assertEqual(self.values([[1, 2], (3, 4), array.array("i", [5, 6])])[1], (3, 2))
        self.assertEqual(self.values([]), ([], (0,)))

    def test_buffers(self):
        numbers = array.array("i", [1, 2, 3, 4])
        square = memoryview(numbers).cast("B").cast("i", [2, 2])
        self.assertEqual(self.values(numbers), ([1, 2, 3, 4], (4,)))
        self.assertEqual(self.values(square), ([1, 2, 3, 4], (2, 2)))
        self.assertEqual(self.values(memoryview(numbers)[::2]), ([1, 3], (2,)))
        self.assertEqual(self.values((ctypes.c_int32 * 2)(7, 8)), ([7, 8], (2,)))
        self.assertEqual(self.values(memoryview(numbers).toreadonly())[0], [1, 2, 3, 4])
        self.assertEqual(self.values(array.array("i")), ([], (0,)))

    def test_other_types_are_converted(self):
        self.assertEqual(self.values(array.array("q", [1, -2]))[0], [1, -2])
        self.assertEqual(self.values(b"\x01\x02")[0], [1, 2])
        self.assertEqual(self.values((ctypes.c_int64 * 2)(7, 8))[0], [7, 8])
        self.assertEqual(self.values([1, 2], ctypes.c_double)[0], [1.0, 2.0])

    def test_same_type_is_not_copied(self):
        numbers = array.array("i", [1, 2])
        c_array(numbers, ctypes.c_int32, "data").data[0] = 9
        self.assertEqual(numbers[0], 9)

    def test_refusals(self):
        for data in ([2**31], [-(2**31) - 1], array.array("q", [2**40])):
            with self.assertRaisesRegex(liblisa.InvalidArgument, "data"):
                c_array(data, ctypes.c_int32, "data")
        for data in ([1.5], ["a"], array.array("d", [1.0]), 7, None):
            with self.assertRaises(TypeError):
                c_array(data, ctypes.c_int32, "data")
        with self.assertRaisesRegex(liblisa.InvalidArgument, "equal length"):
            c_array([[1, 2], [3]], ctypes.c_int32, "data")

    def test_floats_keep_their_width(self):
        self.assertEqual(c_floats(array.array("f", [1.5]), "x")[1], liblisa.DType.F32)
        self.assertEqual(c_floats(array.array("d", [1.5]), "x")[1], liblisa.DType.F64)
        self.assertEqual(c_floats([1.5], "x")[1], liblisa.DType.F64)


class Outputs(unittest.TestCase):
    def test_new_array(self):
        view, data = new_array(ctypes.c_float, [2, 3])
        data[5] = 2.5
        self.assertEqual((view.shape, view[1, 2], view.format), ((2, 3), 2.5, "f"))
        self.assertEqual(new_array(ctypes.c_float, [0, 3])[0].nbytes, 0)

    def test_callers_array(self):
        own = array.array("d", [0.0] * 4)
        result, data, dtype = float_output(own, liblisa.DType.F32, [4])
        data[3] = 2.5
        self.assertIs(result, own)
        self.assertEqual((own[3], dtype), (2.5, liblisa.DType.F64))

    def test_refusals(self):
        for out in (bytes(8), array.array("i", [0]), memoryview(array.array("f", [0] * 4))[::2]):
            with self.assertRaises(liblisa.InvalidArgument):
                float_output(out, liblisa.DType.F32, [1])
        with self.assertRaises(liblisa.InvalidArgument):
            float_output(None, liblisa.DType.BF16, [1])


class Tensors(unittest.TestCase):
    def setUp(self):
        self.model = tiny_model(liblisa.Context())
        self.info = self.model.tensors()[0]

    def test_info(self):
        infos = self.model.tensors()
        self.assertEqual([info.index for info in infos], list(range(len(infos))))
        self.assertEqual(self.info.name, "model.embed_tokens.weight")
        self.assertEqual((self.info.shape, self.info.dtype, self.info.group), ((48, 16), 1, 0))
        self.assertEqual({info.group for info in infos}, set(range(6)))
        for info in infos:
            self.assertEqual(self.model.tensor(info.name), info)

    def test_read(self):
        single = self.model.tensor_read(self.info.name)
        double = self.model.tensor_read(self.info.index, dtype="f64")
        self.assertEqual((single.shape, single.format), ((48, 16), "f"))
        self.assertEqual((double.shape, double.format), ((48, 16), "d"))
        self.assertEqual(single.tolist(), double.tolist())
        self.assertGreater(max(single.tolist()[0]), 0)

    def test_read_into(self):
        own = array.array("f", bytes(4 * 48 * 16))
        self.assertIs(self.model.tensor_read(0, out=own), own)
        self.assertEqual(memoryview(own)[17], self.model.tensor_read(0)[1, 1])
        with self.assertRaises(liblisa.InvalidArgument):
            self.model.tensor_read(0, out=array.array("f", bytes(4)))

    def test_write(self):
        rows = [[row + column / 16 for column in range(16)] for row in range(48)]
        flat = [value for row in rows for value in row]
        for data in (rows, flat, array.array("f", flat), array.array("d", flat)):
            self.model.tensor_write(0, [0.0] * (48 * 16))
            self.model.tensor_write(0, data)
            self.assertEqual(self.model.tensor_read(0).tolist(), rows)
        self.model.tensor_write(0, self.model.tensor_read(0, dtype="f64"))
        self.assertEqual(self.model.tensor_read(0).tolist(), rows)

    def test_wrong_size_or_shape(self):
        for data in ([0.0] * 7, [[0.0] * 48] * 16):
            with self.assertRaises(liblisa.InvalidArgument):
                self.model.tensor_write(0, data)

    def test_weight_norm(self):
        values = memoryview(self.model.tensor_read(0, dtype="f64")).cast("B").cast("d")
        self.assertAlmostEqual(
            self.model.weight_norm(0), sum(value * value for value in values) ** 0.5, places=12
        )


class Batches(unittest.TestCase):
    def setUp(self):
        self.model = tiny_model(liblisa.Context())
        self.batch = liblisa.Batch(self.model, 2, 12)

    def test_one_sequence(self):
        self.batch.set(tokens()[0])
        self.assertEqual((self.batch.shape, self.batch.n_targets), ((1, 12), 11))

    def test_targets_documents_weights(self):
        rows = tokens()
        self.batch.set(rows, [[liblisa.IGNORE_LABEL] * 6 + row[6:] for row in rows])
        self.assertEqual(self.batch.n_targets, 12)
        self.batch.set(rows, documents=[[0] * 6 + [1] * 6] * 2)
        self.assertEqual(self.batch.n_targets, 20)
        self.batch.set(rows, weights=[[1.0] * 11 + [0.0]] * 2)
        weighted = self.model.evaluate(self.batch).loss
        self.batch.set(rows, [row[:11] + [liblisa.IGNORE_LABEL] for row in rows])
        self.assertAlmostEqual(self.model.evaluate(self.batch).loss, weighted, places=6)

    def test_shapes_must_agree(self):
        with self.assertRaisesRegex(liblisa.InvalidArgument, "targets: expected the tokens' shape"):
            self.batch.set(tokens(), tokens()[0])
        with self.assertRaisesRegex(liblisa.InvalidArgument, "shape"):
            self.batch.set(memoryview(bytes(32)).cast("i", [2, 2, 2]))
        with self.assertRaises(liblisa.InvalidArgument):
            self.batch.set([[48]])

    def test_inputs_give_the_same_loss(self):
        rows = tokens()
        flat = array.array("i", [token for row in rows for token in row])
        losses = set()
        for data in (rows, memoryview(flat).cast("B").cast("i", [2, 12])):
            self.batch.set(data)
            losses.add(self.model.evaluate(self.batch).loss)
        self.assertEqual(len(losses), 1)


@unittest.skipUnless(numpy, "numpy is not installed")
class Numpy(unittest.TestCase):
    def setUp(self):
        self.model = tiny_model(liblisa.Context())

    def test_tokens(self):
        batch = liblisa.Batch(self.model, 2, 12)
        losses = set()
        for dtype in (numpy.int32, numpy.int64, numpy.uint16, ">i4"):
            rows = numpy.array(tokens(), dtype=dtype)
            for data in (rows, numpy.asfortranarray(rows)):
                batch.set(data, targets=data)
                losses.add(self.model.evaluate(batch).loss)
        self.assertEqual(len(losses), 1)
        self.assertEqual(
            self.model.generate(numpy.array([1, 2]), max_new_tokens=3),
            self.model.generate([1, 2], max_new_tokens=3),
        )

    def test_tensors(self):
        weights = numpy.asarray(self.model.tensor_read(0))
        self.assertEqual((weights.shape, weights.dtype), ((48, 16), numpy.float32))
        for changed in (weights * 2, numpy.asfortranarray(weights * 2), (weights * 2).T.copy().T):
            self.model.tensor_write(0, changed)
            out = numpy.zeros((48, 16), numpy.float64)
            self.assertIs(self.model.tensor_read(0, out=out), out)
            self.assertTrue((out == weights * 2).all())


@unittest.skipUnless(torch, "PyTorch is not installed")
class Torch(unittest.TestCase):
    def test_borrowed_where_type_and_layout_allow(self):
        tensor = torch.arange(6, dtype=torch.int32).reshape(2, 3)
        got = c_array(tensor, ctypes.c_int32, "x")
        self.assertEqual((ctypes.addressof(got.data), got.shape), (tensor.data_ptr(), (2, 3)))
        weights = torch.ones(4)
        got, dtype = c_floats(weights, "x")
        self.assertEqual(ctypes.addressof(got.data), weights.data_ptr())
        self.assertEqual(dtype, liblisa.DType.F32)

    def test_the_values_of_others(self):
        tensor = torch.arange(6).reshape(2, 3)
        for given in (tensor, tensor.T.contiguous().T, tensor.to(torch.uint8), tensor[:, :]):
            got = c_array(given, ctypes.c_int32, "x")
            self.assertEqual((list(got.data), got.shape), ([0, 1, 2, 3, 4, 5], (2, 3)))
        half = torch.tensor([0.5, 1.5])
        for given in (half.bfloat16(), half.half(), half.double(), half.requires_grad_()):
            self.assertEqual(list(c_floats(given, "x")[0].data), [0.5, 1.5])
        with self.assertRaisesRegex(TypeError, "x: "):
            c_array(half, ctypes.c_int32, "x")

    def test_training(self):
        model = tiny_model(liblisa.Context())
        batch = liblisa.Batch(model, 2, 12)
        rows = tokens()
        losses = set()
        for given in (rows, torch.tensor(rows), torch.tensor(rows, dtype=torch.int32)):
            batch.set(given, given)
            losses.add(model.evaluate(batch).loss)
        self.assertEqual(len(losses), 1)
        weights = torch.from_numpy(numpy.asarray(model.tensor_read(0)))
        model.tensor_write(0, weights * 2)
        self.assertTrue(torch.equal(torch.tensor(model.tensor_read(0).tolist()), weights * 2))
        with self.assertRaisesRegex(TypeError, "out: expected a buffer"):
            model.tensor_read(0, out=weights)
        out = torch.zeros(48, 16)
        model.tensor_read(0, out=out.numpy())
        self.assertTrue(torch.equal(out, weights * 2))


if __name__ == "__main__":
    unittest.main()
