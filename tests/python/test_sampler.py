"""Masks: against an independent implementation of the documented algorithm, and their shape."""

import array
import unittest

import liblisa

WORD = 0xFFFFFFFF


def philox(key, counter):
    """Philox4x32-10: four words of a 64-bit key and a 128-bit counter (Salmon et al., SC'11)."""
    x = [counter >> shift & WORD for shift in (0, 32, 64, 96)]
    k = [key & WORD, key >> 32 & WORD]
    for _ in range(10):
        first, second = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [second >> 32 ^ x[1] ^ k[0], second & WORD, first >> 32 ^ x[3] ^ k[1], first & WORD]
        k = [(k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD]
    return x


def words(seed, period):
    """The words of a period: Philox blocks with the counter (period, block)."""
    block = 0
    while True:
        yield from philox(seed, block << 64 | period)
        block += 1


def permutation(seed, period, n, n_wanted):
    """The first n_wanted places of a Fisher-Yates shuffle, words masked and drawn again."""
    source = words(seed, period)
    items = list(range(n))
    for i in range(n_wanted):
        limit = n - i
        value = limit
        while value >= limit:
            value = next(source) & ((1 << (limit - 1).bit_length()) - 1)
        items[i], items[i + value] = items[i + value], items[i]
    return items[:n_wanted]


def layers(mask):
    """The layers that a mask lets train."""
    return [layer for layer, active in enumerate(mask[1:-1]) if active]


class Golden(unittest.TestCase):
    def test_philox_known_answers(self):
        self.assertEqual(philox(0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
        ones = philox(2**64 - 1, 2**128 - 1)
        self.assertEqual(ones, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD])

    def test_uniform(self):
        for seed, n, n_active in ((0, 32, 2), (2**64 - 1, 30, 4), (7, 5, 5), (3, 1, 1), (9, 8, 0)):
            with liblisa.Sampler(n, n_active=n_active, interval_steps=3, seed=seed) as sampler:
                for period in (0, 1, 2, 1000, 2**62):
                    expected = sorted(permutation(seed, period, n, n_active))
                    self.assertEqual(layers(sampler.mask(3 * period)), expected)
                    self.assertEqual(layers(sampler.mask(3 * period + 2)), expected)

    def test_reshuffle(self):
        with liblisa.Sampler(7, kind="reshuffle", n_active=3, interval_steps=1, seed=5) as sampler:
            for epoch in range(4):
                order = permutation(5, epoch, 7, 7)
                deals = [order[0:3], order[3:6], order[6:] + order[:2]]
                masks = [layers(sampler.mask(3 * epoch + deal)) for deal in range(3)]
                self.assertEqual(masks, [sorted(deal) for deal in deals])

    def test_round_robin(self):
        with liblisa.Sampler(5, kind="round_robin", interval_steps=2) as sampler:
            drawn = [layers(sampler.mask(step)) for step in range(0, 10, 2)]
        self.assertEqual(drawn, [[0, 1], [2, 3], [0, 4], [1, 2], [3, 4]])
        with liblisa.Sampler(5, kind="round_robin", interval_steps=1, descending=True) as sampler:
            self.assertEqual(layers(sampler.mask(0)), [3, 4])

    def test_fixed(self):
        for given in ([3, 1], array.array("I", [3, 1]), (1, 3)):
            with liblisa.Sampler(4, kind="fixed", layers=given) as sampler:
                self.assertEqual(sampler.mask(123), bytes([1, 0, 1, 0, 1, 1]))
                self.assertEqual(sampler.max_active, 2)

    def test_bernoulli(self):
        with liblisa.Sampler(
            4, kind="bernoulli", weights=[0, 1, 0.5, 0.5], max_active=3, interval_steps=1
        ) as sampler:
            drawn = {tuple(layers(sampler.mask(step))) for step in range(64)}
            self.assertEqual(sampler.max_active, 3)
        self.assertEqual(drawn, {(1,), (1, 2), (1, 3), (1, 2, 3)})

    def test_weighted(self):
        weights = [8, 1, 1, 1, 1]
        with liblisa.Sampler(5, kind="weighted", weights=weights, interval_steps=1) as sampler:
            self.assertEqual(sampler.probabilities().tolist(), [1, 0.25, 0.25, 0.25, 0.25])
            drawn = [layers(sampler.mask(step)) for step in range(50)]
        self.assertTrue(all(len(mask) == 2 and mask[0] == 0 for mask in drawn))
        self.assertEqual({mask[1] for mask in drawn}, {1, 2, 3, 4})


class Shape(unittest.TestCase):
    def test_mask_and_groups(self):
        with liblisa.Sampler(6, train_embedding=False) as sampler:
            mask = sampler.mask(0)
            self.assertIsInstance(mask, bytes)
            self.assertEqual((len(mask), sampler.n_groups), (8, 8))
            self.assertEqual((mask[0], mask[-1], sum(mask)), (0, 1, 3))

    def test_probabilities(self):
        with liblisa.Sampler(8, n_active=2) as sampler:
            self.assertEqual(sampler.probabilities().tolist(), [0.25] * 8)

    def test_first_step(self):
        with liblisa.Sampler(8, first_step=100, interval_steps=10) as late:
            with liblisa.Sampler(8, interval_steps=10) as early:
                self.assertEqual(late.mask(125), early.mask(25))
            with self.assertRaisesRegex(liblisa.InvalidArgument, "first_step"):
                late.mask(99)

    def test_number_of_values(self):
        with self.assertRaisesRegex(liblisa.InvalidArgument, "weights"):
            liblisa.Sampler(4, kind="weighted", weights=[1, 2, 3])
        with self.assertRaisesRegex(liblisa.InvalidArgument, "layers"):
            liblisa.Sampler(4, kind="fixed", layers=[1, 2], n_active=3)


if __name__ == "__main__":
    unittest.main()
