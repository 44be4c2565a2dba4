/* Replays the seeds of tests/fuzz/corpus, whole and damaged, through every fuzz entry. */
#define LISA_FUZZ_REPLAY
#include "../fuzz/fuzz_adapter.c"
#include "../fuzz/fuzz_batch.c"
#include "../fuzz/fuzz_checkpoint.c"
#include "../fuzz/fuzz_config.c"
#include "../fuzz/fuzz_header.c"
#include "../fuzz/fuzz_index.c"
#include "check_main.h"
#include "noise.h"

#include <dirent.h>
#include <stdio.h>

#define MAX_SEED 65536
#define N_DAMAGED 1500 /* per seed */

static const struct {
    const char *name;
    int (*entry)(const uint8_t *data, size_t size);
} targets[] = {{"header", fuzz_header},   {"index", fuzz_index},           {"config", fuzz_config},
               {"adapter", fuzz_adapter}, {"checkpoint", fuzz_checkpoint}, {"batch", fuzz_batch}};

static uint8_t seed[MAX_SEED], damaged[MAX_SEED];

/* Some of what changes the meaning of JSON or of a length. */
static const char *const tokens[] = {
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\u0000",
    "null",
    "-1",
    "1e9",
    "0.5",
    "99999999999999999999",
    "\"\":",
    "9223372036854775807",
    "\xff",
    "\\ud800",
    "\n",
    "..",
    "/",
};

static size_t damage_once(size_t n, uint64_t *state) {
    const size_t at = n == 0 ? 0 : noise_below(state, (uint32_t)n);
    const char *token = tokens[noise_below(state, sizeof tokens / sizeof *tokens)];
    const size_t length = strlen(token);
    switch (noise_below(state, 5)) {
    case 0: /* another byte */
        if (n > 0)
            damaged[at] ^= (uint8_t)(1u << noise_below(state, 8));
        return n;
    case 1: /* an early end */
        return at;
    case 2: /* a piece left out */
    {
        const size_t gone = n - at < 8 ? n - at : 1 + noise_below(state, 8);
        memmove(damaged + at, damaged + at + gone, n - at - gone);
        return n - gone;
    }
    case 3: /* a token more */
        memmove(damaged + at + length, damaged + at, n - at);
        memcpy(damaged + at, token, length);
        return n + length;
    default: /* a token instead */
        memcpy(damaged + at, token, length < n - at ? length : n - at);
        return n;
    }
}

static void replay_file(const char *path, size_t target) {
    uint64_t state = 1;
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    const size_t n = fread(seed, 1, MAX_SEED / 2, file);
    fclose(file);
    targets[target].entry(seed, n);
    for (int i = 0; i < N_DAMAGED; i++) {
        size_t now = n;
        memcpy(damaged, seed, n);
        for (uint32_t rounds = 1 + noise_below(&state, 4); rounds > 0; rounds--)
            now = damage_once(now, &state);
        targets[target].entry(damaged, now);
    }
}

START_TEST(replays) {
    char path[4096];
    int n_seeds = 0;
    snprintf(path, sizeof path, "%s/../fuzz/corpus/%s", LISA_TEST_DATA, targets[_i].name);
    DIR *dir = opendir(path);
    ck_assert_msg(dir != NULL, "%s", path);
    const size_t length = strlen(path);
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path + length, sizeof path - length, "/%s", entry->d_name);
        replay_file(path, (size_t)_i);
        n_seeds++;
    }
    closedir(dir);
    ck_assert_int_gt(n_seeds, 3);
    lisa__io = &lisa__io_system;
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("corpus");
    TCase *tests = tcase_create("corpus");
    tcase_add_loop_test(tests, replays, 0, sizeof targets / sizeof *targets);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
