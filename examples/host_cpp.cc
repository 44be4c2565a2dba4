/* host_cpp.cc - the loop in C++11: handles that destroy themselves, errors as exceptions.
 * Needs no file and no download.
 *
 *   c++ -std=c++11 host_cpp.cc $(pkg-config --cflags --libs lisa) -o host_cpp && ./host_cpp */
#include <lisa/lisa.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

class error : public std::runtime_error {
  public:
    explicit error(lisa_status code)
        : std::runtime_error(std::string(lisa_status_name(code)) + ": " + lisa_error_last()),
          status(code) {}
    const lisa_status status;
};

void must(lisa_status status) {
    if (status != LISA_OK)
        throw error(status);
}

struct destroy {
    void operator()(lisa_context *x) const {
        lisa_context_destroy(x);
    }
    void operator()(lisa_model *x) const {
        lisa_model_destroy(x);
    }
    void operator()(lisa_sampler *x) const {
        lisa_sampler_destroy(x);
    }
    void operator()(lisa_batch *x) const {
        lisa_batch_destroy(x);
    }
    void operator()(lisa_optimizer *x) const {
        lisa_optimizer_destroy(x);
    }
};

template <typename T> using handle = std::unique_ptr<T, destroy>;

/* make<lisa_batch>(lisa_batch_create, model, B, T, options) */
template <typename T, typename Create, typename... Args>
handle<T> make(Create create, Args... args) {
    T *raw = nullptr;
    must(create(&raw, args...));
    return handle<T>(raw);
}

/* An options struct with its defaults set. */
template <typename T> T options(lisa_status (*init)(T *, size_t)) {
    T value;
    must(init(&value, sizeof value));
    return value;
}

lisa_model_config small_model() {
    lisa_model_config config = options<lisa_model_config>(lisa_model_config_init);
    config.n_layers = 4;
    config.d_model = 64;
    config.n_heads = 4;
    config.n_kv_heads = 2;
    config.d_ff = 128;
    config.vocab_size = 64;
    config.max_positions = 64;
    return config;
}

double train(uint64_t n_steps) {
    const lisa_model_config config = small_model();
    auto context = make<lisa_context>(lisa_context_create, nullptr);
    auto model = make<lisa_model>(lisa_model_create, context.get(), &config, nullptr);

    auto so = options<lisa_sampler_options>(lisa_sampler_options_init);
    so.n_layers = config.n_layers;
    so.n_active = 1;
    so.interval_steps = 4;
    auto sampler = make<lisa_sampler>(lisa_sampler_create, &so);

    auto oo = options<lisa_optimizer_options>(lisa_optimizer_options_init);
    oo.lr = 3e-3;
    oo.max_active_layers = lisa_sampler_max_active(sampler.get());
    auto optimizer = make<lisa_optimizer>(lisa_optimizer_create, model.get(), &oo);
    auto batch = make<lisa_batch>(lisa_batch_create, model.get(), 2u, 32u, nullptr);

    /* Two rows that count up, in steps of 3 and of 5. */
    std::vector<int32_t> tokens(2 * 32);
    for (int32_t t = 0; t < 32; t++) {
        tokens[static_cast<size_t>(t)] = 3 * t % 64;
        tokens[static_cast<size_t>(32 + t)] = (5 * t + 1) % 64;
    }

    lisa_step_stats stats = {};
    stats.struct_size = sizeof stats;
    for (uint64_t step = 0; step < n_steps; step++) {
        must(lisa_batch_set(batch.get(), tokens.data(), nullptr, 2, 32));
        must(lisa_train_step(model.get(), sampler.get(), optimizer.get(), batch.get(), step,
                             &stats));
        if (step % 20 == 0)
            std::printf("step %3d  loss %.4f\n", static_cast<int>(step), stats.loss);
    }
    return stats.loss;
}

} // namespace

int main() {
    try {
        std::printf("last loss %.4f\n", train(100));
        /* What a mistake looks like: the text names what was wrong. */
        auto co = options<lisa_context_options>(lisa_context_options_init);
        co.backend = "an abacus";
        make<lisa_context>(lisa_context_create, &co);
    } catch (const error &e) {
        std::printf("caught %s\n", e.what());
        return e.status == LISA_E_BACKEND ? 0 : 1;
    } catch (const std::exception &e) {
        std::printf("unexpected: %s\n", e.what());
    }
    return 1;
}
