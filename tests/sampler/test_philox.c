/* Philox against the known answers of its authors, and against their own code where it is there. */
#include "sampler/philox.h"

#include "check_main.h"

#if defined(__has_include)
#if __has_include(<Random123/philox.h>)
#define HAS_RANDOM123 1
#endif
#endif

#ifdef HAS_RANDOM123
#include <Random123/philox.h>
#endif

static void expect(uint64_t key, uint64_t a, uint64_t b, const uint32_t expected[4]) {
    uint32_t out[4];
    lisa__philox(key, a, b, out);
    for (int i = 0; i < 4; i++)
        ck_assert_msg(out[i] == expected[i], "key %llx counter %llx %llx word %d: %08x, not %08x",
                      (unsigned long long)key, (unsigned long long)b, (unsigned long long)a, i,
                      out[i], expected[i]);
}

START_TEST(gives_the_known_answers) {
    expect(0, 0, 0, (const uint32_t[4]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    expect(UINT64_MAX, UINT64_MAX, UINT64_MAX,
           (const uint32_t[4]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    expect(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e,
           (const uint32_t[4]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}
END_TEST

#ifdef HAS_RANDOM123
static uint64_t scramble(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state ^ (*state >> 29);
}

START_TEST(agrees_with_random123) {
    uint64_t state = 1;
    for (int i = 0; i < 100000; i++) {
        const uint64_t key = scramble(&state);
        const uint64_t a = i % 3 == 0 ? (uint64_t)i : scramble(&state);
        const uint64_t b = i % 5 == 0 ? (uint64_t)i : scramble(&state);
        const philox4x32_ctr_t counter = {
            {(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)}};
        const philox4x32_key_t key_words = {{(uint32_t)key, (uint32_t)(key >> 32)}};
        const philox4x32_ctr_t oracle = philox4x32(counter, key_words);
        expect(key, a, b, oracle.v);
    }
}
END_TEST
#endif

static Suite *make_suite(void) {
    Suite *suite = suite_create("philox");
    TCase *tcase = tcase_create("philox");
    tcase_add_test(tcase, gives_the_known_answers);
#ifdef HAS_RANDOM123
    tcase_add_test(tcase, agrees_with_random123);
#endif
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
